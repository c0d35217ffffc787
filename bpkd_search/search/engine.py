"""The search itself, without Ray: which trial comes next, whether it continues, and how it ended.

Ray Tune drives it through two thin adapters (`searcher`, `scheduler`), simulated time through `simulate`, a
replay through `replay`. Every step goes into the event log first, so that an engine opened on an old folder
is in the state where the last one was.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from optuna.storages import BaseStorage

from bpkd_search.config.changes import with_changes
from bpkd_search.config.models import SearchConfig
from bpkd_search.config.paths import find
from bpkd_search.config.points import Point, column_kind, to_tree
from bpkd_search.errors import UserError
from bpkd_search.experiment.events import Event, read_events
from bpkd_search.experiment.origin import at_its_place
from bpkd_search.experiment.recorder import Recorder
from bpkd_search.experiment.requests import as_begun
from bpkd_search.experiment.schema import BASELINE, COMPLETE, FAILED, OOM, PRUNED, REMEMBERED
from bpkd_search.experiment.trial import Trial
from bpkd_search.search.ask_tell import AskTell
from bpkd_search.search.judging import Judging
from bpkd_search.search.learned import Learned, LearnedRungs
from bpkd_search.search.memory import offer_of
from bpkd_search.search.plan import Plan
from bpkd_search.search.ranking import ranked
from bpkd_search.search.rungs import position
from bpkd_search.search.spending import Spending, gpu_seconds
from bpkd_search.search.stopping import Stopping, make_rungs
from bpkd_search.search.study import Study
from bpkd_search.search.warm_start import Found, judge
from bpkd_search.surrogate.model import Model
from bpkd_search.surrogate.tried import Tried, model_of


class Engine:
    """Asks, reports and ends of one search, in the order they come.

    `fixed` trials come first, by default the baselines, then `enqueue:`, then the sampler's points, `sampled` in
    all (by default as the config says). Trials of origin `baseline` and `memory` always run to the end.
    `listen(event, trial)` is called after each `ask`, `report`, `lost`, `retry` and `end`. `storage` is where the
    Optuna study lives, by default a journal file in the folder; `clock` gives seconds, by default those since 1970.
    """

    def __init__(
        self,
        config: SearchConfig,
        directory: Path,
        version: str,
        listen: Callable[[str, Trial], None] = lambda event, trial: None,
        *,
        fixed: Sequence[Trial] | None = None,
        sampled: int | None = None,
        storage: BaseStorage | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        now, self.listen, self.clock = config, listen, clock
        # What requests have changed since the search began is changed below again, in its place.
        self.config = config = as_begun(directory, config)
        self.max_epochs = config.train.rounds()
        self.goals = config.search.goals
        self.metric = config.search.ranked_by
        self.trials: dict[int, Trial] = {}
        self.states: dict[int, str] = {}
        self.notes: list[str] = []
        self.interrupted = self.paused = False
        self.stopped: set[int] = set()  # trials that a request ends early
        self.fatal: UserError | None = None
        self.closed: str | None = None
        scheduler = config.search.scheduler
        full = self.max_epochs if scheduler.axis == "epochs" else (config.train.gpu_seconds or math.inf)
        by_model = LearnedRungs(lambda: self.learned, scheduler.grace, scheduler.chance)
        self.rungs: Stopping = by_model if scheduler.name == "model" else make_rungs(scheduler, full)
        self.plan = Plan(config, fixed, sampled)
        self._judging = Judging(config.search, self.plan.fixed, self.trials)
        self._ask_tell = AskTell(config, self.plan, self._judging, directory, storage, self.notes.append)
        self._spending = Spending(config.search.budget, clock)
        self._unfinished: deque[Trial] = deque()
        self._to_begin: set[int] = set()  # those of them that a request runs again and that have not begun
        # Trials of other searches that wait until they can be judged; None before they were looked for.
        self._sources: dict[str, Found] | None = None
        self._weighed: Sequence[str] = ()
        for event in read_events(directory):
            self._restore(event)
        self._use(now)
        self.paused = False
        self.notes += [note] if (note := self._ask_tell.open()) else []
        self.recorder = Recorder(directory, config.name, parameter_kinds(config), version, clock)
        self._spending.go_on()
        self._session_is_logged = False
        points = self.study.every_point
        if points is not None and len(points) < self.plan.sampled:
            self.notes.append(
                f"the space has {len(points)} points for {self.plan.sampled} trials: when all are tried, they are run"
                " again with fresh training seeds"
            )
        if self._sources is None and not self.trials:
            self._warm_start()
        for number in [n for n in self.trials if n not in self.states]:
            # The driver may have died between a last report and the end that follows from it.
            self.end(number)
            if number not in self.states:
                self._unfinished.append(self.trials[number])
        self._judge_again()

    def ask(self) -> Trial | None:
        """The next trial to run; None when there is none left.

        Those that a restart or a loss left unfinished come first, but those that ran out of memory last.
        """
        if self.interrupted:
            return None
        self._open_session()
        waiting = [trial for trial in self._unfinished if not (self.paused and trial.number in self._to_begin)]
        # One that ran out of memory needs more room than others leave, so it waits until no more of those are to come.
        if again := next((trial for trial in waiting if OOM not in trial.losses), None):
            return self._go_on(again)
        number = len(self.trials)
        if self.paused or number >= self.total or self._budget_is_spent():
            return self._go_on(waiting[0]) if waiting else None
        self.judge_sources()
        trial = self.plan.trial(number, self.study.ask)
        self._begin(trial)
        tree = to_tree(trial.run)
        self._log(
            "ask",
            number,
            trial_id=f"{self.config.name}-{number:05d}",
            method=trial.method,
            origin=trial.origin,
            point={path: find(tree, path) for path in self.config.space},
            seed=trial.run.train.seed,
            config=tree,
        )
        self.listen("ask", trial)
        return trial

    def _go_on(self, trial: Trial) -> Trial:
        self._unfinished.remove(trial)
        self._to_begin.discard(trial.number)
        return trial

    def report(self, number: int, report: dict[str, Any]) -> bool:
        """Take a report; returns whether the trial continues."""
        trial, epoch = self.trials[number], int(report["epoch"])
        if epoch in trial.reports:
            return not trial.stop
        self._log("report", number, **report)
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
        values = self._judging.values(trial.last())
        if failure is not None:
            state, (reason, message) = FAILED, failure
        elif self._is_final(trial.last()):
            state = COMPLETE
            if values is None:
                state, reason = FAILED, "nan"
                message = f"{' or '.join(self.goals)} is undefined on this validation split"
        elif trial.stop:
            state = PRUNED
            message = "stopped by request" if number in self.stopped else None
        else:
            return
        feasible = self._judging.feasible(trial) if state == COMPLETE else None
        self._log("end", number, state=state, reason=reason, message=message, feasible=feasible)
        self._finish(trial, state, reason, feasible)
        if trial.origin == BASELINE:
            self._judge_again()
        self.listen("end", trial)

    def lost(self, number: int, cause: str, message: str, node: str | None = None) -> None:
        """Take the loss of a trial's process, node or memory: it stays RUNNING and is asked again, as after a restart.

        After an interruption there is nothing to take: every trial that has not ended is asked again then.
        """
        self.end(number)  # its last report may have been its end
        trial = self.trials[number]
        if number in self.states or self.interrupted:
            return
        self.recorder.record("lost", number, cause=cause, message=message, node=node)
        trial.losses.append(cause)
        self._unfinished.append(trial)
        self.listen("lost", trial)

    def measured_alone(self, number: int, latency: float) -> None:
        """Take a trial's latency that was measured when no trial ran; constraints are judged by it."""
        self._log("latency", number, latency_ms=latency)
        self.trials[number].measured_alone(latency)
        self._judge_again()

    def request(self, event: Mapping[str, Any]) -> None:
        """Do what a request asks, as `search.requests` puts it for the log."""
        self._log("request", -1, **event)
        self._steer(event)
        for number in event.get("retry", ()):
            self._unfinished.append(self.trials[number])
            self._to_begin.add(number)
            self.listen("retry", self.trials[number])
        for trial in [trial for trial in self._unfinished if trial.number in self.stopped]:
            self.end(self._go_on(trial).number)

    def stop_for(self, error: UserError) -> None:
        """Stop the search for something that the user has to fix, such as a full disk."""
        self.fatal, self.interrupted = error, True

    def offer(self, sources: dict[str, Found], first: Sequence[Point] = (), weighed: Sequence[str] = ()) -> None:
        """Take trials of other searches, as `offer_of` gives them, that are to be judged by the first own ones.

        The points `first` are tried before the sampler's; sources in `weighed` count by how well they agree.
        """
        self._sources, self._weighed = sources, weighed
        self.plan.remember(first)

    def learn(self, found: Found) -> None:
        """Bring trials of other searches into the study."""
        self._sources = {}
        self._ask_tell.learn(found)

    def judge_sources(self) -> Found | None:
        """Learn from the sources that agree with the own trials; None while nothing can be decided.

        Gives what was learned.
        """
        if not self._sources:
            return None
        verdict = judge(self.config, self._sources, self.study.points(), self.trials, self._weighed)
        if verdict is None:
            return None
        self._log("warm_start", -1, trials=verdict.trials, agreement=verdict.agreement)
        self.notes += verdict.notes
        self.learn(verdict.trials)
        return verdict.trials

    def ranked(self) -> list[Trial]:
        """The trials that ran their full budget, best first."""
        return ranked(self.trials.values(), self.metric)

    def tried(self) -> list[Tried]:
        """What estimates are learned from: the trials in the space that did not diverge.

        `results.estimates` reads the same from the tables of the folder.
        """
        sign = 1.0 if self.goals[self.metric] == "max" else -1.0
        found = []
        for trial in self.trials.values():
            point = self.plan.point(trial)
            if point is None or trial.reason == "nan":
                continue
            value = trial.last().get(self.metric) if trial.state == COMPLETE else None
            value = None if value is None else sign * value
            found.append(Tried(trial.number, point, value, trial.reports, ended=trial.state is not None))
        return found

    def model(self) -> Model:
        """The model that estimates are made by: of the metric that ranks, from what `tried` holds.

        The models that a search is led by are `learned`.
        """
        return model_of(self.config.space, self.tried())

    @property
    def study(self) -> Study:
        """What proposes points."""
        return self._ask_tell.study

    @property
    def learned(self) -> Learned | None:
        """The models of the search, where its sampler or scheduler needs them."""
        return self._ask_tell.learned

    @property
    def total(self) -> int:
        """The number of trials of the whole search."""
        return self.plan.total

    @property
    def running(self) -> int:
        """The number of trials that have begun and not ended, without those that still wait to run again."""
        return len(self.trials) - len(self.states) - len(self._to_begin)

    @property
    def done(self) -> bool:
        """Whether every trial has ended and no other is to come."""
        if len(self.states) < len(self.trials):
            return False
        return len(self.trials) >= self.total or (self.fatal is None and self._budget_is_spent())

    @property
    def gpu_seconds(self) -> float:
        """Seconds inside training, over all trials."""
        return gpu_seconds(self.trials.values())

    def _begin(self, trial: Trial) -> None:
        """What follows from an ask, when it happens and when it is restored."""
        self.trials[trial.number] = trial
        self.plan.began(trial)
        self._ask_tell.began(trial)

    def _take(self, trial: Trial, epoch: int, report: dict[str, Any]) -> None:
        trial.reports[epoch] = report
        values = self._judging.values(report)
        if values is None:
            return
        self._ask_tell.reported(trial, epoch)
        if self._ask_tell.restoring and isinstance(self.rungs, LearnedRungs):
            return  # the log says which trials were stopped, and the models need not be fitted again to know it
        at = position(self.config.search.scheduler, report)
        if trial.origin != BASELINE and not trial.in_full and not self._is_final(report):
            goes_on = self.rungs.report(trial.number, at, values)
            # Other searches have said more of a remembered point than its first reports do.
            trial.stop = trial.stop or (not goes_on and trial.origin != REMEMBERED)

    def _finish(self, trial: Trial, state: str, reason: str | None, feasible: bool | None) -> None:
        """What follows from an end, when it happens and when it is restored."""
        self.states[trial.number] = trial.state = state
        trial.reason, trial.feasible = reason, feasible
        self._ask_tell.ended(trial)

    def _judge_again(self) -> None:
        """Log where feasibility is not what it was."""
        for trial, feasible in self._judging.changed():
            trial.feasible = feasible
            self._log("judge", trial.number, feasible=feasible)

    def _steer(self, event: Mapping[str, Any]) -> None:
        """What follows from a request, when it is made and when it is restored."""
        self.paused = self.paused or bool(event.get("pause"))
        for point in event.get("enqueue", ()):
            self.plan.request(point)
        for number in event.get("stop", ()):
            self.trials[number].stop = True
            self.stopped.add(number)
        for number in event.get("retry", ()):
            self._again(self.trials[number])
        self._use(with_changes(self.config, event.get("changes", {})))

    def _again(self, trial: Trial) -> None:
        """Take the end of a trial back; what the study was told of it stays, and it gets a second place there.

        One that the scheduler stopped runs to its end: its reports would only be the same again.
        """
        trial.in_full = trial.in_full or (trial.state == PRUNED and trial.number not in self.stopped)
        del self.states[trial.number]
        self.stopped.discard(trial.number)
        trial.restart()
        self._ask_tell.again(trial)

    def _use(self, config: SearchConfig) -> None:
        """Go on with another configuration of the search; after a change of the space, with a new study."""
        before, self.config = self.config, config
        self.plan.config, self._spending.budget = config, config.search.budget
        if config.search.budget != before.search.budget:
            self.closed = None
        if config.space != before.space:
            self._ask_tell.change_space(config, self.trials.values(), map(self.trials.__getitem__, self.states))

    def _open_session(self) -> None:
        """Log the start of a session, once: the time before it was a pause."""
        if not self._session_is_logged:
            self._session_is_logged = True
            self.recorder.record("session", -1)

    def _log(self, event: str, number: int, **values: Any) -> None:
        self._open_session()
        self.recorder.record(event, number, **values)

    def _is_final(self, report: dict[str, Any]) -> bool:
        return bool(report.get("final", report.get("epoch", 0) >= self.max_epochs))

    def _budget_is_spent(self) -> bool:
        # The baselines are what everything is compared with: they run whatever the budget says.
        # So do those that somebody asks for by name.
        if len(self.trials) < len(self.plan.fixed) or self.plan.requested:
            return False
        ended = [trial for trial in map(self.trials.__getitem__, self.states) if self._judging.counts(trial)]
        self.closed = self._spending.closed(self.trials.values(), map(self._judging.result, ended)) or self.closed
        return self.closed is not None

    def _warm_start(self) -> None:
        """Find what other searches offer and log it: their folders may be gone when it resumes."""
        sources, first, weighed, notes = offer_of(self.config)
        self.notes += notes
        if sources or first:
            self._log("sources", -1, sources=sources, first=first, weighed=weighed)
            self.offer(sources, first, weighed)

    def _restore(self, event: Event) -> None:
        kind, number = event["event"], int(event["number"])
        self._spending.passed(event)
        if kind == "session":
            self.paused = False
        elif kind == "request":
            self._steer(event)
        elif kind == "sources":
            self.offer(event["sources"], event.get("first", ()), event.get("weighed", ()))
        elif kind == "warm_start":
            self.learn(event["trials"])
        elif kind == "ask":
            # What is left of it runs where the data are now.
            run = at_its_place(event["config"], self.plan.base, self.config.space)
            self._begin(Trial(number, event["method"], event["origin"], run))
        elif kind == "report":
            self._take(self.trials[number], int(event["epoch"]), event)
        elif kind == "lost":
            self.trials[number].losses.append(event["cause"])
        elif kind == "end":
            self._finish(self.trials[number], event["state"], event.get("reason"), event.get("feasible"))
        elif kind == "latency":
            self.trials[number].measured_alone(event["latency_ms"])
        elif kind == "judge":
            self.trials[number].feasible = event["feasible"]


def parameter_kinds(config: SearchConfig) -> dict[str, str]:
    """The column type of each searched parameter."""
    return {path: column_kind(distribution) for path, distribution in config.space.items()}
