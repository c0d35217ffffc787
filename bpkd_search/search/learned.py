"""What a running search has learned: models of its objectives and limits, which propose points and stop trials."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from optuna.samplers import BaseSampler
from scipy.stats import norm

from bpkd_search.config.models import SearchConfig
from bpkd_search.config.points import Point
from bpkd_search.experiment.schema import COMPLETE
from bpkd_search.metrics.table import SCORES
from bpkd_search.search.proposals import ModelSampler
from bpkd_search.search.stopping import Values
from bpkd_search.surrogate.model import Model


class Learned:
    """One model for each objective, and one for what is left to each limit, of a search.

    It follows the search: every start, report and end goes here, in their order.
    """

    def __init__(self, config: SearchConfig) -> None:
        search = config.search
        self.config, self.goals = config, search.goals
        measures = tuple(dict.fromkeys([*SCORES, *search.goals, *(metric for metric, _, _ in search.limits())]))
        self.models = [Model(config.space, measures) for _ in search.goals]
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

    def sampler(self, base: Mapping[str, Any], first: BaseSampler, startup: int, seed: int) -> ModelSampler:
        """A sampler for one ask; the first `startup` points, and all before the models are ready, are from `first`."""
        begun = len(self.models[0].evidence) >= startup and all(model.ready for model in self.models)
        return ModelSampler(
            self.models, list(self.limits.values()), self.config.space, base, None if begun else first, seed
        )

    def chance(self, number: int) -> float:
        """How probable it is that no point run in full so far is better than this trial's, in every objective.

        Better in the mean over seeds at full budget. One while the models cannot judge.
        """
        if any(number not in model.evidence or not model.can_judge for model in self.models):
            return 1.0
        full = self.models[0].full()
        behind = 0.0
        for model in self.models:
            mean, deviation = model.estimate([number])
            behind = behind + norm.logcdf((model.estimate(full).mean - mean[0]) / deviation[0])
        return float(1 - np.exp(np.max(behind)))

    def _all(self) -> list[Model]:
        return [*self.models, *self.limits.values()]


class LearnedRungs:
    """Stops a trial whose chance to be among the best is below `chance`, from `grace` on."""

    def __init__(self, learned: Callable[[], Learned | None], grace: float, chance: float) -> None:
        """`learned` gives what the search knows at the time of a report."""
        self.learned, self.grace, self.chance = learned, grace, chance

    def report(self, number: int, position: float, values: Values) -> bool:
        """Whether trial `number` continues."""
        learned = self.learned()
        return position < self.grace or learned is None or learned.chance(number) >= self.chance
