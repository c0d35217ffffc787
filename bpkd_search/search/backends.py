"""Where the reports of simulated trials come from: recorded trials, or made-up learning curves."""

from __future__ import annotations

import math
from pathlib import Path
from statistics import fmean
from typing import Any, Protocol
from zlib import crc32

import numpy as np
import pandas as pd

from bpkd_search.config.distributions import apart, distance
from bpkd_search.config.models import SearchConfig
from bpkd_search.config.paths import find
from bpkd_search.config.points import Point, to_tree
from bpkd_search.errors import ExperimentError
from bpkd_search.experiment.schema import BASELINE, REPLICATE
from bpkd_search.experiment.trial import Trial
from bpkd_search.metrics.table import COSTS, SCORES
from bpkd_search.results.leaderboard import Leaderboard
from bpkd_search.surrogate.encoding import parameters_of

Report = dict[str, Any]


class Backend(Protocol):
    """Where a simulated trial's reports come from."""

    def report(self, trial: Trial, epoch: int) -> Report:
        """The report of an epoch, with `gpu_seconds` since the trial's start and `final` after the last."""


class TableBackend:
    """Recorded trials: a proposal gets the curve of the nearest recorded point of the space.

    `table` holds a row an epoch of a trial: `number`, or `setting` and `seed` where settings were run with several
    seeds, `epoch`, `gpu_seconds`, the metrics, and a column for every parameter of the space. Nearness is the root
    mean square of the distances by parameter, each a share of its range. Of several seeds, a trial draws one by its
    point, and its replicates, with other training seeds, get the others. Trials that were not recorded to the
    highest epoch are left out. Raises `ExperimentError`.
    """

    def __init__(self, table: pd.DataFrame, config: SearchConfig) -> None:
        if "setting" not in table and "number" in table:
            table = table.assign(setting=table["number"], seed=0)
        needed = ["setting", "seed", "epoch", "gpu_seconds", *config.search.goals, *config.space]
        if missing := [name for name in needed if name not in table]:
            raise ExperimentError(f"table: has no column {', '.join(missing)}")
        self.config = config
        self.epochs = int(table["epoch"].max())
        if self.epochs != config.train.rounds():
            raise ExperimentError(
                f"table: holds trials of {self.epochs} epochs and train.epochs is {config.train.rounds()};"
                f" say --set train.epochs={self.epochs}"
            )
        # By setting, the curve of each seed.
        self.curves: dict[int, list[list[dict[str, Any]]]] = {}
        for (setting, _), rows in table.sort_values("epoch").groupby(["setting", "seed"]):
            if len(rows) == self.epochs:
                curve = [{str(k): v for k, v in row.items()} for row in rows.to_dict("records")]
                self.curves.setdefault(int(str(setting)), []).append(curve)
        if not self.curves:
            raise ExperimentError(f"table: holds no trial with every epoch up to {self.epochs}")
        self._points = {n: parameters_of(config.space, curves[0][0]) for n, curves in self.curves.items()}
        self._nearest: dict[str, int] = {}

    def nearest(self, trial: Trial) -> int:
        """The recorded setting nearest to a proposal."""
        point = self._point(trial)
        if (key := repr(point)) not in self._nearest:
            space = self.config.space
            self._nearest[key] = min(self.curves, key=lambda number: apart(space, point, self._points[number]))
        return self._nearest[key]

    def report(self, trial: Trial, epoch: int) -> Report:
        """The recorded report."""
        row = self.curves[self.nearest(trial)][self._drawn(trial)][epoch - 1]
        report = {name: row[name] for name in (*SCORES, *COSTS) if name in row}
        return {**report, "epoch": epoch, "final": epoch >= self.epochs}

    def mean(self, setting: int, metric: str) -> float:
        """The mean final value of a setting over its seeds."""
        return fmean(float(curve[-1][metric]) for curve in self.curves[setting])

    def unseen(self, trial: Trial, metric: str) -> float:
        """The mean final value of a trial's setting over the seeds that the trial did not draw; NaN without any."""
        drawn, curves = self._drawn(trial), self.curves[self.nearest(trial)]
        others = [float(curve[-1][metric]) for seed, curve in enumerate(curves) if seed != drawn]
        return fmean(others) if others else math.nan

    def best(self, metric: str) -> float:
        """The highest mean final value on record."""
        return max(self.mean(setting, metric) for setting in self.curves)

    def _drawn(self, trial: Trial) -> int:
        """Which of its setting's seeds a trial runs with."""
        drawn = crc32(repr(self._point(trial)).encode()) + trial.run.train.seed
        return drawn % len(self.curves[self.nearest(trial)])

    def _point(self, trial: Trial) -> Point:
        tree = to_tree(trial.run)
        return parameters_of(self.config.space, {path: find(tree, path) for path in self.config.space})


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


def read_table(path: Path) -> pd.DataFrame:
    """A table for `TableBackend`: a Parquet file, or the trials and reports of an experiment folder.

    Raises `ExperimentError`.
    """
    if path.is_dir():
        board = Leaderboard(path)
        trials = board.trials()
        keep = trials.loc[~trials["origin"].isin([BASELINE, REPLICATE]), ["number", *board.parameters]]
        return board.reports().merge(keep, on="number")
    try:
        return pd.read_parquet(path)
    except (OSError, ValueError) as e:
        raise ExperimentError(f"{path}: is no readable Parquet table: {e}") from e
