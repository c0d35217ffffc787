"""Optuna's samplers by name."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

from optuna import samplers
from optuna.trial import Trial

from bpkd_search.config.models import Choice, Distribution, IntRange
from bpkd_search.config.search import (
    CmaEsSampler,
    GpSampler,
    Nsga2Sampler,
    QmcSampler,
    RandomSampler,
    Sampler,
    TpeSampler,
)
from bpkd_search.errors import ConfigError

# Packages that a sampler needs beyond Optuna's own; the extra `samplers` installs them.
NEEDS = {"cmaes": "cmaes"}


def make_sampler(settings: Sampler, conditional: bool, seed: int, fixed_seed: int) -> samplers.BaseSampler:
    """The sampler that a `sampler` block names, for one ask.

    `seed` differs from ask to ask; `fixed_seed` stays, for sequences that would start anew with another. A
    conditional space is sampled by TPE in groups of parameters that occur together. Errors: `ConfigError`
    naming the extra to install.
    """
    needed = NEEDS.get(settings.name)
    if needed and importlib.util.find_spec(needed) is None:
        raise ConfigError(
            [f"search.sampler: {settings.name} needs {needed}, which `pip install 'bpkd-search[samplers]'` brings"]
        )
    return _MAKERS[type(settings)](settings, conditional, seed, fixed_seed)


def _tpe(settings: TpeSampler, conditional: bool, seed: int, fixed_seed: int) -> samplers.BaseSampler:
    return samplers.TPESampler(
        seed=seed,
        n_startup_trials=settings.startup,
        n_ei_candidates=settings.candidates,
        multivariate=True,
        group=conditional,
        constant_liar=True,
    )


_MAKERS: dict[type, Callable[..., samplers.BaseSampler]] = {
    RandomSampler: lambda s, conditional, seed, fixed: samplers.RandomSampler(seed=seed),
    QmcSampler: lambda s, conditional, seed, fixed: samplers.QMCSampler(
        scramble=True, seed=fixed, warn_independent_sampling=False, warn_asynchronous_seeding=False
    ),
    TpeSampler: _tpe,
    GpSampler: lambda s, conditional, seed, fixed: samplers.GPSampler(
        seed=seed, n_startup_trials=s.startup, warn_independent_sampling=False
    ),
    CmaEsSampler: lambda s, conditional, seed, fixed: samplers.CmaEsSampler(
        seed=seed, n_startup_trials=s.startup, warn_independent_sampling=False
    ),
    Nsga2Sampler: lambda s, conditional, seed, fixed: samplers.NSGAIISampler(seed=seed, population_size=s.population),
}


def suggest(trial: Trial, path: str, distribution: Distribution) -> Any:
    """Ask an Optuna trial for one parameter."""
    if isinstance(distribution, Choice):
        return trial.suggest_categorical(path, list(distribution.options))
    low, high = distribution.bounds
    if isinstance(distribution, IntRange):
        return trial.suggest_int(path, int(low), int(high), step=distribution.step, log=distribution.log)
    value = trial.suggest_float(path, low, high, step=distribution.step, log=distribution.log)
    # On a log scale rounding can carry Optuna's TPE past an end by the last bit.
    return min(max(value, low), high)
