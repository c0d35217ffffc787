"""The model-based sampler: the point that promises the most improvement, given all that runs and has run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial
from scipy.stats import norm

from bpkd_search.config.distributions import quantile, share_of
from bpkd_search.config.points import Point, in_order, is_active
from bpkd_search.config.space import Distribution
from bpkd_search.surrogate.encoding import Encoding, Vectors
from bpkd_search.surrogate.model import Model
from bpkd_search.surrogate.gaussian_process import Surrogate

# Candidates drawn from the whole space, and around the points that look best.
_FAR, _NEAR = 512, 64
_BEST = 5
# How far a near candidate is from its origin, as a share of each range.
_STEP = 0.15
# The share of a near candidate's parameters that differ from its origin's.
_MOVED = 0.7


class Candidates:
    """Points of a space among which a model chooses: some all over it, always the same, and some around the best.

    A point that was tried is none.
    """

    def __init__(self, space: Mapping[str, Distribution], base: Mapping[str, Any], seed: int) -> None:
        self.space, self.base, self.encoding = dict(in_order(space)), base, Encoding(space)
        shares = np.random.default_rng(seed).random((_FAR, len(space)))
        self.far = [self._point(row) for row in shares]
        self.vectors = self.encoding.vectors(self.far)

    def near(self, model: Model, random: np.random.Generator) -> tuple[list[Point], Vectors]:
        """The points and their vectors, with new ones near those that the model estimates best."""
        known = model.known()
        best = [known[i] for i in np.argsort(-model.estimate(known).mean, kind="stable")[:_BEST]]
        shares = np.array([self._shares(model.evidence[n].point, random) for n in best])
        origins = shares[random.integers(len(shares), size=_NEAR)]
        moved = origins + random.normal(0, _STEP, origins.shape) * (random.random(origins.shape) < _MOVED)
        near = [self._point(row) for row in np.clip(moved, 0, 1 - 1e-9)]
        points, vectors = [*self.far, *near], np.concatenate([self.vectors, self.encoding.vectors(near)])
        tried = {repr(evidence.point) for evidence in model.evidence.values()}
        new = [i for i, point in enumerate(points) if repr(point) not in tried]
        return ([points[i] for i in new], vectors[new]) if new else (points, vectors)

    def _shares(self, point: Point, random: np.random.Generator) -> list[float]:
        """Where in its range each value lies; parameters that the point lacks are anywhere."""
        return [share_of(d, point[path]) if path in point else float(random.random()) for path, d in self.space.items()]

    def _point(self, shares: Iterable[float]) -> Point:
        point: Point = {}
        for (path, distribution), share in zip(self.space.items(), shares, strict=True):
            if is_active(distribution, self.base, point):
                point[path] = quantile(distribution, float(share))
        return point


class ModelSampler(BaseSampler):
    """Proposes by models of the objectives and constraints after `startup` points of `first`.

    With one objective the expected improvement over the best mean decides (Jones et al. 1998), times the chance to
    keep the constraints. With several, a point drawn from the posterior of each is weighed by random weights
    (augmented Chebyshev: Knowles 2006). Running trials count as if they came out as predicted.
    """

    def __init__(
        self,
        models: Sequence[Model],
        limits: Sequence[Model],
        candidates: Candidates,
        first: BaseSampler | None,
        seed: int,
    ) -> None:
        self.models, self.limits, self.candidates = models, limits, candidates
        self.first, self.seed = first, seed

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """None: whole points are drawn."""
        return {} if self.first is None else self.first.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """A value for every active parameter."""
        if self.first is not None:
            return self.first.sample_relative(study, trial, search_space)
        random = np.random.default_rng(self.seed)
        points, vectors = self.candidates.near(self.models[0], random)
        worth = self._improvement(vectors) if len(self.models) == 1 else self._scalarised(vectors, random)
        return points[int(np.argmax(worth))]

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """A random value, of a parameter that `first` leaves out."""
        assert self.first is not None
        return self.first.sample_independent(study, trial, param_name, param_distribution)

    def _improvement(self, vectors: NDArray[np.float64]) -> NDArray[np.float64]:
        model = self.models[0]
        surrogate = model.believing(model.silent())
        best = float(model.estimate(model.full()).mean.max())
        worth = expected_improvement(surrogate, vectors, best)
        return np.log(np.maximum(worth, 1e-300)) + self._log_feasible(vectors)

    def _scalarised(self, vectors: NDArray[np.float64], random: np.random.Generator) -> NDArray[np.float64]:
        weights = random.dirichlet(np.ones(len(self.models)))
        gains = []
        for model in self.models:
            mean, deviation = model.believing(model.silent()).predict(vectors)
            values = np.array([model.evidence[n].value for n in model.full()], dtype=np.float64)
            low, high = float(values.min()), float(values.max())
            drawn = mean + deviation * random.standard_normal()
            gains.append((drawn - high) / ((high - low) or 1.0))
        weighted = np.array([weight * gain for weight, gain in zip(weights, gains, strict=True)])
        worth = weighted.min(0) + 0.05 * weighted.sum(0) + 0.1 * self._log_feasible(vectors)
        return np.asarray(worth, dtype=np.float64)

    def _log_feasible(self, vectors: NDArray[np.float64]) -> NDArray[np.float64]:
        """The logarithm of the chance to keep every constraint; a limit's model is of what is left to it."""
        total = np.zeros(len(vectors))
        for model in self.limits:
            if model.ready:
                mean, deviation = model.predict_vectors(vectors)
                total += norm.logcdf(mean / deviation)
        return total


def expected_improvement(surrogate: Surrogate, vectors: NDArray[np.float64], best: float) -> NDArray[np.float64]:
    """By how much a point's mean over seeds is expected to exceed `best`, float64 [points]."""
    mean, deviation = surrogate.predict(vectors)
    ahead = (mean - best) / deviation
    return deviation * (ahead * norm.cdf(ahead) + norm.pdf(ahead))
