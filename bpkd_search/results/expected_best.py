"""The expected best score after k trials of each method, with intervals: what a method is worth at a budget of tuning.

The best of all trials is one draw of luck, and grows with their number. The expected best of k trials compares methods
at every number of trials up to the one that was run (Dodge et al. 2019, arXiv 1909.03004).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from math import erf, sqrt
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bpkd_search.experiment.schema import COMPLETE, FAILED, PRUNED, RUNNING, SAMPLED
from bpkd_search.metrics.table import SCORES
from bpkd_search.results.analysis import violates_constraint

LEVEL = 0.95
# Fewer full trials say nothing of how far scores spread.
FEWEST = 3
# Samplers whose draws do not depend on scores.
INDEPENDENT = ("random", "qmc")

Vector = NDArray[np.float64]
# Numbers drawn for each number of trials, to find how far the estimate is from the truth.
_DRAWN = 2_000_000


def expected_best(trials: pd.DataFrame, metric: str, by: Sequence[str] = ("method",)) -> pd.DataFrame:
    """Return one row for each method (group of `by`) and k, from 1 to the number of its sampled trials that ended.

    Columns: those of `by`, k, expected_best (the mean of the best score of k of the trials, over all choices of k:
    unbiased for trials that are independent draws), expected_low and expected_high (its pointwise 95 % interval, see
    `interval`; NaN below 3 full trials, and where one was stopped early, as its end is unknown), gpu_seconds (that k
    trials take in the mean; from the column `seconds`), and the numbers of trials: all, full (without those that
    violate a constraint), stopped, failed.

    Baselines and enqueued points are nobody's draws and left out. A trial that did not run in full counts, and costs
    what it did; its score is that of its last report, but no more than the lowest of the method's full ones, and the
    lowest of all without a report. What it would have reached is unknown, so it wins over no full trial, whatever the
    method. One that violates a constraint counts alike. A method without a full trial has no row; `attrs["notes"]`
    names it.
    """
    drawn = trials[(trials["origin"] == SAMPLED) & (trials["state"] != RUNNING)]
    frames, notes = [], []
    for key, group in drawn.groupby(list(by), observed=True, sort=False):
        name = " ".join(map(str, key))
        full = (group["state"] == COMPLETE) & ~violates_constraint(group)
        if not full.any():
            notes.append(f"{name}: none of its {len(group)} trials has a full result")
            continue
        scores = _scores(group[metric].to_numpy(dtype=float), full.to_numpy())
        stopped = int((group["state"] == PRUNED).sum())
        known = full.sum() >= FEWEST and not stopped
        low, high = interval(scores) if known else (np.full(len(scores), np.nan),) * 2
        if metric in SCORES and metric != "custom_score":  # the others are shares
            low, high = np.clip(low, 0, 1), np.clip(high, 0, 1)
        k = np.arange(1, len(scores) + 1)
        frames.append(
            pd.DataFrame(
                {
                    **dict(zip(by, map(str, key), strict=True)),
                    "k": k,
                    "expected_best": best_of(scores),
                    "expected_low": low,
                    "expected_high": high,
                    "gpu_seconds": k * float(group["seconds"].fillna(0.0).mean()),
                    "trials": len(group),
                    "full": int(full.sum()),
                    "stopped": stopped,
                    "failed": int((group["state"] == FAILED).sum()),
                }
            )
        )
    table = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=[*by, "k", "expected_best"])
    table.attrs["notes"] = notes
    return table


def best_of(scores: Vector) -> Vector:
    """Return the mean of the best of k of n scores over all choices of k of them, for k from 1 to n."""
    return np.sort(scores) @ _weights(len(scores)).T


def interval(scores: Vector) -> tuple[Vector, Vector]:
    """Return the ends of the 95 % interval of the expected best of k independent draws, for k from 1 to n.

    Each holds for its own k. Nothing in n scores tells how far above them the best of n others would be, so some shape
    has to be taken for granted: the ends, in sample standard deviations from the estimate, are the widest of those
    that are exact for scores with a normal, a uniform, or an exponential distribution with its long side below.
    They are too narrow for scores whose long side is above.
    """
    if len(scores) < 2:
        return np.full(len(scores), np.nan), np.full(len(scores), np.nan)
    low, high = _ends(len(scores))
    middle, deviation = best_of(scores), float(np.std(scores, ddof=1))
    return middle + low * deviation, middle + high * deviation


def remarks_on(configs: Iterable[Mapping[str, Any]], metric: str) -> list[str]:
    """Return sentences on what the figures of experiments with these configurations mean."""
    notes = [
        f"expected best: the mean of the best {metric} of k of a method's sampled trials, with its 95 % interval for"
        " each k; one seed each. A trial that was stopped counts, and scores no more than the lowest that ran in full;"
        " a method of which one was has no interval."
    ]
    searches = [dict(config.get("search") or {}) for config in configs]
    names = [str(dict(search.get("sampler") or {}).get("name", "tpe")) for search in searches]
    if learning := [name for name in dict.fromkeys(names) if name not in INDEPENDENT]:
        notes.append(
            f"The sampler ({', '.join(learning)}) learns, so that trials are no independent draws: the curve is that of"
            " the trials in random order, and an interval is no 95 % one; it is with `sampler: random`."
        )
    if not all(search.get("methods") for search in searches):
        notes.append("Methods were not tuned alike: that takes a search with `search.methods`.")
    return notes


def _scores(scores: Vector, full: NDArray[np.bool_]) -> Vector:
    lowest = scores[full].min()
    known = np.where(full, scores, np.fmin(scores, lowest))
    return np.where(full | np.isfinite(scores), known, np.nanmin(known))


@lru_cache(maxsize=64)
def _weights(n: int) -> Vector:
    """The chance of the i-th lowest of n to be the best of k of them, float64 [k, i]: C(i - 1, k - 1) / C(n, k)."""
    factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))])
    k, i = np.arange(1, n + 1)[:, None], np.arange(1, n + 1)[None]
    ways = factorial[i - 1] - factorial[k - 1] - factorial[np.maximum(i - k, 0)]
    of_all = factorial[n] - factorial[k] - factorial[n - k]
    return np.where(i >= k, np.exp(ways - of_all), 0.0)


@lru_cache(maxsize=64)
def _ends(n: int) -> tuple[Vector, Vector]:
    """How far the truth is from the estimate for each k, in sample deviations: the ends of the widest 95 %."""
    random, runs, k = np.random.default_rng(n), max(1000, min(20_000, _DRAWN // n)), np.arange(1, n + 1)
    shapes = [
        (random.standard_normal((runs, n)), _normal(n)),
        (random.random((runs, n)), k / (k + 1)),
        (-random.exponential(size=(runs, n)), -1 / k),
    ]
    ends = []
    for drawn, truth in shapes:
        off = (truth - np.sort(drawn, axis=1) @ _weights(n).T) / drawn.std(axis=1, ddof=1, keepdims=True)
        ends.append(np.quantile(off, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0))
    low, high = np.array(ends).transpose(1, 0, 2)
    return low.min(axis=0), high.max(axis=0)


def _normal(n: int) -> Vector:
    """The expected best of k standard normal numbers, for k from 1 to n."""
    x = np.linspace(-9, 9, 3601)
    below = np.array([0.5 * (1 + erf(value / sqrt(2))) for value in x])
    powers = below[None] ** np.arange(1, n + 1)[:, None]
    # The mean of what is above -9 is the integral of the chance to be above; trapezoids.
    above = 1 - powers
    return np.asarray(-9 + (above[:, 1:] + above[:, :-1]).sum(axis=1) * (x[1] - x[0]) / 2, dtype=np.float64)
