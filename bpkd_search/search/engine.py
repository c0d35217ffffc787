"""The search itself, without Ray: which trial comes next, whether it goes on, and how it ended.

Ray Tune drives it through two thin adapters (`searcher`, `scheduler`); a test drives it with a plain loop.
Every step goes into the event log first, so that an engine opened on an old folder stands where the last
one stood.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bpkd_search.config.loss import label_of
from bpkd_search.config.models import Choice, FloatRange, RunConfig, SearchConfig
from bpkd_search.config.points import (
    BASELINES,
    Point,
    baseline_run,
    coordinates,
    get_path,
    plain,
    run_at,
)
from bpkd_search.errors import UserError
from bpkd_search.results.events import Event, read_events
from bpkd_search.results.recorder import Recorder
from bpkd_search.results.schema import COMPLETE, FAILED, PRUNED
from bpkd_search.search.rungs import make_rungs
from bpkd_search.search.study import Study

BASELINE, ENQUEUED, SAMPLED = "baseline", "enqueued", "sampled"


@dataclass
class Trial:
    """A trial that the engine handed out: what to run and how far it has come."""

    number: int
    method: str
    origin: str
    run: RunConfig
    reports: dict[int, dict[str, Any]] = field(default_factory=dict)
    stop: bool = False

    @property
    def epoch(self) -> int:
        """Epochs reported so far."""
        return max(self.reports, default=0)

    def last(self) -> dict[str, Any]:
        """The newest report, empty before the first."""
        return self.reports.get(self.epoch, {})


class Engine:
    """Asks, reports and ends of one search, in the order they come.

    Baselines come first, then `enqueue:`, then the sampler's points. Baselines always run to the end.
    `listen(event, trial)` is called after each `ask`, `report` and `end`.
    """

    def __init__(
        self,
        config: SearchConfig,
        directory: Path,
        version: str,
        listen: Callable[[str, Trial], None] = lambda event, trial: None,
    ) -> None:
        self.config, self.listen = config, listen
        self.base = config.run()
        self.max_epochs = config.train.epochs
        self.metric = config.search.metric
        self.trials: dict[int, Trial] = {}
        self.states: dict[int, str] = {}
        self.interrupted = False
        self.fatal: UserError | None = None
        self.study = Study(directory, config)
        self.rungs = make_rungs(config.search.scheduler, self.max_epochs)
        self._plan = [*BASELINES, *config.enqueue]
        self.total = len(BASELINES) + max(config.search.trials, len(config.enqueue))
        self._unfinished: deque[Trial] = deque()
        for event in read_events(directory):
            self._restore(event)
        self.recorder = Recorder(directory, config.name, parameter_kinds(config), version)
        for number in [n for n in self.trials if n not in self.states]:
            # The driver may have died between a last report and the end that follows from it.
            self.end(number)
            if number not in self.states:
                self._unfinished.append(self.trials[number])

    def ask(self) -> Trial | None:
        """The next trial to run, one that a restart left unfinished first; None when there is none left."""
        if self.interrupted:
            return None
        if self._unfinished:
            return self._unfinished.popleft()
        number = len(self.trials)
        if number >= self.total:
            return None
        trial = self._new(number)
        self.trials[number] = trial
        tree = plain(trial.run)
        self.recorder.record(
            "ask",
            number,
            trial_id=f"{self.config.name}-{number:05d}",
            method=trial.method,
            origin=trial.origin,
            point={path: _value(tree, path) for path in self.config.space},
            seed=trial.run.train.seed,
            config=tree,
        )
        self.listen("ask", trial)
        return trial

    def report(self, number: int, report: dict[str, Any]) -> bool:
        """Take a report; whether the trial goes on."""
        trial, epoch = self.trials[number], int(report["epoch"])
        if epoch in trial.reports:
            return not trial.stop
        self.recorder.record("report", number, **report)
        self._take(trial, epoch, report)
        self.listen("report", trial)
        return not trial.stop

    def end(self, number: int, failure: tuple[str, str] | None = None) -> None:
        """Take the end of a trial: failed with (reason, message), stopped early, complete, or interrupted.

        An interrupted one stays RUNNING and is the first to go on after `resume`.
        """
        trial = self.trials[number]
        if number in self.states:
            return
        reason = message = None
        value = trial.last().get(self.metric)
        if failure is not None:
            state, (reason, message) = FAILED, failure
        elif trial.epoch >= self.max_epochs:
            state = COMPLETE
            if value is None or not math.isfinite(value):
                state, reason, message = FAILED, "nan", f"{self.metric} is undefined on this validation split"
        elif trial.stop:
            state = PRUNED
        else:
            return
        self.recorder.record("end", number, state=state, reason=reason, message=message)
        self.states[number] = state
        self.study.tell(number, state, value, reason)
        self.listen("end", trial)

    def stop_for(self, error: UserError) -> None:
        """Stop the search for something that the user has to mend, such as a full disk."""
        self.fatal, self.interrupted = error, True

    @property
    def done(self) -> bool:
        """Whether every trial has ended."""
        return len(self.states) >= self.total

    def _new(self, number: int) -> Trial:
        if number < len(BASELINES):
            name = list(BASELINES)[number]
            run = baseline_run(self.base, name)
            point = coordinates(self.config.space, self.base, run)
            if point is not None:
                self.study.ask(number, point)
            return Trial(number, name, BASELINE, run)
        given: Point | None = None
        if number < len(self._plan):
            given = _complete(self.config, self.base, self.config.enqueue[number - len(BASELINES)])
        run = run_at(self.base, self.study.ask(number, given))
        return Trial(number, label_of(run.loss), SAMPLED if given is None else ENQUEUED, run)

    def _take(self, trial: Trial, epoch: int, report: dict[str, Any]) -> None:
        trial.reports[epoch] = report
        value = report.get(self.metric)
        if value is None or not math.isfinite(value):
            return
        self.study.report(trial.number, epoch, value)
        if trial.origin != BASELINE and not self.rungs.report(trial.number, epoch, value):
            trial.stop = True

    def _restore(self, event: Event) -> None:
        number = int(event["number"])
        if event["event"] == "ask":
            run = RunConfig.model_validate(event["config"])
            self.trials[number] = Trial(number, event["method"], event["origin"], run)
        elif event["event"] == "report":
            self._take(self.trials[number], int(event["epoch"]), event)
        elif event["event"] == "end":
            self.states[number] = event["state"]
            value = self.trials[number].last().get(self.metric)
            self.study.tell(number, event["state"], value, event.get("reason"))


def parameter_kinds(config: SearchConfig) -> dict[str, str]:
    """The column type of each searched parameter: float, int, bool or string."""
    kinds = {}
    for path, distribution in config.space.items():
        if isinstance(distribution, Choice):
            types = {type(option) for option in distribution.options}
            names = {bool: "bool", int: "int", float: "float"}
            kinds[path] = (
                names.get(types.pop(), "string") if len(types) == 1 else "float" if types <= {int, float} else "string"
            )
        else:
            kinds[path] = "float" if isinstance(distribution, FloatRange) else "int"
    return kinds


def _value(tree: dict[str, Any], path: str) -> Any:
    try:
        value = get_path(tree, path)
    except KeyError:
        return None
    return value if isinstance(value, bool | int | float | str) else None


def _complete(config: SearchConfig, base: RunConfig, given: Point) -> Point:
    """An enqueued point with the base run's values where it names none."""
    return coordinates(config.space, base, run_at(base, given)) or dict(given)
