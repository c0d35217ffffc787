"""Asking for points and telling what became of them: a search's Optuna study and, where it has them, its models."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

from bpkd_search.config.models import SearchConfig
from bpkd_search.config.points import Point, can_take
from bpkd_search.experiment.schema import SAMPLED
from bpkd_search.experiment.trial import Trial
from bpkd_search.search.history import History
from bpkd_search.search.judging import Judging
from bpkd_search.search.learned import Learned
from bpkd_search.search.study import Study
from bpkd_search.search.warm_start import Found


class AskTell:
    """What proposes the points of a search, kept at what is known of its trials.

    While a log is read, the study only keeps what it was told (`restoring`), until `go_on`.
    """

    def __init__(
        self,
        config: SearchConfig,
        point: Callable[[Trial], Point | None],
        judging: Judging,
        say: Callable[[str], None],
    ) -> None:
        """`point` says where a trial is in the space, None for one outside; `say` takes a line for the user."""
        self.config, self._point, self._judging = config, point, judging
        self.study = cast(Study, History())
        self._say = say
        self.learned = _models_of(config, say)
        self._untold: list[Trial] = []  # ended trials that wait until they can be judged
        self._from_elsewhere: Found = []

    @property
    def restoring(self) -> bool:
        """Whether a log is being read."""
        return isinstance(self.study, History)

    @property
    def history(self) -> History:
        """What the log tells; only while `restoring`."""
        return cast(History, self.study)

    def go_on(self, study: Study) -> None:
        """Go on with a study in the state that the log says."""
        self.study = study
        self.study.learned = self.learned

    def began(self, trial: Trial) -> None:
        """Take a trial that has begun; a restored one is the study's too."""
        if (point := self._point(trial)) is None:
            return
        if self.learned is not None:
            self.learned.asked(trial.number, point)
        if self.restoring:
            self.history.asked(trial.number, point, trial.origin != SAMPLED)

    def reported(self, trial: Trial, epoch: int) -> None:
        """Take a report, if it has a value for every objective."""
        report = trial.reports[epoch]
        if self._judging.values(report) is None:
            return
        self.study.report(trial.number, epoch, [report[name] for name in self.config.search.goals])
        if self.learned is not None:
            self.learned.reported(trial.number, epoch, report)

    def ended(self, trial: Trial) -> None:
        """Take the end of a trial, and of those before that can be judged by now."""
        self._untold.append(trial)
        self._untold = [waiting for waiting in self._untold if not self._tell(waiting)]

    def again(self, trial: Trial) -> None:
        """Take a trial that runs again: what was told of it stays, and it gets a second place in the study."""
        was_told = all(waiting is not trial for waiting in self._untold)
        self._untold = [waiting for waiting in self._untold if waiting is not trial]
        if was_told and (point := self._point(trial)) is not None:
            self._place(trial.number, point)

    def learn(self, found: Found) -> None:
        """Take trials of other searches; those outside the space are passed over."""
        self._from_elsewhere = list(found)
        held = [trial for trial in found if self._holds(trial["point"])]
        self.study.learn(held)
        if self.learned is not None:
            self.learned.learn(held)

    def change_space(
        self, config: SearchConfig, study: Study | None, trials: Iterable[Trial], ended: Iterable[Trial]
    ) -> None:
        """Begin anew in another space, with those of `trials` that lie in it, `ended` ones in the order of their ends.

        `point` knows that space already. `study` is a new one, None while a log is read.
        """
        self.config = config
        self.study = cast(Study, History()) if study is None else study
        self.learned = self.study.learned = _models_of(config, self._say)
        self.learn(self._from_elsewhere)
        for trial in trials:
            if (point := self._point(trial)) is not None:
                self._place(trial.number, point)
                for epoch in trial.reports:
                    self.reported(trial, epoch)
        self._untold = [trial for trial in ended if not self._tell(trial)]

    def _place(self, number: int, point: Point) -> None:
        self.study.ask(number, point)
        if self.learned is not None:
            self.learned.asked(number, point)

    def _tell(self, trial: Trial) -> bool:
        """Tell of an end; returns False where that has to wait until the trial can be judged."""
        told = self._judging.told(trial)
        if told is not None:
            self.study.tell(trial.number, *told)
            if self.learned is not None:
                state, values, _, broken = told
                self.learned.told(trial.number, state, values, broken)
        return told is not None

    def _holds(self, point: Mapping[str, Any]) -> bool:
        return all(can_take(self.config.space[path], value) for path, value in point.items())


def _models_of(config: SearchConfig, say: Callable[[str], None]) -> Learned | None:
    """The models of a search, where its sampler or scheduler needs them."""
    search = config.search
    return Learned(config, say) if "model" in (search.sampler.name, search.scheduler.name) else None
