"""The distributions of a search space: as Optuna's, as a suggestion of a trial, and as a distance between values."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bpkd_search.config.points import Point, in_order, is_active
from bpkd_search.config.space import Choice, Distribution, IntRange

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.trial import Trial as OptunaTrial

_MOST_STEPS = 10_000


def to_optuna(distribution: Distribution) -> BaseDistribution:
    """The same distribution as one of Optuna."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(distribution, Choice):
        return CategoricalDistribution(list(distribution.options))
    low, high = distribution.bounds
    if isinstance(distribution, IntRange):
        return IntDistribution(int(low), int(high), step=distribution.step, log=distribution.log)
    return FloatDistribution(low, high, step=distribution.step, log=distribution.log)


def suggest(trial: OptunaTrial, path: str, distribution: Distribution) -> Any:
    """Ask an Optuna trial for the value of one parameter."""
    if isinstance(distribution, Choice):
        return trial.suggest_categorical(path, list(distribution.options))
    low, high = distribution.bounds
    if isinstance(distribution, IntRange):
        return trial.suggest_int(path, int(low), int(high), step=distribution.step, log=distribution.log)
    return within(distribution, trial.suggest_float(path, low, high, step=distribution.step, log=distribution.log))


def within(distribution: Distribution, value: Any) -> Any:
    """The value, or the end of the range that rounding on a log scale has carried it past."""
    if isinstance(distribution, Choice):
        return value
    low, high = distribution.bounds
    return min(max(value, low), high)


def values(distribution: Distribution) -> Sequence[Any] | None:
    """Every value that the distribution can give, in order; None where it is continuous."""
    if isinstance(distribution, Choice):
        return distribution.options
    low, high = distribution.bounds
    if isinstance(distribution, IntRange):
        return range(int(low), int(high) + 1, distribution.step)
    if low == high:
        return (low,)
    if distribution.step is None:
        return None
    count = int((high - low) / distribution.step + 1e-9) + 1
    # More than can be told apart in a search are as good as continuous.
    return [low + i * distribution.step for i in range(count)] if count <= _MOST_STEPS else None


def quantile(distribution: Distribution, share: float) -> Any:
    """The value that `share` of the distribution is below; `share` is in [0, 1)."""
    steps = values(distribution)
    if steps is not None and not (isinstance(distribution, IntRange) and distribution.log):
        return steps[int(share * len(steps))]
    assert not isinstance(distribution, Choice)
    # A whole number stands for all that rounds to it.
    half = 0.5 if isinstance(distribution, IntRange) else 0.0
    low, high = distribution.bounds[0] - half, distribution.bounds[1] + half
    value = low * (high / low) ** share if distribution.log else low + share * (high - low)
    return within(distribution, round(value) if half else value)


def point_at(space: Mapping[str, Distribution], base: Mapping[str, Any], shares: Mapping[str, float]) -> Point:
    """The point whose values are these quantiles of their distributions, without parameters whose `when` fails."""
    point = Point()
    for path, distribution in in_order(space):
        if is_active(distribution, base, point):
            point[path] = quantile(distribution, float(shares[path]))
    return point


def distance(distribution: Distribution, a: Any, b: Any) -> float:
    """How far apart two values of a parameter are, as a share of its range (of its log range, if it is log)."""
    if isinstance(distribution, Choice):
        return float(a != b)
    low, high = distribution.bounds
    if low == high:
        return 0.0
    if distribution.log:
        return abs(math.log(a / b)) / math.log(high / low)
    return float(abs(a - b) / (high - low))


def apart(space: Mapping[str, Distribution], a: Mapping[str, Any], b: Mapping[str, Any]) -> float:
    """How far apart two points of a space are: the root mean square of the distances by parameter.

    A parameter that only one of them has counts as a whole range.
    """
    shares = [
        distance(distribution, a[path], b[path]) if path in a and path in b else float((path in a) != (path in b))
        for path, distribution in space.items()
    ]
    return math.sqrt(sum(share**2 for share in shares) / len(shares))
