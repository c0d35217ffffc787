"""Where the reports of simulated trials come from: recorded trials, or made-up learning curves."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd

from bpkd_search.config.distributions import apart, distance
from bpkd_search.config.models import SearchConfig
from bpkd_search.config.paths import find
from bpkd_search.config.points import Point, to_tree
from bpkd_search.errors import ExperimentError
from bpkd_search.experiment.schema import BASELINE
from bpkd_search.experiment.trial import Trial
from bpkd_search.metrics.table import COSTS, SCORES
from bpkd_search.results.leaderboard import Leaderboard

Report = dict[str, Any]


class Backend(Protocol):
    """Where a simulated trial's reports come from."""

    def report(self, trial: Trial, epoch: int) -> Report:
        """The report of an epoch, with `gpu_seconds` since the trial's start and `final` after the last."""


class TableBackend:
    """Recorded trials: a proposal gets the curve of the nearest recorded point of the space.

    `table` holds a row an epoch of a trial: `number`, `epoch`, `gpu_seconds`, the metrics, and a column for every
    parameter of the space. Nearness is the root mean square of the distances by parameter, each a share of its
    range. Trials that were not recorded to the highest epoch are left out. Raises `ExperimentError`.
    """

    def __init__(self, table: pd.DataFrame, config: SearchConfig) -> None:
        needed = ["number", "epoch", "gpu_seconds", *config.search.goals, *config.space]
        if missing := [name for name in needed if name not in table]:
            raise ExperimentError(f"table: has no column {', '.join(missing)}")
        self.config = config
        self.epochs = int(table["epoch"].max())
        if self.epochs != config.train.rounds():
            raise ExperimentError(
                f"table: holds trials of {self.epochs} epochs and train.epochs is {config.train.rounds()};"
                f" say --set train.epochs={self.epochs}"
            )
        curves = {int(str(n)): rows.sort_values("epoch") for n, rows in table.groupby("number")}
        self.curves: dict[int, list[dict[str, Any]]] = {
            n: [{str(k): v for k, v in row.items()} for row in rows.to_dict("records")]
            for n, rows in curves.items()
            if len(rows) == self.epochs
        }
        if not self.curves:
            raise ExperimentError(f"table: holds no trial with every epoch up to {self.epochs}")
        self._points = {n: _present({path: rows[0][path] for path in config.space}) for n, rows in self.curves.items()}

    def nearest(self, trial: Trial) -> int:
        """The recorded trial nearest to a proposal."""
        tree, space = to_tree(trial.run), self.config.space
        point = _present({path: find(tree, path) for path in space})
        return min(self.curves, key=lambda number: apart(space, point, self._points[number]))

    def report(self, trial: Trial, epoch: int) -> Report:
        """The recorded report."""
        row = self.curves[self.nearest(trial)][epoch - 1]
        report = {name: row[name] for name in (*SCORES, *COSTS) if name in row}
        return {**report, "epoch": epoch, "final": epoch >= self.epochs}

    def best(self, metric: str) -> float:
        """The highest final value on record."""
        return max(float(rows[-1][metric]) for rows in self.curves.values())


class CurveBackend:
    """Made-up learning curves: a smooth peak over the first float parameter, approached epoch by epoch, and noise.

    `noise` is the deviation of a report's metric, fixed by (seed, trial, epoch); an epoch takes 30 to 60 s.
    """

    def __init__(self, config: SearchConfig, seed: int = 0, noise: float = 0.01) -> None:
        self.config, self.seed, self.noise = config, seed, noise

    def report(self, trial: Trial, epoch: int) -> Report:
        """A report."""
        tree = to_tree(trial.run)
        quality = 1.0
        for path, distribution in self.config.space.items():
            bounds, value = getattr(distribution, "bounds", None), find(tree, path)
            if bounds and value is not None:
                quality -= 0.3 * distance(distribution, value, math.sqrt(bounds[0] * bounds[1])) ** 2
        noise = np.random.default_rng([self.seed, trial.number, epoch]).normal(0, self.noise)
        value = 0.5 * quality * (1 - 0.6**epoch) + noise
        seconds = 30.0 + 30.0 * np.random.default_rng([self.seed, trial.number]).random()
        final = epoch >= self.config.train.rounds()
        return {
            "epoch": epoch,
            **dict.fromkeys(SCORES, value),
            "edge_miou": 0.7 * value,
            "gpu_seconds": seconds * epoch,
            "final": final,
        }


def _present(values: Point) -> Point:
    """The values without those that a table leaves empty."""
    return {path: value for path, value in values.items() if value is not None and value == value}


def read_table(path: Path) -> pd.DataFrame:
    """A table for `TableBackend`: a Parquet file, or the trials and reports of an experiment folder.

    Raises `ExperimentError`.
    """
    if path.is_dir():
        board = Leaderboard(path)
        trials = board.trials()
        keep = trials.loc[trials["origin"] != BASELINE, ["number", *board.parameters]]
        return board.reports().merge(keep, on="number")
    try:
        return pd.read_parquet(path)
    except (OSError, ValueError) as e:
        raise ExperimentError(f"{path}: is no readable Parquet table: {e}") from e
