"""What a running search has learned: models of its objectives and limits, which propose points and stop trials."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.samplers import BaseSampler

from bpkd_search.config.models import SearchConfig
from bpkd_search.config.points import Point, to_tree
from bpkd_search.config.space import Distribution
from bpkd_search.experiment.schema import COMPLETE
from bpkd_search.metrics.table import SCORES
from bpkd_search.search.agreement import predict
from bpkd_search.search.proposals import UNFITTED, Candidates, ModelSampler
from bpkd_search.search.stopping import Values
from bpkd_search.search.warm_start import Found
from bpkd_search.surrogate.model import Model

# Full trials without which no other is stopped.
_TEACH = 8


class Learned:
    """One model for each objective, and one for what is left to each limit, of a search.

    It follows the search: every start, report and end goes here, in their order.
    """

    def __init__(self, config: SearchConfig, say: Callable[[str], None] = lambda line: None) -> None:
        """`say` takes a line for the user."""
        self._say, self._failed = say, False
        search = config.search
        self.config, self.goals = config, search.goals
        measures = tuple(dict.fromkeys([*SCORES, *search.goals, *(metric for metric, _, _ in search.limits())]))
        self.rounds = config.train.rounds()
        self.models = [
            Model(config.space, measures, goal, 1 if direction == "max" else -1, self.rounds)
            for goal, direction in search.goals.items()
        ]
        self.candidates = Candidates(config.space, to_tree(config.run()))
        self.limits = {text: Model(config.space, measures) for text in search.constraints}

    def asked(self, number: int, point: Point) -> None:
        """Take a trial that has begun."""
        for model in self._all():
            model.asked(number, point)

    def reported(self, number: int, epoch: int, report: Mapping[str, Any]) -> None:
        """Take a report."""
        for model in self._all():
            model.reported(number, epoch, report)

    def told(self, number: int, state: str, values: Sequence[float] | None, broken: Mapping[str, float] | None) -> None:
        """Take an end as the study is told of it, see `Judging.told`."""
        full = values if state == COMPLETE and values is not None else [None] * len(self.models)
        for model, value, direction in zip(self.models, full, self.goals.values(), strict=True):
            model.ended(number, value if value is None or direction == "max" else -value)
        for text, model in self.limits.items():
            violation = (broken or {}).get(text)
            model.ended(number, None if violation is None else -violation)

    def learn(self, found: Found) -> None:
        """Take trials of other searches, as `Study.learn` does: the means of those around a point are a hint at it."""
        if not found:
            return
        points = [trial["point"] for trial in found]
        for place, (model, direction) in enumerate(zip(self.models, self.goals.values(), strict=True)):
            values = np.array([trial["values"][place] for trial in found]) * (1 if direction == "max" else -1)
            scores = (values - values.min()) / (np.ptp(values) or 1.0) - 0.5
            model.take_hint(partial(_expected, self.config.space, points, scores))

    def sampler(self, first: BaseSampler, startup: int, seed: int) -> BaseSampler:
        """A sampler for one ask; `startup` points, and all before the models can propose, are from `first`."""
        if len(self.models[0].evidence) < startup or not all(model.can_propose for model in self.models):
            return first
        return ModelSampler(self.models, list(self.limits.values()), self.candidates, self.failed, seed)

    def goes_on(self, number: int, chance: float) -> bool:
        """Whether a trial is to continue.

        It is where its point has at least `chance` to be better than the leading one, or where the epochs that it has
        left promise as much improvement as those of a new trial; with several objectives, in one of them. None stops
        in the first half of its epochs, or before enough have run in full: it would save less than it would teach.
        """
        if any(number not in model.evidence for model in self.models):
            return True
        left = 1 - max(self.models[0].evidence[number].reports) / self.rounds
        if left > 0.5 or any(len(model.full()) < _TEACH for model in self.models):
            return True
        try:
            if not all(model.can_judge for model in self.models):
                return True
            return any(
                model.lead(number) >= chance or model.improvement(number) >= left * self.candidates.promise(model)
                for model in self.models
            )
        except UNFITTED as e:
            self.failed(e)
            return True

    def failed(self, error: Exception) -> None:
        """Say, once, that a model could not be fitted."""
        if not self._failed:
            self._failed = True
            self._say(
                f"the model cannot be fitted ({error}): points are random and no trial is stopped while that lasts"
            )

    def _all(self) -> list[Model]:
        return [*self.models, *self.limits.values()]


def _expected(
    space: Mapping[str, Distribution], points: Sequence[Point], scores: Sequence[float], at: Sequence[Point]
) -> NDArray[np.float64]:
    return np.array(predict(space, points, scores, at))


class LearnedRungs:
    """Stops a trial that has no `chance` to be better than the leading one and is not worth its cost, from `grace`."""

    def __init__(self, learned: Callable[[], Learned | None], grace: float, chance: float) -> None:
        """`learned` gives what the search knows at the time of a report."""
        self.learned, self.grace, self.chance = learned, grace, chance

    def report(self, number: int, position: float, values: Values) -> bool:
        """Whether trial `number` continues."""
        learned = self.learned()
        return position < self.grace or learned is None or learned.goes_on(number, self.chance)
