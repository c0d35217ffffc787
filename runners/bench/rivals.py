"""Other tools' searches on recorded trials, in simulated time: the same loop, the same tables, their own decisions."""

from __future__ import annotations

import heapq
import importlib.util
import itertools
import math
from collections.abc import Callable, Mapping
from datetime import datetime
from types import SimpleNamespace
from typing import Any, Protocol

import optuna

from bpkd_search.config import SearchConfig
from bpkd_search.config.distributions import suggest, within
from bpkd_search.config.points import Point, active_part, in_order, is_active, run_at, to_tree
from bpkd_search.config.space import Choice, IntRange
from bpkd_search.experiment.trial import Trial
from bpkd_search.search.backends import Report, TableBackend


class Rival(Protocol):
    """A search of another tool."""

    def ask(self, number: int) -> Point:
        """The point of the next trial."""

    def report(self, number: int, report: Report) -> bool:
        """Whether the trial continues."""

    def end(self, number: int, report: Report) -> None:
        """Take the last report of a trial."""


class Rays:
    """Ray Tune's OptunaSearch, which conditional parameters reach through a define-by-run space, and its ASHA."""

    def __init__(self, config: SearchConfig, epochs: int, seed: int) -> None:
        from ray.tune.schedulers import AsyncHyperBandScheduler
        from ray.tune.search.optuna import OptunaSearch

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        base = to_tree(config.run())

        def space(trial: optuna.Trial) -> None:
            point: Point = {}
            for path, distribution in in_order(config.space):
                if is_active(distribution, base, point):
                    point[path] = suggest(trial, path, distribution)

        metric, scheduler = config.search.ranked_by, config.search.scheduler
        sampler = optuna.samplers.TPESampler(seed=seed)
        self.search = OptunaSearch(space=space, metric=metric, mode="max", sampler=sampler)
        self.asha = AsyncHyperBandScheduler(
            time_attr="epoch",
            metric=metric,
            mode="max",
            grace_period=int(scheduler.grace),
            reduction_factor=scheduler.reduction,
            max_t=epochs,
        )
        self.space, self.trials = config.space, dict[int, Any]()

    def ask(self, number: int) -> Point:
        """The point of the next trial."""
        trial = SimpleNamespace(trial_id=str(number), stopping_criterion={}, status="RUNNING")
        point = self.search.suggest(trial.trial_id)
        self.asha.on_trial_add(None, trial)
        self.trials[number] = trial
        return {path: within(self.space[path], value) for path, value in point.items()}

    def report(self, number: int, report: Report) -> bool:
        """Whether the trial continues."""
        result = _result(report)
        goes_on = self.asha.on_trial_result(None, self.trials[number], result) == "CONTINUE"
        if goes_on and not report["final"]:
            self.search.on_trial_result(str(number), result)
        return goes_on

    def end(self, number: int, report: Report) -> None:
        """Take the last report of a trial."""
        self.asha.on_trial_complete(None, self.trials[number], _result(report))
        self.search.on_trial_complete(str(number), _result(report))


class SyneTunes:
    """Syne Tune's ASHA with conformalised quantile regression on the last values of all trials (ASHACQR).

    It has no conditional parameters: all are searched, and those that a point does not use are left out of its run.
    """

    def __init__(self, config: SearchConfig, epochs: int, seed: int) -> None:
        from syne_tune.config_space import choice, lograndint, loguniform, randint, uniform
        from syne_tune.optimizer.baselines import ASHACQR

        def distribution(d: Any) -> Any:
            if isinstance(d, Choice):
                return choice(list(d.options))
            low, high = d.bounds
            if isinstance(d, IntRange):
                if d.step > 1:
                    return choice(list(range(int(low), int(high) + 1, d.step)))
                return (lograndint if d.log else randint)(int(low), int(high))
            return (loguniform if d.log else uniform)(low, high)

        scheduler = config.search.scheduler
        self.scheduler = ASHACQR(
            {path: distribution(d) for path, d in config.space.items()},
            metric=config.search.ranked_by,
            time_attr="epoch",
            max_t=epochs,
            do_minimize=False,
            grace_period=int(scheduler.grace),
            reduction_factor=scheduler.reduction,
            random_seed=seed,
        )
        self.space, self.base, self.trials = config.space, to_tree(config.run()), dict[int, Any]()

    def ask(self, number: int) -> Point:
        """The point of the next trial."""
        from syne_tune.backend.trial_status import Trial as Theirs

        found = self.scheduler.suggest().config
        self.trials[number] = Theirs(number, found, datetime.now())
        self.scheduler.on_trial_add(self.trials[number])
        return active_part(self.space, self.base, {path: within(d, found[path]) for path, d in self.space.items()})

    def report(self, number: int, report: Report) -> bool:
        """Whether the trial continues."""
        return bool(self.scheduler.on_trial_result(self.trials[number], _result(report)) == "CONTINUE")

    def end(self, number: int, report: Report) -> None:
        """Take the last report of a trial."""
        if report["final"]:
            self.scheduler.on_trial_complete(self.trials[number], _result(report))
        else:
            self.scheduler.on_trial_remove(self.trials[number])


RIVALS: Mapping[str, tuple[str, Callable[[SearchConfig, int, int], Rival]]] = {
    "Ray OptunaSearch + ASHAScheduler": ("ray", Rays),
    "Syne Tune ASHA + CQR": ("syne_tune", SyneTunes),
}


def is_installed(name: str) -> bool:
    """Whether the package that a rival needs is there."""
    return importlib.util.find_spec(RIVALS[name][0]) is not None


def play(name: str, config: SearchConfig, backend: TableBackend, slots: int, goal: float) -> dict[str, float]:
    """One search of a rival; the figures of `simulate.figures`, where it hands over its best score."""
    rival = RIVALS[name][1](config, backend.epochs, config.search.seed)
    metric, base = config.search.ranked_by, config.run()
    heap: list[tuple[float, int, Trial, Report]] = []
    full: list[tuple[float, Trial]] = []
    now = spent = 0.0
    free, asked, order = slots, 0, itertools.count()

    def begin(trial: Trial) -> None:
        report = backend.report(trial, trial.epoch + 1)
        seconds = report["gpu_seconds"] - float(trial.last().get("gpu_seconds", 0.0))
        heapq.heappush(heap, (now + seconds, next(order), trial, report))

    while True:
        while free and asked < config.search.trials:
            begin(Trial(asked, "", "sampled", run_at(base, rival.ask(asked))))
            asked, free = asked + 1, free - 1
        if not heap:
            break
        now, _, trial, report = heapq.heappop(heap)
        spent += report["gpu_seconds"] - float(trial.last().get("gpu_seconds", 0.0))
        trial.reports[report["epoch"]] = report
        if rival.report(trial.number, report) and not report["final"]:
            begin(trial)
            continue
        free += 1
        rival.end(trial.number, report)
        if report["final"]:
            full.append((spent, trial))

    def worth(trial: Trial) -> float:
        return backend.mean(backend.nearest(trial), metric)

    best = max((trial for _, trial in full), key=lambda trial: float(trial.last()[metric]))
    return {
        "seconds_to_target": next((s for s, trial in full if worth(trial) >= goal), math.inf),
        "best": float(best.last()[metric]),
        "gpu_seconds": spent,
        "regret": backend.best(metric) - worth(best),
        "regret_of_best_score": backend.best(metric) - worth(best),
        "regret_unseen": backend.best(metric) - backend.unseen(best, metric),
        "regret_unseen_of_best_score": backend.best(metric) - backend.unseen(best, metric),
    }


def _result(report: Report) -> dict[str, Any]:
    return {**report, "training_iteration": report["epoch"]}
