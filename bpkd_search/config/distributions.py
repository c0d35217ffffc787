"""The distributions of a search space: as Optuna's, as a suggestion of a trial, and as a distance between values."""

from __future__ import annotations

import math
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import Trial as OptunaTrial

from bpkd_search.config.models import Choice, Distribution, IntRange


def to_optuna(distribution: Distribution) -> BaseDistribution:
    """The same distribution as one of Optuna."""
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
    value = trial.suggest_float(path, low, high, step=distribution.step, log=distribution.log)
    # On a log scale rounding can carry Optuna's TPE past an end by the last bit.
    return min(max(value, low), high)


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
