"""Who proposes the points of a search, and who stops its trials early.

That is one sampler and one rule. With `search.methods` it is one of each for every method, which know of none of the
others' trials: a method is not stopped because another one leads, and gets no fewer trials because it is behind.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from optuna.storages import BaseStorage

from bpkd_search.config.methods import METHOD, own_point, parts
from bpkd_search.config.models import SearchConfig
from bpkd_search.config.points import Point
from bpkd_search.experiment.schema import BASELINE, REPLICATE
from bpkd_search.experiment.trial import Trial
from bpkd_search.search.ask_tell import AskTell
from bpkd_search.search.history import new_studies, open_studies
from bpkd_search.search.judging import Judging
from bpkd_search.search.learned import LearnedRungs
from bpkd_search.search.plan import Plan
from bpkd_search.search.stopping import Stopping, Values, make_rungs
from bpkd_search.search.study import Study
from bpkd_search.search.turns import next_method
from bpkd_search.search.warm_start import Found


class Tuning:
    """The samplers and rules of a search by method, or the only ones under ``""``, at what is known of its trials.

    `trials` are those of the search at the time of each call. Of several methods, each has a study of its own in the
    same storage, which is by default a journal file in `directory`; baselines are in none of them, as some methods have
    one and others have not.
    """

    def __init__(
        self,
        config: SearchConfig,
        plan: Plan,
        judging: Judging,
        trials: Mapping[int, Trial],
        directory: Path,
        storage: BaseStorage | None,
        say: Callable[[str], None],
    ) -> None:
        """`say` takes a line for the user."""
        self.config, self._plan, self._trials = config, plan, trials
        self._directory, self._storage = directory, storage
        self._parts = {
            name: AskTell(one, partial(self._point, name) if name else plan.point, judging, say)
            for name, one in parts(config).items()
        }
        self._rungs = {name: _rule(part) for name, part in self._parts.items()}

    @property
    def first(self) -> AskTell:
        """The only sampler, or that of the first method."""
        return next(iter(self._parts.values()))

    def open(self) -> str | None:
        """Open the studies in the state that the log says; gives a line if their journal had to be rebuilt.

        Studies in a storage of the user's own are only told the rest.
        """
        told, note = [(part.history, part.config) for part in self._parts.values()], None
        if self._storage is not None:
            studies = [Study(self._storage, config) for _, config in told]
            for (history, _), study in zip(told, studies, strict=True):
                history.catch_up(study)
        else:
            self._directory.mkdir(parents=True, exist_ok=True)
            studies, note = open_studies(self._directory, told)
        for part, study in zip(self._parts.values(), studies, strict=True):
            part.go_on(study)
        return note

    def ask(self, number: int, given: Point | None = None) -> Point:
        """A point for trial `number`: the sampler's, of the method whose turn it is, or `given` where one is given."""
        if not (methods := self.config.search.methods):
            return self.first.study.ask(number, given)
        if given is not None:
            if number < len(self._plan.fixed):
                return given
            method = str(given.get(METHOD, self.config.loss.method))
            return {METHOD: method, **self._parts[method].study.ask(number, own_point(given))}
        by_seconds = self.config.search.budget.gpu_hours is not None
        method = next_method(methods, self._trials.values(), by_seconds=by_seconds)
        return {METHOD: method, **self._parts[method].study.ask(number)}

    def began(self, trial: Trial) -> None:
        """Take a trial that has begun; a restored one is the study's too."""
        for part in self._of(trial):
            part.began(trial)

    def reported(self, trial: Trial, epoch: int) -> None:
        """Take a report, if it has a value for every objective."""
        for part in self._of(trial):
            part.reported(trial, epoch)

    def goes_on(self, trial: Trial, position: float, values: Values) -> bool:
        """Whether a trial continues after a report that is the study's already."""
        name = self._name(trial)
        if self._parts[name].restoring and self.is_learned(trial):
            return True  # the log says which trials were stopped, and the models need not be fitted again to know it
        return self._rungs[name].report(trial.number, position, values)

    def is_learned(self, trial: Trial) -> bool:
        """Whether models decide which trials stop: then no report is judged while the log is read."""
        # A baseline may be of no method that is tuned.
        return isinstance(self._rungs.get(self._name(trial)), LearnedRungs)

    def ended(self, trial: Trial) -> None:
        """Take the end of a trial, and of those before that can be judged by now."""
        for part in self._of(trial):
            part.ended(trial)

    def again(self, trial: Trial) -> None:
        """Take a trial that runs again: what was told of it stays, and it gets a second place in its study."""
        for part in self._of(trial):
            part.again(trial)

    def learn(self, found: Found) -> None:
        """Take trials of other searches, of which there are none where methods are tuned alike."""
        self.first.learn(found)

    def change_space(self, ended: Sequence[Trial]) -> None:
        """Begin anew in the space of `config`, with the trials that lie in it; `ended` ones in the order of their ends.

        The plan has that space already. The studies so far are kept under other names.
        """
        configs = parts(self.config)
        restoring = self.first.restoring
        studies = [] if restoring else new_studies(self._directory, list(configs.values()), self._storage)
        for position, (name, part) in enumerate(self._parts.items()):
            own, own_ended = (
                [trial for trial in trials if not name or self._is_in(name, trial)]
                for trials in (self._trials.values(), ended)
            )
            part.change_space(configs[name], None if restoring else studies[position], own, own_ended)

    def points(self) -> dict[int, Point]:
        """The point of each own trial in the studies, by its number in the experiment."""
        return {
            number: {METHOD: name, **point} if name else point
            for name, part in self._parts.items()
            for number, point in part.study.points().items()
        }

    def exhausted(self) -> Iterator[str]:
        """A line for each space that has fewer points than it will get trials."""
        trials = self._plan.sampled // len(self._parts)
        for name, part in self._parts.items():
            points = part.study.every_point
            if points is not None and len(points) < trials:
                yield (
                    f"the space{f' of {name}' if name else ''} has {len(points)} points for {trials} trials: when all"
                    " are tried, they are run again with fresh training seeds"
                )

    def _of(self, trial: Trial) -> list[AskTell]:
        """What takes a trial: nothing where it is a baseline or a replicate beside several methods."""
        return [part for name, part in self._parts.items() if not name or self._is_in(name, trial)]

    def _name(self, trial: Trial) -> str:
        return trial.run.loss.method if self.config.search.methods else ""

    def _is_in(self, name: str, trial: Trial) -> bool:
        return trial.origin not in (BASELINE, REPLICATE) and trial.run.loss.method == name

    def _point(self, name: str, trial: Trial) -> Point | None:
        point = self._plan.point(trial)
        return own_point(point) if point is not None and self._is_in(name, trial) else None


def _rule(part: AskTell) -> Stopping:
    """The rule that stops the trials of a part."""
    scheduler, train = part.config.search.scheduler, part.config.train
    if scheduler.name == "model":
        return LearnedRungs(lambda: part.learned, scheduler.grace, scheduler.chance)
    return make_rungs(scheduler, train.rounds() if scheduler.axis == "epochs" else (train.gpu_seconds or math.inf))
