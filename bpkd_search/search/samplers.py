"""Optuna's samplers by name."""

from __future__ import annotations

from collections.abc import Callable

from optuna import samplers

from bpkd_search.config.search import (
    CmaEsSampler,
    GpSampler,
    Nsga2Sampler,
    QmcSampler,
    RandomSampler,
    Sampler,
    TpeSampler,
)
from bpkd_search.imports import require


def make_sampler(settings: Sampler, conditional: bool, seed: int, fixed_seed: int) -> samplers.BaseSampler:
    """The sampler that a `sampler` block names, for one ask.

    `seed` differs from ask to ask; `fixed_seed` stays, for sequences that would restart with another. A
    conditional space is sampled by TPE in groups of parameters that occur together. Raises `MissingPackageError`
    if the package of a sampler is not installed.
    """
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


def _cma_es(settings: CmaEsSampler, conditional: bool, seed: int, fixed_seed: int) -> samplers.BaseSampler:
    require("cmaes", "samplers", "search.sampler cmaes")
    return samplers.CmaEsSampler(seed=seed, n_startup_trials=settings.startup, warn_independent_sampling=False)


_MAKERS: dict[type, Callable[..., samplers.BaseSampler]] = {
    RandomSampler: lambda s, conditional, seed, fixed: samplers.RandomSampler(seed=seed),
    QmcSampler: lambda s, conditional, seed, fixed: samplers.QMCSampler(
        scramble=True, seed=fixed, warn_independent_sampling=False, warn_asynchronous_seeding=False
    ),
    TpeSampler: _tpe,
    GpSampler: lambda s, conditional, seed, fixed: samplers.GPSampler(
        seed=seed, n_startup_trials=s.startup, warn_independent_sampling=False
    ),
    CmaEsSampler: _cma_es,
    Nsga2Sampler: lambda s, conditional, seed, fixed: samplers.NSGAIISampler(seed=seed, population_size=s.population),
}
