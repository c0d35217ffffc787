"""The model-based sampler: the point that promises the most improvement, given all that runs and has run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.trial import FrozenTrial
from scipy.spatial.distance import cdist
from scipy.stats import norm

from bpkd_search.config.distributions import quantile
from bpkd_search.config.points import Point, in_order, is_active
from bpkd_search.config.space import Distribution
from bpkd_search.surrogate.encoding import Encoding, Vectors
from bpkd_search.surrogate.model import Model

# There are no more candidates than this, and never more than known trials: a model of few trials ranks points roughly,
# and its first choice among hundreds would be an error of the model, most often at the edge of the space.
_MOST = 256
# So many times as many points are drawn as become candidates: those that are farthest from all that was tried.
_SPREAD = 3
# What a fit raises that is impossible.
UNFITTED = (np.linalg.LinAlgError, ValueError, FloatingPointError)
# Points with which the next candidates are compared before they are drawn.
_POOL = 128


class Candidates:
    """Points among which a model chooses, far from all that was tried.

    There are as many as known trials: as the model gets better, it chooses more strictly. Without the distance, a
    search stays where its first trials were lucky.
    """

    def __init__(self, space: Mapping[str, Distribution], base: Mapping[str, Any]) -> None:
        self.space, self.base = dict(in_order(space)), base
        random = np.random.default_rng(0)
        self._pool = [self.anywhere(random) for _ in range(_POOL)]
        self._encoded: tuple[Encoding, Vectors] | None = None

    def drawn(self, model: Model, random: np.random.Generator) -> list[Point]:
        """New candidates."""
        count = self.count(model)
        points = [self.anywhere(random) for _ in range(_SPREAD * count)]
        away = cdist(model.encoding.vectors(points), model.tried()).min(axis=1)
        points = [points[i] for i in np.sort(np.argsort(-away, kind="stable")[:count])]
        tried = {tuple(evidence.point.items()) for evidence in model.evidence.values()}
        return [point for point in points if tuple(point.items()) not in tried] or points

    def count(self, model: Model) -> int:
        """How many there are."""
        return min(max(2, len(model.known())), _MOST)

    def promise(self, model: Model) -> float:
        """The expected improvement of the point that will be chosen next."""
        if self._encoded is None or self._encoded[0] is not model.encoding:
            self._encoded = model.encoding, model.encoding.vectors(self._pool)
        worth = model.believing(model.silent()).improvement(self._encoded[1], model.best())
        return float(np.quantile(worth, 1 - 1 / self.count(model)))

    def anywhere(self, random: np.random.Generator) -> Point:
        """A random point."""
        return self._point(random.random(len(self.space)))

    def _point(self, shares: Iterable[float]) -> Point:
        point: Point = {}
        for (path, distribution), share in zip(self.space.items(), shares, strict=True):
            if is_active(distribution, self.base, point):
                point[path] = quantile(distribution, float(share))
        return point


class ModelSampler(BaseSampler):
    """Proposes by models of the objectives and constraints.

    With one objective the expected improvement over the best mean decides (Jones et al. 1998), times the chance to
    keep the constraints. With several, a point drawn from the posterior of each is weighed by random weights
    (augmented Chebyshev: Knowles 2006). Running trials count as if they came out as predicted.
    """

    def __init__(
        self,
        models: Sequence[Model],
        limits: Sequence[Model],
        candidates: Candidates,
        failed: Callable[[Exception], None],
        seed: int,
    ) -> None:
        """`failed` is told why where a model cannot be fitted; the point is random then."""
        self.models, self.limits, self.candidates = models, limits, candidates
        self.failed, self.seed = failed, seed

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """None: whole points are drawn."""
        return {}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """A value for every active parameter."""
        random = np.random.default_rng(self.seed)
        try:
            points = self.candidates.drawn(self.models[0], random)
            worth = self._improvement(points) if len(self.models) == 1 else self._scalarised(points, random)
        except UNFITTED as e:
            self.failed(e)
            return self.candidates.anywhere(random)
        return points[int(np.argmax(worth))]

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """A random value, of a parameter that a point lacks."""
        return RandomSampler(seed=self.seed).sample_independent(study, trial, param_name, param_distribution)

    def _improvement(self, points: Sequence[Point]) -> NDArray[np.float64]:
        model = self.models[0]
        worth = model.believing(model.silent()).improvement(model.encoding.vectors(points), model.best())
        return np.log(np.maximum(worth, 1e-300)) + self._log_feasible(points)

    def _scalarised(self, points: Sequence[Point], random: np.random.Generator) -> NDArray[np.float64]:
        weights = random.dirichlet(np.ones(len(self.models)))
        gains = []
        for model in self.models:
            mean, deviation = model.believing(model.silent()).predict(model.encoding.vectors(points))
            values = model.estimate(model.known()).mean
            low, high = float(values.min()), float(values.max())
            drawn = mean + deviation * random.standard_normal()
            gains.append((drawn - high) / ((high - low) or 1.0))
        weighted = np.array([weight * gain for weight, gain in zip(weights, gains, strict=True)])
        worth = weighted.min(0) + 0.05 * weighted.sum(0) + 0.1 * self._log_feasible(points)
        return np.asarray(worth, dtype=np.float64)

    def _log_feasible(self, points: Sequence[Point]) -> NDArray[np.float64]:
        """The logarithm of the chance to keep every constraint; a limit's model is of what is left to it."""
        total = np.zeros(len(points))
        for model in self.limits:
            if model.ready:
                mean, deviation = model.predict(points)
                total += norm.logcdf(mean / deviation)
        return total
