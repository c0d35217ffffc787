"""What is expected of settings in the mean over seeds: by all trials of a search, and after further seeds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from bpkd_search.config.points import Point

if TYPE_CHECKING:
    from bpkd_search.surrogate.model import Model

Array = np.ndarray[Any, Any]

# Of the variance of scores that nothing else explains, how much is between settings; the rest is between seeds.
_BETWEEN = 0.6
# Before anything is known of what all settings share in a seed: its deviation, in deviations between seeds.
_SHARED = 2.0


class Expected(NamedTuple):
    """The expected means of settings, float64 [settings], their covariance, and the deviation between seeds."""

    mean: Array
    covariance: Array
    noise: float

    def after(self, runs: Iterable[tuple[int, int, float]]) -> Expected:
        """Return what is expected after further runs: a setting's position, a seed, and the score.

        A score that is NaN is still to come: it makes what is expected surer and does not change it. What all settings
        share in a seed is told from what is theirs.
        """
        listed = list(runs)
        known = [run for run in listed if np.isfinite(run[2])]
        found = self._observed(known) if known else self
        waiting = [run for run in listed if not np.isfinite(run[2])]
        # The seeds' effects are not kept: a run to come counts as one of a seed that nobody had.
        return Expected(found.mean, found._observed(waiting).covariance, self.noise) if waiting else found

    def _observed(self, runs: Sequence[tuple[int, int, float]]) -> Expected:
        count = len(self.mean)
        seeds = sorted({seed for _, seed, _ in runs})
        prior = np.zeros((count + len(seeds), count + len(seeds)))
        prior[:count, :count] = self.covariance
        prior[count:, count:] = (_SHARED * self.noise) ** 2 * np.eye(len(seeds))
        design = np.zeros((len(runs), len(prior)))
        for row, (setting, seed, _) in enumerate(runs):
            design[row, setting] = design[row, count + seeds.index(seed)] = 1
        values = np.array([score for *_, score in runs])
        across = prior @ design.T
        gain = np.linalg.solve(design @ across + self.noise**2 * np.eye(len(runs)), across.T).T
        mean = self.mean + (gain @ (np.nan_to_num(values) - design[:, :count] @ self.mean))[:count]
        return Expected(mean, (prior - gain @ across.T)[:count, :count], self.noise)


def expected_of(
    scores: Array, methods: Sequence[str], drawn: Array, model: Model | None = None, points: Sequence[Point | None] = ()
) -> Expected:
    """Return what is expected of settings by one score each, float64 [settings], higher is better.

    `drawn`, bool [settings], says which settings a search chose: the best of them are partly lucky. The `model` of its
    space tells what is expected at their `points`; without it, or for a setting without a point, scores are drawn
    towards the mean of their method. Others, as baselines, are expected to reach what they did.
    """
    mean, rest = scores.astype(float), np.zeros(len(scores))
    names = np.array(methods, dtype=object)
    groups = [drawn & (names == name) for name in dict.fromkeys(methods)]
    for group in groups:
        if group.sum() > 1:
            rest[group] = scores[group] - scores[group].mean()
            mean[group] = scores[group].mean() + _BETWEEN * rest[group]
    free = sum(max(int(group.sum()) - 1, 0) for group in groups)
    spread = float(np.sqrt(np.square(rest).sum() / free)) if free else 0.0
    spread = spread or float(scores.std()) or 1e-9
    noise = float(np.sqrt(1 - _BETWEEN)) * spread
    covariance = np.where(drawn, _BETWEEN, 1.0) * noise**2 * np.eye(len(scores))
    inside = [i for i, point in enumerate(points) if point is not None and drawn[i]]
    if model is None or not (model.ready and model.encoding.width and inside):
        return Expected(mean, covariance, noise)
    try:
        told, spread_of = model.predict_together([p for p in (points[i] for i in inside) if p is not None])
        unexplained = max(model.noise, 0.05 * spread)
    except (np.linalg.LinAlgError, ValueError, FloatingPointError):
        return Expected(mean, covariance, noise)
    # What the model takes for noise is in part the setting's own: the same model with that share of its noise as a
    # further term of each setting has this mean and this covariance.
    mean[inside] = told + _BETWEEN * (scores[inside] - told)
    own = _BETWEEN * (1 - _BETWEEN) * unexplained**2 * np.eye(len(inside))
    covariance[np.ix_(inside, inside)] = (1 - _BETWEEN) ** 2 * spread_of + own
    noise = float(np.sqrt(1 - _BETWEEN)) * unexplained
    fixed = np.flatnonzero(~drawn)
    covariance[fixed, fixed] = noise**2
    return Expected(mean, covariance, noise)
