"""The search itself, without Ray: which trial comes next, whether it continues, and how it ended.

Ray Tune drives it through two thin adapters (`searcher`, `scheduler`), simulated time through `simulate`, a
replay through `replay`. Every step goes into the event log first, so that an engine opened on an old folder
is in the state where the last one was.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from optuna.storages import BaseStorage

from bpkd_search.config.loss import label_of
from bpkd_search.config.models import RunConfig, SearchConfig
from bpkd_search.config.paths import find
from bpkd_search.config.points import (
    BASELINES,
    PLAIN_BASELINES,
    Point,
    active_part,
    baseline_run,
    column_kind,
    coordinates,
    run_at,
    to_tree,
)
from bpkd_search.errors import UserError
from bpkd_search.experiment.events import Event, read_events
from bpkd_search.experiment.recorder import Recorder
from bpkd_search.experiment.schema import BASELINE, COMPLETE, ENQUEUED, FAILED, PRUNED, SAMPLED
from bpkd_search.experiment.trial import Trial
from bpkd_search.results.analysis import rank_correlation
from bpkd_search.search.history import History
from bpkd_search.search.ranking import ranked, violations, worst
from bpkd_search.search.stopping import Values, make_rungs, since_improvement
from bpkd_search.search.study import Study
from bpkd_search.search.warm_start import matching


class Engine:
    """Asks, reports and ends of one search, in the order they come.

    `fixed` trials come first, by default the baselines, then `enqueue:`, then the sampler's points, `sampled` in
    all (by default as the config says). Trials of origin `baseline` always run to the end.
    `listen(event, trial)` is called after each `ask`, `report`, `lost` and `end`. `storage` is where the Optuna study
    lives, by default a journal file in the folder; `clock` gives seconds, by default those since 1970.
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
        self.config, self.listen, self.clock = config, listen, clock
        self.base = config.run()
        self.max_epochs = config.train.rounds()
        self.goals = config.search.goals
        self.metric = config.search.ranked_by
        self.trials: dict[int, Trial] = {}
        self.states: dict[int, str] = {}
        self.notes: list[str] = []
        self.interrupted = False
        self.fatal: UserError | None = None
        self.closed: str | None = None
        scheduler = config.search.scheduler
        full = self.max_epochs if scheduler.axis == "epochs" else (config.train.gpu_seconds or math.inf)
        self.rungs = make_rungs(scheduler, full)
        self.fixed = baseline_trials(self.base) if fixed is None else list(fixed)
        trials = max(config.search.trials, len(config.enqueue)) if sampled is None else sampled
        self.total = len(self.fixed) + trials
        # Ended trials that the study is not told of before they can be judged, and the seeds of equal runs.
        self._untold: list[int] = []
        self._seeds: dict[str, set[int]] = {}
        self._unfinished: deque[Trial] = deque()
        self._warm: list[dict[str, Any]] | None = None
        # Seconds of the driver's time until its newest event; pauses between sessions are not counted.
        self._seconds, self._seen_at = 0.0, math.nan
        history = History()
        self.study = cast(Study, history)  # only keeps what the log tells
        for event in read_events(directory):
            self._restore(event)
        self._open_study(history, directory, storage)
        self.recorder = Recorder(directory, config.name, parameter_kinds(config), version, clock)
        self._seen_at = clock()
        self._session_is_logged = False
        if self.study.every_point is not None and len(self.study.every_point) < trials:
            self.notes.append(
                f"the space has {len(self.study.every_point)} points for {trials} trials: when all are tried,"
                " they are run again with fresh training seeds"
            )
        if self._warm is None and not self.trials:
            self._warm_start()
        for number in [n for n in self.trials if n not in self.states]:
            # The driver may have died between a last report and the end that follows from it.
            self.end(number)
            if number not in self.states:
                self._unfinished.append(self.trials[number])
        self._judge_again()

    def ask(self) -> Trial | None:
        """The next trial to run, one that a restart left unfinished first; None when there is none left."""
        if self.interrupted:
            return None
        self._open_session()
        if self._unfinished:
            return self._unfinished.popleft()
        number = len(self.trials)
        if number >= self.total or self._budget_is_spent():
            return None
        trial = self._new(number)
        self.trials[number] = trial
        self._used_seeds(trial.run).add(trial.run.train.seed)
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
        values = self._values(trial.last())
        if failure is not None:
            state, (reason, message) = FAILED, failure
        elif self._is_final(trial.last()):
            state = COMPLETE
            if values is None:
                state, reason = FAILED, "nan"
                message = f"{' or '.join(self.goals)} is undefined on this validation split"
        elif trial.stop:
            state = PRUNED
        else:
            return
        feasible = self._feasible(trial) if state == COMPLETE else None
        self._log("end", number, state=state, reason=reason, message=message, feasible=feasible)
        self._finish(trial, state, reason, feasible)
        if trial.origin == BASELINE:
            self._judge_again()
        self.listen("end", trial)

    def lost(self, number: int, cause: str, message: str, node: str | None = None) -> None:
        """Take the loss of a trial's process or node: the trial stays RUNNING and is asked again, as after a restart.

        After an interruption there is nothing to take: every trial that has not ended is asked again then.
        """
        self.end(number)  # its last report may have been its end
        trial = self.trials[number]
        if number in self.states or self.interrupted:
            return
        self.recorder.record("lost", number, cause=cause, message=message, node=node)
        trial.retries += 1
        self._unfinished.append(trial)
        self.listen("lost", trial)

    def stop_for(self, error: UserError) -> None:
        """Stop the search for something that the user has to fix, such as a full disk."""
        self.fatal, self.interrupted = error, True

    def learn(self, found: list[dict[str, Any]]) -> None:
        """Bring trials of other experiments into the study, as `warm_start.matching` gives them."""
        self._warm = found
        self.study.learn(found)

    def ranked(self) -> list[Trial]:
        """The trials that ran their full budget, best first."""
        return ranked(self.trials.values(), self.metric)

    @property
    def done(self) -> bool:
        """Whether every trial has ended and no other is to come."""
        if len(self.states) < len(self.trials):
            return False
        return len(self.trials) >= self.total or (self.fatal is None and self._budget_is_spent())

    @property
    def gpu_seconds(self) -> float:
        """Seconds inside training, over all trials."""
        return sum(float(trial.last().get("gpu_seconds", 0.0)) for trial in self.trials.values())

    def milestones(self) -> list[float]:
        """Where the scheduler judges trials, up to the farthest that any trial has come."""
        scheduler = self.config.search.scheduler
        by_epochs = scheduler.axis == "epochs"
        reached = [t.epoch if by_epochs else t.last().get("gpu_seconds", 0.0) for t in self.trials.values()]
        found, rung = [], float(scheduler.grace)
        while rung < max(reached, default=0):
            found.append(rung)
            rung *= scheduler.reduction
        return found

    def rung_correlation(self, position: float) -> tuple[float, int]:
        """Spearman's correlation of the metric at `position` with that at full budget, and over how many trials.

        `position` is on the scheduler's axis. Only trials that ran in full can be compared, baselines among them;
        those that were stopped are missing, which makes the figure a cautious one.
        """
        axis = "epoch" if self.config.search.scheduler.axis == "epochs" else "gpu_seconds"
        pairs = []
        for number, state in self.states.items():
            reports = self.trials[number].reports.values()
            early = next((r for r in reports if r.get(axis, 0) >= position), None)
            if state == COMPLETE and early is not None and early.get(self.metric) is not None:
                pairs.append((early[self.metric], self.trials[number].last()[self.metric]))
        if len(pairs) < 2:
            return math.nan, len(pairs)
        return rank_correlation([a for a, _ in pairs], [b for _, b in pairs]), len(pairs)

    def _new(self, number: int) -> Trial:
        if number < len(self.fixed):
            trial = replace(self.fixed[number], number=number, reports={})
            point = coordinates(self.config.space, self.base, trial.run)
            if point is not None:
                self.study.ask(number, point)
            return trial
        given: Point | None = None
        if number < len(self.fixed) + len(self.config.enqueue):
            given = _complete(self.config, self.base, self.config.enqueue[number - len(self.fixed)])
        run = run_at(self.base, self.study.ask(number, given))
        if used := self._used_seeds(run):
            # The same seed again would be the same training again; another one is a replicate.
            run = run.model_copy(update={"train": run.train.model_copy(update={"seed": max(used) + 1})})
        return Trial(number, label_of(run.loss), SAMPLED if given is None else ENQUEUED, run)

    def _take(self, trial: Trial, epoch: int, report: dict[str, Any]) -> None:
        trial.reports[epoch] = report
        values = self._values(report)
        if values is None:
            return
        self.study.report(trial.number, epoch, [report[name] for name in self.goals])
        position = epoch if self.config.search.scheduler.axis == "epochs" else report["gpu_seconds"]
        if trial.origin != BASELINE and not self._is_final(report):
            trial.stop = trial.stop or not self.rungs.report(trial.number, position, values)

    def _finish(self, trial: Trial, state: str, reason: str | None, feasible: bool | None) -> None:
        """What follows from an end, when it happens and when it is restored."""
        self.states[trial.number] = trial.state = state
        trial.reason, trial.feasible = reason, feasible
        self._untold.append(trial.number)
        self._untold = [number for number in self._untold if not self._tell(self.trials[number])]

    def _tell(self, trial: Trial) -> bool:
        """Tell the study of an end; returns False where that has to wait until the trial can be judged."""
        last, state = trial.last(), str(trial.state)
        told, broken = None, None
        if state == COMPLETE:
            if self._limits_may_move():
                return False
            told, broken = [last[name] for name in self.goals], self._violations(last)
        elif trial.reason == "nan":
            # Optuna's samplers take no notice of failed trials, and would propose the like again and again.
            told = self._worst()
            if told is None:
                return False
            state, broken = COMPLETE, self._all_broken()
        self.study.tell(trial.number, state, told, trial.reason, broken)
        return True

    def _limits_may_move(self) -> bool:
        """Whether a constraint depends on a baseline that has not ended."""
        return any(bound == "baseline" for _, _, bound in self.config.search.limits()) and any(
            number not in self.states for number, trial in enumerate(self.fixed) if trial.method in PLAIN_BASELINES
        )

    def _worst(self) -> list[float] | None:
        """Objectives worse than those of every full-budget trial; None before the first."""
        full = (trial.last() for trial in self.trials.values() if trial.state == COMPLETE)
        return worst(([last[name] for name in self.goals] for last in full), self.goals.values())

    def _all_broken(self) -> dict[str, float]:
        """Violations for a trial that diverged."""
        broken = dict.fromkeys(self.config.search.constraints, 1.0)
        # TPE ranks what was stopped early behind all that was not, so that a bad value alone is not the last place.
        return broken | {"diverged": 1.0} if self.config.search.sampler.name == "tpe" else broken

    def _feasible(self, trial: Trial) -> bool | None:
        """Whether a full-budget trial keeps the constraints, as far as the baselines have ended."""
        broken = self._violations(trial.last())
        return max(broken.values()) <= 0 if broken else None

    def _judge_again(self) -> None:
        """Log where feasibility is not what it was: constraints may depend on baselines that ended later."""
        for trial in self.trials.values():
            if trial.state == COMPLETE and (feasible := self._feasible(trial)) is not trial.feasible:
                trial.feasible = feasible
                self._log("judge", trial.number, feasible=feasible)

    def _since_best(self) -> int:
        """Ends in a row without a better trial; those that break a constraint are not counted."""
        ended = (self.trials[number] for number in self.states)
        return since_improvement(
            self._values(trial.last()) if trial.state == COMPLETE else None
            for trial in ended
            if trial.origin != BASELINE and trial.feasible is not False
        )

    def _used_seeds(self, run: RunConfig) -> set[int]:
        """The training seeds of the runs so far that are otherwise equal to this one."""
        same = run.model_copy(update={"train": run.train.model_copy(update={"seed": 0})})
        return self._seeds.setdefault(same.model_dump_json(), set())

    def _open_session(self) -> None:
        """Log the start of a session, once: the time before it was a pause."""
        if not self._session_is_logged:
            self._session_is_logged = True
            self.recorder.record("session", -1)

    def _log(self, event: str, number: int, **values: Any) -> None:
        self._open_session()
        self.recorder.record(event, number, **values)

    def _values(self, report: dict[str, Any]) -> Values | None:
        """The objectives with signs such that higher is better; None where one is missing or undefined."""
        values = tuple(report.get(name, math.nan) for name in self.goals)
        if any(value is None or not math.isfinite(value) for value in values):
            return None
        return tuple(v if d == "max" else -v for v, d in zip(values, self.goals.values(), strict=True))

    def _violations(self, report: dict[str, Any]) -> dict[str, float]:
        return violations(self.config.search, report, self.trials.values())

    def _is_final(self, report: dict[str, Any]) -> bool:
        return bool(report.get("final", report.get("epoch", 0) >= self.max_epochs))

    def _spent(self) -> bool:
        budget = self.config.search.budget
        seconds = self._seconds + self.clock() - self._seen_at
        if budget.hours is not None and seconds >= budget.hours * 3600:
            self.closed = f"{budget.hours:g} hours are over"
        elif budget.gpu_hours is not None and self.gpu_seconds >= budget.gpu_hours * 3600:
            self.closed = f"{budget.gpu_hours:g} GPU-hours are used up"
        elif budget.patience is not None and self._since_best() >= budget.patience:
            self.closed = f"{budget.patience} trials in a row were no improvement"
        return self.closed is not None

    def _budget_is_spent(self) -> bool:
        # The baselines are what everything is compared with: they run whatever the budget says.
        return len(self.trials) >= len(self.fixed) and self._spent()

    def _warm_start(self) -> None:
        """Find the trials of `warm_start` experiments, log them, and bring them into the study."""
        found: list[dict[str, Any]] = []
        for source in self.config.search.warm_start:
            trials, notes = matching(source, self.config, self.base)
            found += trials
            self.notes += notes
        if found:
            self._log("warm_start", -1, trials=found)
            self.learn(found)

    def _open_study(self, history: History, directory: Path, storage: BaseStorage | None) -> None:
        """Open the study in the state that the log says; one in a storage of the user's own is only told the rest."""
        if storage is not None:
            self.study = Study(storage, self.config)
            history.catch_up(self.study)
            return
        directory.mkdir(parents=True, exist_ok=True)
        self.study, note = history.open(directory, self.config)
        self.notes += [note] if note else []

    def _restore(self, event: Event) -> None:
        kind, number = event["event"], int(event["number"])
        if kind != "session" and not math.isnan(self._seen_at):
            self._seconds += event["time"] - self._seen_at
        self._seen_at = event["time"]
        if kind == "warm_start":
            self.learn(event["trials"])
        elif kind == "ask":
            run = RunConfig.model_validate(event["config"])
            self.trials[number] = Trial(number, event["method"], event["origin"], run)
            self._used_seeds(run).add(run.train.seed)
            given = event["origin"] != SAMPLED
            if event["origin"] != BASELINE or coordinates(self.config.space, self.base, run) is not None:
                point = active_part(self.config.space, to_tree(self.base), event["point"])
                cast(History, self.study).asked(number, point, given)
        elif kind == "report":
            self._take(self.trials[number], int(event["epoch"]), event)
        elif kind == "lost":
            self.trials[number].retries += 1
        elif kind == "end":
            self._finish(self.trials[number], event["state"], event.get("reason"), event.get("feasible"))
        elif kind == "judge":
            self.trials[number].feasible = event["feasible"]


def baseline_trials(base: RunConfig) -> list[Trial]:
    """What every search runs first: the base run with each baseline's loss."""
    return [Trial(number, name, BASELINE, baseline_run(base, name)) for number, name in enumerate(BASELINES)]


def parameter_kinds(config: SearchConfig) -> dict[str, str]:
    """The column type of each searched parameter."""
    return {path: column_kind(distribution) for path, distribution in config.space.items()}


def _complete(config: SearchConfig, base: RunConfig, given: Point) -> Point:
    """An enqueued point with the base run's values where it names none."""
    return coordinates(config.space, base, run_at(base, given)) or dict(given)
