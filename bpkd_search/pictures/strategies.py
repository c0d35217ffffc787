"""A picture of simulated strategies: the best so far against GPU-seconds, median and quartiles over seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from bpkd_search.files import replacing
from bpkd_search.imports import require
from bpkd_search.search.simulate import Outcome

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")


def draw(outcomes: Mapping[str, Sequence[Outcome]], metric: str, target: float, path: Path) -> Path:
    """Write the picture as PNG or SVG, depending on the suffix of `path`.

    Raises `MissingPackageError` without matplotlib.
    """
    figure = require("matplotlib.figure", "plots", "--picture").Figure(
        figsize=(7.2, 4.2), dpi=150, layout="constrained"
    )
    axes = figure.add_subplot()
    end = max(run.curve[-1][0] for runs in outcomes.values() for run in runs)
    grid = np.linspace(0, end, 400)
    for (name, runs), colour in zip(outcomes.items(), COLOURS * len(outcomes), strict=False):
        steps = np.array([_at(run, grid) for run in runs])
        low, middle, high = np.quantile(steps, [0.25, 0.5, 0.75], axis=0, method="nearest")
        axes.step(grid, middle, where="post", color=colour, label=name, linewidth=1.8)
        axes.fill_between(grid, low, high, step="post", color=colour, alpha=0.15, linewidth=0)
    axes.axhline(target, color="0.4", linestyle=":", linewidth=1, label="target")
    axes.set_xlabel("GPU-seconds spent by all trials")
    axes.set_ylabel(f"best {metric} at full budget")
    finite = [value for runs in outcomes.values() for run in runs for _, value in run.curve if np.isfinite(value)]
    axes.set_ylim(float(np.quantile(finite, 0.05)) - 0.01, max(finite) + 0.01)
    axes.set_xlim(0, end)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, loc="lower right")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    with replacing(path) as partial:
        figure.savefig(partial, format=path.suffix[1:] or "png")
    return path


def _at(run: Outcome, grid: np.ndarray) -> np.ndarray:
    spent = np.array([s for s, _ in run.curve])
    best = np.array([b for _, b in run.curve])
    index = np.searchsorted(spent, grid, side="right") - 1
    return np.where(index >= 0, best[np.maximum(index, 0)], -np.inf)
