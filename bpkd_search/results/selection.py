"""What it takes to call the best of several settings better than another, from scores over paired seeds.

The setting that leads was chosen because it leads, so its lead is partly luck: the more settings compete and the more
often one looks, the more. Critical values here are those of the largest of all leads when nothing differs.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray[Any, Any]

# A winner is named by the lower end of a two-sided 95 % interval, so by chance in at most 2.5 % of cases.
ERROR = 0.025
# With few seeds, a setting's own spread is hardly known. The spread common to all counts as much as this many seeds
# more; settings do differ in their spread, and a larger number names more false winners among such.
SHARED = 2
# Below this many seeds, nothing is said of which setting is the best.
FEWEST = 3
DRAWS = 20_000
# Of settings with unequal seeds, the next smaller of these counts: critical values take up to a second to find.
_COUNTS = (2, 3, 4, 6, 8, 12, 16, 24, 32, 64, 128)


class Paired(NamedTuple):
    """Differences of all pairs of settings, as matrices: `gain[i, j]` is setting i minus setting j.

    `seeds` that both have, `gain` the mean difference (NaN without a shared seed), and `variance` of one difference
    (NaN where no pair shares two seeds).
    """

    seeds: Array
    gain: Array
    variance: Array

    def ratio(self) -> Array:
        """Return each difference over its standard error."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return self.gain / np.sqrt(self.variance / self.seeds)


def paired(scores: Array) -> Paired:
    """Return the differences of all pairs in `scores` [..., settings, seeds], NaN where there is none.

    The variance of a pair is the mean of its own and that of all pairs, weighted by its seeds less one and `SHARED`.
    """
    there = np.isfinite(scores)
    known = there.astype(float)
    with np.errstate(invalid="ignore", divide="ignore"):
        total = known.sum((-1, -2), keepdims=True)
        centred = np.where(there, scores, 0.0)
        centred = np.where(there, centred - centred.sum((-1, -2), keepdims=True) / total, 0.0)
        turned, seen = np.swapaxes(centred, -1, -2), np.swapaxes(known, -1, -2)
        seeds, sums, squares = known @ seen, centred @ seen, np.square(centred) @ seen
        gain = (sums - np.swapaxes(sums, -1, -2)) / seeds
        spread = squares + np.swapaxes(squares, -1, -2) - 2 * (centred @ turned) - seeds * np.square(gain)
        spread = np.where(seeds > 1, np.maximum(spread, 0.0), 0.0)
        free = np.maximum(seeds - 1, 0)
        pairs = ~np.eye(scores.shape[-2], dtype=bool)
        shared = (spread * pairs).sum((-1, -2), keepdims=True) / (free * pairs).sum((-1, -2), keepdims=True)
        variance = (SHARED * shared + spread) / (SHARED + free)
    return Paired(seeds, gain, variance)


@lru_cache(maxsize=256)
def critical(candidates: int, settings: int, looks: tuple[int, ...], error: float = ERROR) -> dict[int, float]:
    """Return what the ratio of a candidate's lead has to exceed, for each number of seeds in `looks`.

    If none of the `candidates` among `settings` is better than the one it is compared with, and noise is normal with
    one variance, any of them exceeds its value at any look with a probability of `error`; every look has the same
    share in that. For one candidate and one look this is close to Student's t, for more candidates to Dunnett's
    test. Found by simulation, always with the same draws.
    """
    settings = max(settings, candidates + 1)
    rng = np.random.default_rng(0)
    parts = []
    for _ in range(10):
        draws = rng.standard_normal((DRAWS // 10, settings, max(looks)), dtype=np.float32)
        parts.append([_largest(draws[..., :seeds], candidates) for seeds in looks])
    largest = np.concatenate([np.array(part) for part in parts], axis=1)
    # The share of draws whose value at that look is at least as large.
    rare = 1 - largest.argsort(axis=1).argsort(axis=1) / largest.shape[1]
    share = float(np.quantile(rare.min(axis=0), error))
    return {seeds: float(np.quantile(row, 1 - share)) for seeds, row in zip(looks, largest, strict=True)}


def _largest(draws: Array, candidates: int) -> Array:
    """Return the largest ratio of the first settings over the last one, for each of many draws; as `paired`."""
    seeds, settings = draws.shape[2], draws.shape[1]
    rest = draws - draws.mean(2, keepdims=True)
    rest = rest - rest.mean(1, keepdims=True)
    shared = 2 * np.square(rest).sum((1, 2)) / ((seeds - 1) * (settings - 1))
    gains = draws[:, :candidates] - draws[:, -1:]
    own = np.square(gains - gains.mean(2, keepdims=True)).sum(2)
    variance = (SHARED * shared[:, None] + own) / (SHARED + seeds - 1)
    return np.asarray((gains.mean(2) / np.sqrt(variance / seeds)).max(1))


def probability_best(scores: Array, seed: int = 0) -> Array:
    """Return the probability that each setting of `scores` [settings, seeds] has the highest mean over all seeds.

    Means are drawn from Student's t around those observed, with the settings' own spreads after what all
    share in a seed, drawn towards the common one as in `paired`. NaN for all below `FEWEST` seeds; 0 for a
    setting without a score for every seed. The draws are determined by `seed`.
    """
    settings, seeds = scores.shape
    whole = np.isfinite(scores).all(1)
    found = np.full(settings, np.nan)
    if seeds < FEWEST or not whole.any():
        return found
    found[:] = 0.0
    known = scores[whole]
    count = len(known)
    if count == 1:
        found[whole] = 1.0
        return found
    means = known.mean(1)
    rest = known - means[:, None] - (known.mean(0) - known.mean())[None]
    own = np.square(rest).sum(1) * count / (count - 1)
    free = seeds - 1
    variance = (SHARED * own.mean() / free + own) / (SHARED + free)
    spread = np.sqrt(variance / seeds)
    draws = means + spread * np.random.default_rng(seed).standard_t(SHARED + free, (DRAWS, count))
    best = draws == draws.max(1, keepdims=True)
    found[whole] = (best / best.sum(1, keepdims=True)).mean(0)
    return found


def leads(
    scores: Array, candidates: Sequence[int], looks: tuple[int, ...] | None = None, error: float = ERROR
) -> tuple[Array, Array]:
    """Return the lower and upper ends of the differences of all pairs, corrected for the number of `candidates`.

    `candidates` are those settings, by position in `scores` [settings, seeds], among which the leader is chosen; an
    interval of the leader covers the true difference in at least 95 % of cases, whichever leads. `looks`
    are the numbers of seeds at which one may look; by default there is one look, now. `error` is how often any of the
    candidates may be called better by chance. NaN where a pair shares fewer than two seeds or a number that is no look.
    """
    found = paired(scores)
    half = np.full(found.gain.shape, np.nan)
    there = np.isfinite(scores)
    free = int(there.sum() - there.any(0).sum() - there.any(1).sum()) + 1
    for seeds in {int(n) for n in np.unique(found.seeds) if n > 1}:
        # The noise is as well known as from so many settings with this number of seeds each.
        settings = min(1 + free // (seeds - 1), len(scores))
        if settings < len(scores):
            settings = max(count for count in _COUNTS if count <= max(settings, 2))
        values = critical(len(candidates), settings, looks or (seeds,), error)
        if seeds in values:
            half = np.where(found.seeds == seeds, values[seeds] * np.sqrt(found.variance / seeds), half)
    return found.gain - half, found.gain + half
