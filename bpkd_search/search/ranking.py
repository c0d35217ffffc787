"""What ranks a search: which full-budget trials are best, and which constraints a trial breaks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bpkd_search.config.points import PLAIN_BASELINES
from bpkd_search.config.search import Search
from bpkd_search.errors import ConfigError
from bpkd_search.experiment.schema import BASELINE, COMPLETE, REPLICATE
from bpkd_search.experiment.trial import Trial
from bpkd_search.metrics.table import COSTS, SCORES

_GPU_ONLY = ("peak_memory_mb",)


def ranked(trials: Iterable[Trial], metric: str) -> list[Trial]:
    """The trials that ran their full budget, best first: highest `metric`, ties by number.

    Trials that break a constraint come after all others, and replicates, no settings of their own, are left out.
    `Leaderboard.trials` orders the rows of its tables alike, with replicates after all others that ran in full.
    """
    full = [trial for trial in trials if trial.state == COMPLETE and trial.origin != REPLICATE]
    return sorted(full, key=lambda trial: (trial.feasible is False, -trial.last()[metric], trial.number))


def violations(search: Search, report: Mapping[str, Any], trials: Iterable[Trial]) -> dict[str, float]:
    """By how much a report breaks each constraint that can be judged: above zero where it does.

    `trials` are those of the search so far; `baseline` in a constraint is the best plain baseline among them.
    """
    known, found = list(trials), {}
    for text, (metric, relation, bound) in zip(search.constraints, search.limits(), strict=True):
        limit = best_plain_baseline(known, metric) if bound == "baseline" else float(bound)
        value = report.get(metric)
        if limit is not None and value is not None:
            found[text] = value - limit if relation == "<=" else limit - value
    return found


def best_plain_baseline(trials: Iterable[Trial], metric: str) -> float | None:
    """The highest `metric` that a plain baseline reached at full budget; None before the first has."""
    reached = [
        trial.last()[metric]
        for trial in trials
        if trial.origin == BASELINE and trial.method in PLAIN_BASELINES and trial.state == COMPLETE
    ]
    return max(reached, default=None)


def worst(among: Iterable[Sequence[float]], directions: Iterable[str]) -> list[float] | None:
    """The worst value of each objective (`max` or `min`), by a tenth of its range worse; None among none."""
    columns = list(zip(*among, strict=True))
    if not columns:
        return None
    found = []
    for column, direction in zip(columns, directions, strict=True):
        margin = 0.1 * (max(column) - min(column))
        found.append(min(column) - margin if direction == "max" else max(column) + margin)
    return found


def require_measured(search: Search, on_gpu: bool) -> None:
    """Check that what a search optimises and constrains is measured. Raises `ConfigError` for GPU memory on a CPU."""
    if on_gpu:
        return
    optimised = [f"search.objectives.{name}" for name in search.goals if name in _GPU_ONLY]
    limited = [f"search.constraints.{i}" for i, (name, _, _) in enumerate(search.limits()) if name in _GPU_ONLY]
    if faults := optimised + limited:
        valid = ", ".join(name for name in (*SCORES, *COSTS) if name not in _GPU_ONLY)
        raise ConfigError(
            [f"{path}: peak_memory_mb is measured on a GPU only; valid on a CPU: {valid}" for path in faults], "search"
        )
