"""Optuna's samplers by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from optuna import Study, samplers
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial

from bpkd_search.config.distributions import quantile, to_optuna
from bpkd_search.config.search import (
    CmaEsSampler,
    GpSampler,
    ModelSampler,
    Nsga2Sampler,
    QmcSampler,
    RandomSampler,
    Sampler,
    TpeSampler,
)
from bpkd_search.config.space import Distribution
from bpkd_search.imports import require


class Sobol(samplers.BaseSampler):
    """Scrambled Sobol points of the whole space: trial `number` has the point of that index, whatever was told.

    Conditional parameters have dimensions of their own, unused where they are inactive. Optuna's own QMC sampler
    takes the parameters of the first trial for the space, and draws all others at random.
    """

    def __init__(self, space: Mapping[str, Distribution], seed: int, number: int) -> None:
        self.space, self.seed, self.number = space, seed, number
        self._random = samplers.RandomSampler(seed=seed)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """The whole space, conditional parameters included."""
        return {path: to_optuna(distribution) for path, distribution in self.space.items()}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The point of this trial's index."""
        from scipy.stats import qmc  # imports slowly

        sequence = qmc.Sobol(len(self.space), scramble=True, seed=self.seed)
        if self.number:
            sequence.fast_forward(self.number)
        shares = sequence.random(1)[0]
        return {
            path: quantile(distribution, float(share))
            for (path, distribution), share in zip(self.space.items(), shares, strict=True)
        }

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """A random value."""
        return self._random.sample_independent(study, trial, param_name, param_distribution)


def make_sampler(
    settings: Sampler, space: Mapping[str, Distribution], seed: int, fixed_seed: int, number: int
) -> samplers.BaseSampler:
    """The sampler that a `sampler` block names, for the ask of trial `number`; for `model` the one that begins.

    Where methods are tuned alike, `number` counts the trials of the method.
    `seed` differs from ask to ask; `fixed_seed` stays, for sequences that would restart with another. A
    conditional space is sampled by TPE in groups of parameters that occur together. Raises `MissingPackageError`
    if the package of a sampler is not installed.
    """
    if isinstance(settings, QmcSampler | ModelSampler):
        return Sobol(space, fixed_seed, number)
    return _MAKERS[type(settings)](settings, any(distribution.when for distribution in space.values()), seed)


def _tpe(settings: TpeSampler, conditional: bool, seed: int) -> samplers.BaseSampler:
    return samplers.TPESampler(
        seed=seed,
        n_startup_trials=settings.startup,
        n_ei_candidates=settings.candidates,
        multivariate=True,
        group=conditional,
        constant_liar=True,
    )


def _cma_es(settings: CmaEsSampler, conditional: bool, seed: int) -> samplers.BaseSampler:
    require("cmaes", "samplers", "search.sampler cmaes")
    return samplers.CmaEsSampler(seed=seed, n_startup_trials=settings.startup, warn_independent_sampling=False)


_MAKERS: dict[type, Callable[..., samplers.BaseSampler]] = {
    RandomSampler: lambda s, conditional, seed: samplers.RandomSampler(seed=seed),
    TpeSampler: _tpe,
    GpSampler: lambda s, conditional, seed: samplers.GPSampler(
        seed=seed, n_startup_trials=s.startup, warn_independent_sampling=False
    ),
    CmaEsSampler: _cma_es,
    Nsga2Sampler: lambda s, conditional, seed: samplers.NSGAIISampler(seed=seed, population_size=s.population),
}
