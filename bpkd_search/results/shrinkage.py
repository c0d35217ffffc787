"""True means of settings from scores over seeds, not all of which every setting has, with honest intervals.

A score is the true mean of its setting, plus what all settings share in a seed, plus noise. Settings that a search
chose are drawn from one normal distribution, so that the best of several equal ones is not taken for better than it is;
others, as baselines, say nothing of one another. Where a setting has more seeds than another because it did well, the
intervals stay right as far as that picture holds: given the scores, how one came to them does not matter.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray[Any, Any]

LEVEL = 0.95
# What is tried for the spread of true means, and for that of the seeds' effects, in deviations of the noise. Each has a
# half-Cauchy prior of scale 1 (Gelman 2006, Bayesian Analysis 1:515).
_RATIOS = np.geomspace(0.05, 20, 10)
_PRIOR = np.log(_RATIOS / (1 + _RATIOS**2))
_NEGLIGIBLE = 1e-4
_HALVINGS = 26


class Means(NamedTuple):
    """The expected true mean of each setting, and the ends of its 95 % interval; float64 [settings] each."""

    mean: Array
    low: Array
    high: Array


def true_means(scores: Array, drawn: Array) -> Means:
    """Return the true means behind `scores` [settings, seeds], NaN where a setting has none.

    `drawn`, bool [settings], says which settings are draws of one distribution. NaN for a setting without a score, and
    for all ends where there are no more scores than settings.
    """
    from scipy.special import stdtr, stdtrit

    settings, seeds = scores.shape
    there = np.isfinite(scores)
    known, seen = there.any(1), there.any(0)
    together = drawn & known if (drawn & known).sum() > 1 else np.zeros(settings, dtype=bool)
    row, column = np.nonzero(there)
    values = scores[row, column]
    mean = np.full(settings, np.nan)
    if not len(values):
        return Means(mean, mean.copy(), mean.copy())
    centre = float(values.mean())
    # Columns: the common mean, then each setting, then each seed.
    design = np.zeros((len(values), 1 + settings + seeds))
    design[:, 0] = together[row]
    design[np.arange(len(values)), 1 + row] = 1
    design[np.arange(len(values)), 1 + settings + column] = 1
    kept = np.concatenate([[together.any()], known, seen])
    flat = np.concatenate([[True], ~together, np.zeros(seeds, dtype=bool)])[kept]
    design = design[:, kept]
    free = len(values) - int(flat.sum())
    target = np.zeros((settings, 1 + settings + seeds))
    target[:, 0] = together
    target[np.arange(settings), 1 + np.arange(settings)] = 1
    target = target[known][:, kept]
    if free < 1:
        mean[known] = np.nanmean(np.where(there, scores, np.nan)[known], axis=1)
        return Means(mean, np.full(settings, np.nan), np.full(settings, np.nan))
    spread, shared = (grid.ravel() for grid in np.meshgrid(_RATIOS, _RATIOS, indexing="ij"))
    is_seed = np.concatenate([[False], np.zeros(settings, dtype=bool), np.ones(seeds, dtype=bool)])[kept]
    precision = np.where(flat, 0.0, np.where(is_seed, shared[:, None] ** -2, spread[:, None] ** -2))
    inner = design.T @ design + precision[:, None, :] * np.eye(len(flat))
    inverse = np.linalg.inv(inner)
    weighed = design.T @ (values - centre)
    solved = inverse @ weighed
    rest = np.maximum(np.square(values - centre).sum() - solved @ weighed, 1e-300)
    fit = 0.5 * np.log(np.where(flat, 1.0, precision)).sum(1) - 0.5 * np.linalg.slogdet(inner)[1]
    fit += -0.5 * free * np.log(rest) + (_PRIOR[:, None] + _PRIOR[None]).ravel()
    weights = np.exp(fit - fit.max())
    counts = weights > _NEGLIGIBLE
    weights, solved, inverse, rest = (
        weights[counts] / weights[counts].sum(),
        solved[counts],
        inverse[counts],
        rest[counts],
    )
    means = solved @ target.T
    scale = np.sqrt(np.einsum("tp,gpq,tq->gt", target, inverse, target) * (rest / free)[:, None])
    low, high = mean.copy(), mean.copy()
    mean[known] = centre + weights @ means
    reach = float(stdtrit(free, 1 - 1e-5))
    for ends, share in ((low, (1 - LEVEL) / 2), (high, (1 + LEVEL) / 2)):
        below, above = (means - reach * scale).min(0), (means + reach * scale).max(0)
        for _ in range(_HALVINGS):
            middle = (below + above) / 2
            under = weights @ stdtr(free, (middle - means) / scale) < share
            below, above = np.where(under, middle, below), np.where(under, above, middle)
        ends[known] = centre + (below + above) / 2
    return Means(mean, low, high)
