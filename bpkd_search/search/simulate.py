"""Searches in simulated time: recorded or made-up trials through the engine that real searches use.

An event loop takes Ray's place. It hands the engine's trials to simulated slots and lets an epoch end when its
recorded seconds have passed, so that a search of hundreds of GPU-hours is replayed in seconds, with the same
sampler, rungs and recorder.
"""

from __future__ import annotations

import heapq
import itertools
import math
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
from optuna.storages import InMemoryStorage

from bpkd_search.config.load import parse
from bpkd_search.config.models import SearchConfig
from bpkd_search.config.paths import find
from bpkd_search.config.points import to_tree
from bpkd_search.config.search import COSTS, METRICS
from bpkd_search.errors import ExperimentError
from bpkd_search.experiment.schema import COMPLETE
from bpkd_search.experiment.trial import Trial
from bpkd_search.results.leaderboard import Leaderboard
from bpkd_search.search.engine import Engine
from bpkd_search.search.study import distance

Report = dict[str, Any]


class Backend(Protocol):
    """Where a simulated trial's reports come from."""

    def report(self, trial: Trial, epoch: int) -> Report:
        """The report of an epoch, with `gpu_seconds` since the trial's start and `final` after the last."""


class TableBackend:
    """Recorded trials: a proposal gets the curve of the nearest recorded point of the space.

    `table` holds a row an epoch of a trial: `number`, `epoch`, `gpu_seconds`, the metrics, and a column for every
    parameter of the space. Nearness is the root mean square of the distances by parameter, each a share of its
    range. Trials that were not recorded to the highest epoch are left out. Errors: `ExperimentError`.
    """

    def __init__(self, table: pd.DataFrame, config: SearchConfig) -> None:
        needed = ["number", "epoch", "gpu_seconds", *config.search.goals, *config.space]
        if missing := [name for name in needed if name not in table]:
            raise ExperimentError(f"table: has no column {', '.join(missing)}")
        self.config = config
        self.epochs = int(table["epoch"].max())
        if self.epochs != config.train.epochs:
            raise ExperimentError(
                f"table: holds trials of {self.epochs} epochs and train.epochs is {config.train.epochs};"
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

    def nearest(self, trial: Trial) -> int:
        """The recorded trial nearest to a proposal."""
        tree = to_tree(trial.run)
        point = {path: find(tree, path) for path in self.config.space}

        def away(number: int) -> float:
            row = self.curves[number][0]
            return sum(self._distance(path, value, row[path]) ** 2 for path, value in point.items())

        return min(self.curves, key=away)

    def _distance(self, path: str, a: Any, b: Any) -> float:
        missing = [x is None or (isinstance(x, float) and math.isnan(x)) for x in (a, b)]
        if any(missing):
            return float(not all(missing))
        return distance(self.config.space[path], a, b)

    def report(self, trial: Trial, epoch: int) -> Report:
        """The recorded report."""
        row = self.curves[self.nearest(trial)][epoch - 1]
        report = {name: row[name] for name in (*METRICS, *COSTS) if name in row}
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
        final = epoch >= self.config.train.epochs
        return {
            "epoch": epoch,
            "miou": value,
            "edge_miou": 0.7 * value,
            "body_miou": value,
            "accuracy": value,
            "boundary_iou": value,
            "boundary_f": value,
            "gpu_seconds": seconds * epoch,
            "final": final,
        }


@dataclass
class Outcome:
    """A simulated search: its engine, best-so-far at every full-budget end, and how busy the slots were.

    `curve` holds (GPU-seconds spent by all trials, best metric at full budget so far); `busy` is the share of the
    slots' time spent in trials until the last trial was handed out.
    """

    engine: Engine
    curve: list[tuple[float, float]] = field(default_factory=list)
    wall_seconds: float = 0.0
    busy: float = 0.0

    def seconds_to(self, target: float) -> float:
        """GPU-seconds until the best reached `target`; infinite if it never did."""
        return next((spent for spent, best in self.curve if best >= target), math.inf)


class Clock:
    """Simulated seconds."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        """The time."""
        return self.now


def simulate(
    config: SearchConfig,
    backend: Backend,
    *,
    slots: int = 8,
    directory: Path | None = None,
    stop_after: int | None = None,
    charge: bool = False,
    listen: Callable[[str, Trial], None] = lambda event, trial: None,
) -> Outcome:
    """Run a search in simulated time.

    The experiment goes to `directory` (with a journal file, resumable) or nowhere. `stop_after` events it ends in
    the middle, as a driver that is killed. With `charge`, an ask and a report hold up the driver for as long as they
    really take.
    """
    clock = Clock()
    with tempfile.TemporaryDirectory() as nowhere:
        storage = None if directory else InMemoryStorage()
        engine = Engine(config, directory or Path(nowhere), "simulated", listen, fixed=(), storage=storage, clock=clock)
        outcome = Outcome(engine)
        _loop(engine, backend, slots, clock, outcome, stop_after, charge)
        if stop_after is None:
            engine.recorder.close()
    return outcome


def _loop(
    engine: Engine,
    backend: Backend,
    slots: int,
    clock: Clock,
    outcome: Outcome,
    stop_after: int | None,
    charge: bool,
) -> None:
    heap: list[tuple[float, int, Trial, Report]] = []
    free, spent, events, best = slots, 0.0, 0, -math.inf
    order = itertools.count()
    # Slot-seconds in use so far, and when that was last added up.
    used, seen = 0.0, 0.0

    def timed(step: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        result = step()
        if charge:
            clock.now += time.perf_counter() - start
        return result

    def begin(trial: Trial) -> None:
        report = backend.report(trial, trial.epoch + 1)
        seconds = report["gpu_seconds"] - float(trial.last().get("gpu_seconds", 0.0))
        heapq.heappush(heap, (clock.now + seconds, next(order), trial, report))

    while True:
        while free and (trial := timed(engine.ask)) is not None:
            used, seen = used + (slots - free) * (clock.now - seen), clock.now
            outcome.busy = used / (slots * clock.now) if clock.now else 0.0
            free -= 1
            begin(trial)
        if not heap:
            break
        when, _, trial, report = heapq.heappop(heap)
        clock.now = max(clock.now, when)
        used, seen = used + (slots - free) * (clock.now - seen), clock.now
        spent += report["gpu_seconds"] - float(trial.last().get("gpu_seconds", 0.0))
        go_on = timed(partial(engine.report, trial.number, report))
        events += 1
        if events == stop_after:
            engine.recorder._log.close()
            return
        if go_on and not report["final"]:
            begin(trial)
            continue
        timed(partial(engine.end, trial.number))
        free += 1
        if engine.states.get(trial.number) == COMPLETE:
            best = max(best, float(trial.last()[engine.metric]))
        outcome.curve.append((spent, best))
    outcome.wall_seconds = clock.now


def read_table(path: Path) -> pd.DataFrame:
    """A table for `TableBackend`: a Parquet file, or the trials and reports of an experiment folder.

    Errors: `ExperimentError`.
    """
    if path.is_dir():
        board = Leaderboard(path)
        trials = board.trials()
        keep = trials.loc[trials["origin"] != "baseline", ["number", *board.parameters]]
        return board.reports().merge(keep, on="number")
    try:
        return pd.read_parquet(path)
    except (OSError, ValueError) as e:
        raise ExperimentError(f"{path}: is no readable Parquet table: {e}") from e


def compare(
    config: SearchConfig,
    table: pd.DataFrame,
    strategies: Sequence[tuple[str, str]],
    *,
    seeds: int = 20,
    slots: int = 8,
) -> tuple[pd.DataFrame, dict[str, list[Outcome]]]:
    """Strategies (sampler, scheduler) on recorded trials, over seeds.

    Gives a row a strategy: quartiles of the GPU-seconds until `target` (infinite where a search never got there), of
    the best found, and of GPU-seconds in all; and the outcomes by strategy. Errors: `ConfigError`, `ExperimentError`.
    """
    backend, goal = TableBackend(table, config), target(config, table)
    configs = {
        f"{sampler} + {scheduler}": [with_strategy(config, sampler, scheduler, seed) for seed in range(seeds)]
        for sampler, scheduler in strategies
    }
    rows, outcomes = [], {}
    for name, searches in configs.items():
        runs = [simulate(search, backend, slots=slots) for search in searches]
        outcomes[name] = runs
        to_target = np.array([run.seconds_to(goal) for run in runs])
        found = np.array([run.curve[-1][1] for run in runs])
        rows.append(
            {
                "strategy": name,
                **_quartiles("seconds_to_target", to_target),
                "reached": float(np.isfinite(to_target).mean()),
                **_quartiles("best", found),
                "gpu_seconds": float(np.median([run.curve[-1][0] for run in runs])),
            }
        )
    return pd.DataFrame(rows), outcomes


def target(config: SearchConfig, table: pd.DataFrame, tolerance: float = 0.005) -> float:
    """What a simulated search should reach: the table's best final value less `tolerance`."""
    return TableBackend(table, config).best(config.search.ranked_by) - tolerance


def with_strategy(config: SearchConfig, sampler: str, scheduler: str, seed: int) -> SearchConfig:
    """The same search with another sampler (own options if it is the config's), scheduler and seed."""
    tree = to_tree(config)
    search = tree["search"]
    if search["sampler"]["name"] != sampler:
        search["sampler"] = {"name": sampler}
    search["scheduler"]["name"] = scheduler
    search["seed"] = seed
    return parse(SearchConfig, tree, f"{sampler} + {scheduler}")


def _quartiles(name: str, values: Any) -> dict[str, float]:
    low, middle, high = np.quantile(values, [0.25, 0.5, 0.75], method="nearest")
    return {name: float(middle), f"{name}_q1": float(low), f"{name}_q3": float(high)}
