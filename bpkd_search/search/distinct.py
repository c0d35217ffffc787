"""No point twice: a sampler whose points differ from those that are running or were tried."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Any

import numpy as np
from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.trial import FrozenTrial, TrialState

from bpkd_search.config.distributions import to_optuna, values, within
from bpkd_search.config.points import Point, in_order, is_active
from bpkd_search.config.space import Distribution

# Spaces of more points are too large to be exhausted; they are not listed.
_MOST = 2000
# Random points tried in place of a repeated one, in a space that cannot be listed.
_TRIES = 20


class Distinct(BaseSampler):
    """Draws whole points with `sampler`, and another one at random in place of a point that `repeats`.

    `points` lists the whole space if it is small. Once all of it is taken, the sampler's own choice stands: a
    replicate. `base` decides which conditional parameters are active.
    """

    def __init__(
        self,
        sampler: BaseSampler,
        space: Mapping[str, Distribution],
        base: Mapping[str, Any],
        repeats: Callable[[Point], bool],
        points: list[Point] | None,
        seed: int,
    ) -> None:
        self.sampler, self.space, self.base, self.repeats = sampler, space, base, repeats
        self.points, self.seed = points, seed

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """The whole space."""
        return {path: to_optuna(distribution) for path, distribution in self.space.items()}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """A value for every active parameter."""
        first = self._draw(self.sampler, study, trial)
        if not self.repeats(first):
            return first
        if self.points is not None:
            untried = [point for point in self.points if not self.repeats(point)]
            return untried[int(np.random.default_rng(self.seed).integers(len(untried)))] if untried else first
        fallback = RandomSampler(seed=self.seed)
        drawn = (self._draw(fallback, study, trial) for _ in range(_TRIES))
        return next((point for point in drawn if not self.repeats(point)), first)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """A value of one parameter, from the sampler itself."""
        return self.sampler.sample_independent(study, trial, param_name, param_distribution)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Pass on to the sampler."""
        self.sampler.before_trial(study, trial)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Any) -> None:
        """Pass on to the sampler."""
        self.sampler.after_trial(study, trial, state, values)

    def reseed_rng(self) -> None:
        """Pass on to the sampler."""
        self.sampler.reseed_rng()

    def _draw(self, sampler: BaseSampler, study: Study, trial: FrozenTrial) -> Point:
        together = sampler.sample_relative(study, trial, sampler.infer_relative_search_space(study, trial))
        point: Point = {}
        for path, distribution in in_order(self.space):
            if is_active(distribution, self.base, point):
                only = list(islice(values(distribution) or (), 2))
                if len(only) == 1:
                    point[path] = only[0]
                    continue
                if path not in together:
                    together[path] = sampler.sample_independent(study, trial, path, to_optuna(distribution))
                point[path] = within(distribution, together[path])
        return point


def every_point(space: Mapping[str, Distribution], base: Mapping[str, Any]) -> list[Point] | None:
    """All points of a space; None where it is continuous or has more than 2,000."""
    order = list(in_order(space))
    if any(values(distribution) is None for _, distribution in order):
        return None

    def complete(point: Point, index: int) -> Iterator[Point]:
        if index == len(order):
            yield point
            return
        path, distribution = order[index]
        if not is_active(distribution, base, point):
            yield from complete(point, index + 1)
            return
        for value in values(distribution) or ():
            yield from complete({**point, path: value}, index + 1)

    found = list(islice(complete({}, 0), _MOST + 1))
    return found if len(found) <= _MOST else None
