"""How much of what varies over a space is due to each parameter: Sobol's indices of the model's mean."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import qmc

from bpkd_search.config.distributions import point_at
from bpkd_search.config.points import Point, in_order
from bpkd_search.config.space import Distribution

Values = NDArray[np.float64]
# Two to this power points, for the whole space and for each parameter. Shares are then right to about 0.015.
_POWER = 10


class Shares(NamedTuple):
    """Shares of the variance by parameter, and the standard deviation over the space.

    `alone` is what a parameter explains by itself, `total` what it explains with all its interactions.
    """

    alone: dict[str, float]
    total: dict[str, float]
    deviation: float


def variance_shares(
    predict: Callable[[Sequence[Point]], Values],
    space: Mapping[str, Distribution],
    base: Mapping[str, Any],
    seed: int = 0,
) -> Shares:
    """Return the shares of each parameter in the variance of `predict` over points drawn at random from the space.

    `predict` gives float64 [points]. A parameter counts only at points that have it (`when`, with the values of `base`
    for what is not searched). NaN where nothing varies. First-order indices after Saltelli et al. 2010, totals after
    Jansen 1999, on points of a Sobol sequence scrambled by `seed`.
    """
    paths = [path for path, _ in in_order(space)]
    drawn = qmc.Sobol(2 * len(paths), scramble=True, seed=seed).random_base2(_POWER)
    one, other = drawn[:, : len(paths)], drawn[:, len(paths) :]

    def values(shares: Values) -> Values:
        return predict([point_at(space, base, dict(zip(paths, row, strict=True))) for row in shares])

    at_one, at_other = values(one), values(other)
    middle = float(np.concatenate([at_one, at_other]).mean())
    at_one, at_other = at_one - middle, at_other - middle
    variance = float(np.concatenate([at_one, at_other]).var())
    alone, total = dict.fromkeys(paths, np.nan), dict.fromkeys(paths, np.nan)
    if variance > 1e-12 * middle**2:
        for place, path in enumerate(paths):
            mixed = one.copy()
            mixed[:, place] = other[:, place]
            at_mixed = values(mixed) - middle
            alone[path] = max(0.0, float(np.mean(at_other * (at_mixed - at_one))) / variance)
            total[path] = float(np.mean((at_one - at_mixed) ** 2)) / (2 * variance)
    return Shares(alone, total, variance**0.5)
