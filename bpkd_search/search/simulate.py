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
from typing import Any

import numpy as np
import pandas as pd
from optuna.storages import InMemoryStorage

from bpkd_search.config.load import parse
from bpkd_search.config.models import SearchConfig
from bpkd_search.config.points import to_tree
from bpkd_search.experiment.schema import COMPLETE, REPLICATE
from bpkd_search.experiment.trial import Trial
from bpkd_search.search.backends import Backend, Report, TableBackend, read_table
from bpkd_search.search.engine import Engine
from bpkd_search.surrogate.tried import estimates


@dataclass
class Outcome:
    """A simulated search: its engine, best-so-far at every full-budget end, and how busy the slots were.

    `curve` holds (GPU-seconds spent by all trials, best metric so far of trials that ran their full budget and keep
    the constraints), `full` (GPU-seconds, trial) of each such trial; `busy` is the share of the slots' time spent in
    trials until the last trial was handed out.
    """

    engine: Engine
    curve: list[tuple[float, float]] = field(default_factory=list)
    full: list[tuple[float, Trial]] = field(default_factory=list)
    wall_seconds: float = 0.0
    busy: float = 0.0

    def seconds_to(self, target: float) -> float:
        """GPU-seconds until the best reached `target`; infinite if it never did."""
        return next((spent for spent, best in self.curve if best >= target), math.inf)

    def best_score(self) -> Trial:
        """The full-budget trial with the best score of its own."""
        return self.engine.ranked()[0]

    def best_estimate(self) -> Trial:
        """The full-budget trial whose setting has the best estimated mean, or the best score where none is known."""
        model = self.engine.model()
        if not model.ready:
            return self.best_score()
        full = [trial for trial in self.engine.tried() if trial.value is not None]
        return self.engine.trials[full[int(np.argmax(estimates(model, full).mean))].number]


class Clock:
    """Simulated seconds."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        """The time."""
        return self.now


def simulate_search(
    config: SearchConfig,
    backend: Backend,
    *,
    slots: int = 8,
    directory: Path | None = None,
    charge: bool = False,
    listen: Callable[[str, Trial], None] = lambda event, trial: None,
    fixed: Sequence[Trial] = (),
) -> Outcome:
    """Run one search in simulated time.

    The experiment goes to `directory` (with a journal file, resumable) or nowhere. With `charge`, an ask and a report
    hold up the driver for as long as they really take. `fixed` trials, by default none, run first.
    """
    clock = Clock()
    with tempfile.TemporaryDirectory() as nowhere:
        storage = None if directory else InMemoryStorage()
        engine = Engine(
            config, directory or Path(nowhere), "simulated", listen, fixed=fixed, storage=storage, clock=clock
        )
        outcome = Outcome(engine)
        _loop(engine, backend, slots, clock, outcome, charge)
        engine.recorder.close()
    return outcome


def _loop(engine: Engine, backend: Backend, slots: int, clock: Clock, outcome: Outcome, charge: bool) -> None:
    heap: list[tuple[float, int, Trial, Report]] = []
    free, spent, best = slots, 0.0, -math.inf
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
        if go_on and not report["final"]:
            begin(trial)
            continue
        timed(partial(engine.end, trial.number))
        free += 1
        if trial.state == COMPLETE and trial.feasible is not False and trial.origin != REPLICATE:
            best = max(best, float(trial.last()[engine.metric]))
            outcome.full.append((spent, trial))
        outcome.curve.append((spent, best))
    outcome.wall_seconds = clock.now


def simulate(
    config: SearchConfig,
    table: pd.DataFrame | Path | str,
    strategies: Sequence[tuple[str, str]],
    *,
    seeds: int = 20,
    slots: int = 8,
) -> tuple[pd.DataFrame, dict[str, list[Outcome]]]:
    """Compare strategies (sampler, scheduler) on recorded trials, in simulated time, over seeds.

    `table` holds the recorded trials as `TableBackend` takes them, or is a path that `read_table` takes. What a setting
    is worth is its mean over the recorded seeds, which a search does not see. Gives a row a strategy: quartiles of the
    GPU-seconds until a trial of a setting worth `target` has run in full (infinite where none has), the share of
    searches where one has, the best score found, GPU-seconds in all, and the mean regret (the best setting's worth less
    the chosen one's) of choosing by the best estimate and by the best score; and the outcomes by strategy.
    Raises `ConfigError`, `ExperimentError`.
    """
    table = table if isinstance(table, pd.DataFrame) else read_table(Path(table))
    backend, goal, metric = TableBackend(table, config), target(config, table), config.search.ranked_by
    configs = {
        f"{sampler} + {scheduler}": [with_strategy(config, sampler, scheduler, seed) for seed in range(seeds)]
        for sampler, scheduler in strategies
    }

    rows, outcomes = [], {}
    for name, searches in configs.items():
        runs = [simulate_search(search, backend, slots=slots) for search in searches]
        outcomes[name] = runs
        found = pd.DataFrame([figures(run, backend, metric, goal) for run in runs])
        rows.append(
            {
                "strategy": name,
                **_quartiles("seconds_to_target", found["seconds_to_target"]),
                "reached": float(np.isfinite(found["seconds_to_target"]).mean()),
                **_quartiles("best", found["best"]),
                "gpu_seconds": float(found["gpu_seconds"].median()),
                "regret": float(found["regret"].mean()),
                "regret_of_best_score": float(found["regret_of_best_score"].mean()),
            }
        )
    return pd.DataFrame(rows), outcomes


def figures(outcome: Outcome, backend: TableBackend, metric: str, goal: float) -> dict[str, float]:
    """What one simulated search came to, in true means.

    GPU-seconds until a trial of a setting worth `goal` has run in full (infinite if none has), the best score, the
    GPU-seconds in all, and the regret of choosing by the best estimate and by the best score: in the mean over all
    seeds, of which the chosen trial's own is one, and in the mean over those that it did not see.
    """

    def worth(trial: Trial) -> float:
        return backend.mean(backend.nearest(trial), metric)

    best, estimate, score = backend.best(metric), outcome.best_estimate(), outcome.best_score()
    return {
        "seconds_to_target": next((spent for spent, trial in outcome.full if worth(trial) >= goal), math.inf),
        "best": outcome.curve[-1][1],
        "gpu_seconds": outcome.curve[-1][0],
        "regret": best - worth(estimate),
        "regret_of_best_score": best - worth(score),
        "regret_unseen": best - backend.unseen(estimate, metric),
        "regret_unseen_of_best_score": best - backend.unseen(score, metric),
    }


def target(config: SearchConfig, table: pd.DataFrame, tolerance: float = 0.005) -> float:
    """What a simulated search should reach: the mean final value of the table's best setting, less `tolerance`."""
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
