"""What is known of a search: its trials and all that follows from them, as the event log tells.

Each step of a search is an event. What follows from one is done here, when it happens and when a log is read, so that
both lead to the same state.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from optuna.storages import BaseStorage

from bpkd_search.config.changes import with_changes
from bpkd_search.config.models import SearchConfig
from bpkd_search.config.points import Point
from bpkd_search.experiment.events import Event
from bpkd_search.experiment.origin import at_its_place
from bpkd_search.experiment.schema import BASELINE, COMPLETE, PRUNED, REMEMBERED, REPLICATE
from bpkd_search.experiment.trial import Trial
from bpkd_search.search.contenders import Known, replicate
from bpkd_search.search.judging import Judging
from bpkd_search.search.learned import Learned
from bpkd_search.search.plan import Plan
from bpkd_search.search.ranking import ranked
from bpkd_search.search.rungs import position
from bpkd_search.search.spending import Spending, gpu_seconds
from bpkd_search.search.study import Study
from bpkd_search.search.tuning import Tuning
from bpkd_search.search.warm_start import Found
from bpkd_search.surrogate.model import Model
from bpkd_search.surrogate.tried import Tried, model_of


class State:
    """The trials of a search and how they ended, its study, models, rungs, plan and budget.

    `config` is the configuration as the search began, before all requests. The other arguments are those of `Engine`.
    """

    def __init__(
        self,
        config: SearchConfig,
        directory: Path,
        fixed: Sequence[Trial] | None,
        sampled: int | None,
        storage: BaseStorage | None,
        clock: Callable[[], float],
    ) -> None:
        self.config = config
        self.max_epochs = config.train.rounds()
        self.goals = config.search.goals
        self.metric = config.search.ranked_by
        self.trials: dict[int, Trial] = {}
        self.states: dict[int, str] = {}
        self.notes: list[str] = []
        self.paused = False
        self.stopped: set[int] = set()  # trials that a request ends early
        self.closed: str | None = None
        self.plan = Plan(config, fixed, sampled)
        self._judging = Judging(config.search, self.plan.fixed, self.trials)
        self._tuning = Tuning(config, self.plan, self._judging, self.trials, directory, storage, self.notes.append)
        self._spending = Spending(config.search.budget, clock)
        # Trials of other searches that wait until they can be judged; None before they were looked for.
        self._sources: dict[str, Found] | None = None
        self._weighed: Sequence[str] = ()

    def restore(self, event: Event) -> None:
        """Do what followed from an event of the log."""
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
            self._begin(Trial(number, event["method"], event["origin"], run, replicate_of=event.get("replicate_of")))
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

    def offer(self, sources: dict[str, Found], first: Sequence[Point] = (), weighed: Sequence[str] = ()) -> None:
        """Take trials of other searches, as `offer_of` gives them, that are to be judged by the first own ones.

        The points `first` are tried before the sampler's; sources in `weighed` count by how well they agree.
        """
        self._sources, self._weighed = sources, weighed
        self.plan.remember(first)

    def learn(self, found: Found) -> None:
        """Bring trials of other searches into the study."""
        self._sources = {}
        self._tuning.learn(found)

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

    def replicate(self) -> tuple[Trial, int] | None:
        """The trial whose setting runs again next, and with which seed of the race; None for a new setting."""
        if self.config.search.replicates is None:
            return None
        seed, sign = self.plan.base.train.seed, 1.0 if self.goals[self.metric] == "max" else -1.0
        return replicate(Known(self.trials, seed, self.metric, sign, self.tried, self.model))

    @property
    def study(self) -> Study:
        """What proposes points; of several methods that are tuned alike, the first one's."""
        return self._tuning.first.study

    @property
    def learned(self) -> Learned | None:
        """The models of the search, or of its first method, where its sampler or scheduler needs them."""
        return self._tuning.first.learned

    @property
    def total(self) -> int:
        """The number of trials of the whole search."""
        return self.plan.total

    @property
    def gpu_seconds(self) -> float:
        """Seconds inside training, over all trials."""
        return gpu_seconds(self.trials.values())

    def _begin(self, trial: Trial) -> None:
        """What follows from an ask, when it happens and when it is restored."""
        self.trials[trial.number] = trial
        self.plan.began(trial)
        self._tuning.began(trial)

    def _take(self, trial: Trial, epoch: int, report: dict[str, Any]) -> None:
        trial.reports[epoch] = report
        if self._judging.values(report) is not None:
            self._tuning.reported(trial, epoch)
            self._decide(trial, report)

    def _decide(self, trial: Trial, report: dict[str, Any]) -> None:
        """Decide whether a trial stops after a report that the study has been told of."""
        values = self._judging.values(report)
        at = position(self.config.search.scheduler, report)
        fixed = trial.origin in (BASELINE, REPLICATE) or trial.in_full
        if values is not None and not fixed and not self._is_final(report):
            goes_on = self._tuning.goes_on(trial, at, values)
            # Other searches have said more of a remembered point than its first reports do.
            trial.stop = trial.stop or (not goes_on and trial.origin != REMEMBERED)

    def _finish(self, trial: Trial, state: str, reason: str | None, feasible: bool | None) -> None:
        """What follows from an end, when it happens and when it is restored."""
        self.states[trial.number] = trial.state = state
        trial.reason, trial.feasible = reason, feasible
        self._tuning.ended(trial)

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
        self._tuning.again(trial)

    def _use(self, config: SearchConfig) -> None:
        """Go on with another configuration of the search; after a change of the space, with a new study."""
        before, self.config = self.config, config
        self._tuning.config = config
        self.plan.config, self._spending.budget = config, config.search.budget
        if config.search.budget != before.search.budget:
            self.closed = None
        if config.space != before.space:
            self._tuning.change_space(list(map(self.trials.__getitem__, self.states)))

    def _is_final(self, report: dict[str, Any]) -> bool:
        return bool(report.get("final", report.get("epoch", 0) >= self.max_epochs))
