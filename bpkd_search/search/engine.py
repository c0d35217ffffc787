"""The search itself, without Ray: which trial comes next, whether it continues, and how it ended.

Ray Tune drives it through two thin adapters (`searcher`, `scheduler`), simulated time through `simulate`, a
replay through `replay`. Every step goes into the event log first, so that an engine opened on an old folder
is in the state where the last one was.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from optuna.storages import BaseStorage

from bpkd_search.config.models import SearchConfig
from bpkd_search.config.paths import find
from bpkd_search.config.points import column_kind, to_tree
from bpkd_search.errors import UserError
from bpkd_search.experiment.events import read_events
from bpkd_search.experiment.recorder import Recorder
from bpkd_search.experiment.requests import as_begun
from bpkd_search.experiment.schema import BASELINE, COMPLETE, FAILED, OOM, PRUNED
from bpkd_search.experiment.trial import Trial
from bpkd_search.search.memory import offer_of
from bpkd_search.search.state import State
from bpkd_search.search.warm_start import Found, judge


class Engine(State):
    """Asks, reports and ends of one search, in the order they come.

    `fixed` trials come first, by default the baselines, then `enqueue:`, then the sampler's points, `sampled` in
    all (by default as the config says). Trials of origin `baseline`, `memory` and `replicate`
    always run to the end.
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
        super().__init__(as_begun(directory, config), directory, fixed, sampled, storage, clock)
        self.interrupted = False
        self.fatal: UserError | None = None
        self._unfinished: deque[Trial] = deque()
        self._to_begin: set[int] = set()  # those of them that a request runs again and that have not begun
        last: Mapping[str, Any] = {}
        for last in read_events(directory):
            self.restore(last)
        self._use(now)
        self.paused = False
        self.notes += [note] if (note := self._tuning.open()) else []
        self.recorder = Recorder(directory, config.name, parameter_kinds(config), version, clock)
        self._spending.go_on()
        self._session_is_logged = False
        self.notes += self._tuning.exhausted()
        if self._sources is None and not self.trials:
            self._warm_start()
        # The driver may have died between a last report and the end that follows from it.
        if last.get("event") == "report" and self._tuning.is_learned(trial := self.trials[int(last["number"])]):
            self._decide(trial, trial.last())
        for number in [n for n in self.trials if n not in self.states]:
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
        trial = self.plan.trial(number, self._tuning.ask, self.replicate)
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
            **({} if trial.replicate_of is None else {"replicate_of": trial.replicate_of}),
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

    def judge_sources(self) -> Found | None:
        """Learn from the sources that agree with the own trials; None while nothing can be decided.

        Gives what was learned.
        """
        if not self._sources:
            return None
        verdict = judge(self.config, self._sources, self._tuning.points(), self.trials, self._weighed)
        if verdict is None:
            return None
        self._log("warm_start", -1, trials=verdict.trials, agreement=verdict.agreement)
        self.notes += verdict.notes
        self.learn(verdict.trials)
        return verdict.trials

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

    def _judge_again(self) -> None:
        """Log where feasibility is not what it was."""
        for trial, feasible in self._judging.changed():
            trial.feasible = feasible
            self._log("judge", trial.number, feasible=feasible)

    def _open_session(self) -> None:
        """Log the start of a session, once: the time before it was a pause."""
        if not self._session_is_logged:
            self._session_is_logged = True
            self.recorder.record("session", -1)

    def _log(self, event: str, number: int, **values: Any) -> None:
        self._open_session()
        self.recorder.record(event, number, **values)

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


def parameter_kinds(config: SearchConfig) -> dict[str, str]:
    """The column type of each searched parameter."""
    return {path: column_kind(distribution) for path, distribution in config.space.items()}
