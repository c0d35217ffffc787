"""Whether another search orders points as this one does, and what its scores are worth on this search's scale."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from bpkd_search.config.distributions import distance
from bpkd_search.config.points import Point
from bpkd_search.config.space import Choice, Distribution

# How far a trial speaks for points around it, as a share of the space's ranges: of 0.1 and 0.2, the first is better
# with two parameters and the second with five (simulated).
_WIDTH = 0.15


def squared_distances(
    space: Mapping[str, Distribution], points: Sequence[Point], others: Sequence[Point]
) -> NDArray[np.float64]:
    """The squares of `apart` of every pair, float64 [points, others]."""
    total = np.zeros((len(points), len(others)))
    for path, distribution in space.items():
        here, there = (_places(path, distribution, each) for each in (points, others))
        lacking, lacking_there = np.isnan(here)[:, None], np.isnan(there)[None]
        difference = here[:, None] - there[None]
        shares = difference != 0 if isinstance(distribution, Choice) else difference**2
        total += np.where(lacking | lacking_there, lacking != lacking_there, shares)
    return total / len(space)


def _places(path: str, distribution: Distribution, points: Sequence[Point]) -> NDArray[np.float64]:
    """Where in its range the value of each point lies, or the index of its option; NaN for points without one."""
    if isinstance(distribution, Choice):
        return np.array([distribution.options.index(p[path]) if path in p else np.nan for p in points])
    low = distribution.bounds[0]
    return np.array([distance(distribution, p[path], low) if path in p else np.nan for p in points])


def predict(
    space: Mapping[str, Distribution],
    points: Sequence[Point],
    scores: Sequence[float],
    at: Sequence[Point],
    width: float = _WIDTH,
) -> list[float]:
    """The scores expected at other points: means of all scores, weighted by a Gaussian kernel of the distance."""
    away = squared_distances(space, at, points)
    # The nearest counts in full, however far it is.
    weights = np.exp((away.min(axis=1, keepdims=True) - away) / (2 * width**2))
    return [float(mean) for mean in weights @ np.array(scores, dtype=float) / weights.sum(axis=1)]


def agreement(predicted: Sequence[float], own: Sequence[Mapping[int, float]]) -> float | None:
    """The share of pairs of trials that `predicted` orders as they came out; a tie of its own counts half.

    `own` are scores by epoch. A pair is compared at the newest epoch that both reached, so that trials that were
    stopped early count; one that is equal there says nothing. None where no pair says anything.
    """
    hits = []
    for (expected, scores), (other, others) in combinations(zip(predicted, own, strict=True), 2):
        epoch = max(scores.keys() & others.keys(), default=None)
        if epoch is not None and (difference := scores[epoch] - others[epoch]):
            hits.append(0.5 + 0.5 * float(np.sign(difference) * np.sign(expected - other)))
    return sum(hits) / len(hits) if hits else None


def on_scale(ranks: Sequence[float], own: Sequence[float]) -> list[float]:
    """Ranks from 0 to 1 as quantiles of `own`: none of them claims more than what was measured here."""
    return [float(value) for value in np.quantile(own, ranks)]
