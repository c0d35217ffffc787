"""The race over seeds inside a search: how its settings stand, and whether one of them has won.

Only fresh seeds count, those of replicates: the trial by which a setting came into the race was chosen for its score.
Every setting has its seeds in the same order, so differences are paired.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from bpkd_search.experiment.schema import BASELINE, COMPLETE, FAILED, REPLICATE
from bpkd_search.results.confirm import format_gain, label
from bpkd_search.results.expectation import expected_of
from bpkd_search.results.selection import ERROR, FEWEST, leads
from bpkd_search.results.shrinkage import Means, true_means

if TYPE_CHECKING:
    from bpkd_search.results.estimates import Searched

Array = np.ndarray[Any, Any]

# No setting runs with more fresh seeds than this; a winner may be named from `FEWEST` on, at any number.
MOST_SEEDS = 10
LOOKS = tuple(range(FEWEST, MOST_SEEDS + 1))
# Critical values are those of the next of these numbers of settings: each takes up to a second to find.
# Few settings have their own: how well their spread is known depends on how many they are.
_SIZES = (1, 2, 3, 4, 8, 16, 32, 64, 128, 256)


NO_WINNER = "No winner at this budget"
COLUMNS = (
    *("number", "method", "origin", "seeds", "failed", "expected"),
    *("mean", "low", "high", "lead", "lead_low", "lead_high"),
)


class Standing(NamedTuple):
    """How settings stand: their true means, the leader's position, its rivals', and the ends of its leads.

    `low` and `high` are those of the leader's difference from each setting, corrected for the settings of its method
    that could have led and for every number of seeds at which one could have looked; `winner` is the leader if it beats
    every rival.
    """

    means: Means
    leader: int | None
    rivals: Array
    low: Array
    high: Array
    winner: int | None


def rivals_of(leader: int, methods: Sequence[str]) -> Array:
    """Return which settings a leader has to beat: those of other methods, or all others where there is one method."""
    names = np.array(methods, dtype=object)
    others = names != names[leader]
    return np.asarray(others if others.any() else np.arange(len(names)) != leader)


def best_of_methods(mean: Array, methods: Sequence[str], able: Array) -> list[int]:
    """Return the positions of the settings that no race can pass over, by what is expected of all.

    That is the best of each method that is `able` to lead; where there is one method, the two best.
    """
    known = [i for i in np.argsort(-mean, kind="stable").tolist() if able[i] and np.isfinite(mean[i])]
    if len(set(methods)) == 1:
        return known[:2]
    return list({methods[i]: i for i in reversed(known)}.values())


def standing(
    scores: Array, methods: Sequence[str], drawn: Array, able: Array, expected: Array | None = None
) -> Standing:
    """Return how settings stand by `scores` [settings, seeds], NaN where there is none; higher is better.

    `drawn` are those that a search chose, `able` those that may lead: the others failed or break a constraint, and need
    not be beaten. The leader is a setting that beats all its rivals; of several, or where there is none, of all that
    have a score, the one whose mean is `expected` to be the best by all that is known; by default, by these scores.
    Whichever leads, intervals hold.
    """
    means = true_means(scores, drawn)
    nothing = np.full(len(scores), np.nan)
    known = np.where(able & np.isfinite(means.mean), means.mean if expected is None else expected, np.nan)
    if not np.isfinite(known).any():
        return Standing(means, None, np.zeros(len(scores), dtype=bool), nothing, nothing, None)
    low, high = all_leads(scores, methods)
    rivals = np.array([rivals_of(setting, methods) for setting in range(len(scores))]) & able
    wins = rivals.any(1) & ((low > 0) | ~rivals).all(1) & np.isfinite(known)
    leader = int(np.nanargmax(np.where(wins, known, np.nan) if wins.any() else known))
    return Standing(means, leader, rivals[leader], low[leader], high[leader], leader if wins[leader] else None)


def all_leads(scores: Array, methods: Sequence[str]) -> tuple[Array, Array]:
    """Return the ends of the differences of all pairs of settings, corrected as those of a `Standing`.

    A false winner is one of a method's settings that ran often enough, and has beaten one of another method that is no
    worse: the candidates are those of the method that has the most.
    """
    ran = [name for name, there in zip(methods, np.isfinite(scores).sum(1) >= FEWEST, strict=True) if there]
    most = max(Counter(ran).values(), default=1)
    candidates = most if len(set(methods)) > 1 else max(most - 1, 1)
    size = next((size for size in _SIZES if size >= candidates), candidates)
    # The one that they are compared with may win too: all have the same share in the error.
    return leads(scores, range(size), LOOKS, ERROR * size / (size + 1))


def summarise(
    rows: pd.DataFrame, metric: str, direction: str = "max", searched: Searched | None = None
) -> pd.DataFrame:
    """Return one row per setting of the race, the leader first, from the rows of `Leaderboard.trials`.

    In the race are the baselines, the settings that ran again, and the one of each method that is expected to be its
    best; `searched` is what the model of the space is made of.

    Columns: number (of the trial whose setting it is), method, origin, seeds (fresh ones with a value), failed,
    expected (mean over seeds, by all trials and by the fresh seeds, see `expectation`), mean (by the fresh seeds alone)
    with its 95 % interval (`low`, `high`), see `shrinkage.true_means`, and the leader's difference from it with its
    corrected interval (`lead`, `lead_low`, `lead_high`), see `Standing`. `attrs` holds metric, winner (a number or
    None), verdict (a sentence), and ahead: the number of a setting without a further seed that is expected to be better
    than all that have one, and its expected mean, or None.
    """
    sign = 1.0 if direction == "max" else -1.0
    again = rows[rows["origin"] == REPLICATE]
    table = pd.DataFrame(columns=COLUMNS, index=pd.RangeIndex(1, 1, name="rank"))
    verdict = f"{NO_WINNER}: no setting ran in full with a second seed."
    table.attrs.update(metric=metric, winner=None, verdict=verdict, ahead=None)
    full = again[(again["state"] == COMPLETE) & again[metric].notna()]
    if full.empty:
        return table
    failures = again[again["state"] == FAILED]["replicate_of"].value_counts()
    able = rows["feasible"].ne(False).fillna(True) & ~rows["number"].isin(failures.index)
    expected = _expected(rows, full, metric, sign, searched)
    known = rows[rows["number"].isin(expected)].sort_values("number")
    hopes = np.array([expected[int(number)] for number in known["number"]])
    leading = best_of_methods(hopes, known["method"].astype(str).tolist(), able[known.index].to_numpy(dtype=bool))
    racing = {*again["replicate_of"].dropna().astype(int), *known["number"].iloc[leading].astype(int)}
    settings = known[(known["origin"] == BASELINE) | known["number"].isin(racing)]
    seeds = sorted(full["seed"].unique())
    numbers, methods = settings["number"].astype(int).tolist(), settings["method"].astype(str).tolist()
    scores = np.full((len(numbers), len(seeds)), np.nan)
    for of, seed, value in zip(full["replicate_of"].astype(int), full["seed"], full[metric], strict=True):
        scores[numbers.index(of), seeds.index(seed)] = sign * float(value)
    failed = np.array([int(failures.get(number, 0)) for number in numbers])
    drawn = (settings["origin"] != BASELINE).to_numpy(dtype=bool)
    means = np.array([expected.get(number, np.nan) for number in numbers])
    fit = able[settings.index].to_numpy(dtype=bool)
    found = standing(scores, methods, drawn, fit, means)
    lines = pd.DataFrame({"number": numbers, "method": methods, "origin": settings["origin"].astype(str).to_numpy()})
    lines = lines.assign(
        seeds=np.isfinite(scores).sum(1), failed=failed, expected=sign * means, mean=sign * found.means.mean
    )
    ends = found.means.low, found.means.high
    lines["low"], lines["high"] = ends if sign > 0 else (-ends[1], -ends[0])
    first = found.leader if found.leader is not None else 0
    shared = np.isfinite(scores) & np.isfinite(scores[first])
    gains = np.where(shared, scores[first] - scores, np.nan)
    known = shared.any(1) & (np.arange(len(numbers)) != first) & (found.leader is not None)
    lines["lead"] = [float(np.nanmean(gain)) if there else np.nan for gain, there in zip(gains, known, strict=True)]
    lines["lead_low"], lines["lead_high"] = (np.where(known, end, np.nan) for end in (found.low, found.high))
    for name in ("lead", "lead_low", "lead_high"):
        lines[name] *= sign
    if sign < 0:
        lines[["lead_low", "lead_high"]] = lines[["lead_high", "lead_low"]].to_numpy()
    order = np.lexsort((np.arange(len(numbers)), -np.nan_to_num(means, nan=-np.inf)))
    places = [first, *(i for i in order if i != first)] if found.leader is not None else list(order)
    table = lines.iloc[places].set_axis(pd.RangeIndex(1, len(lines) + 1, name="rank"))
    out = rows[(rows["origin"] == BASELINE) & (rows["state"] == FAILED)]
    verdict = _verdict(lines, found, metric, [label(row) for _, row in [*out.iterrows(), *lines[~fit].iterrows()]])
    winner = None if found.winner is None else numbers[found.winner]
    hope = np.where(fit, means, -np.inf)
    waits = int(hope.argmax())
    ahead = None
    if fit.any() and hope[waits] > hope[lines["seeds"] > 0].max():
        ahead = numbers[waits], sign * float(means[waits])
    table.attrs.update(metric=metric, winner=winner, verdict=verdict, ahead=ahead)
    return table


def _expected(
    rows: pd.DataFrame, full: pd.DataFrame, metric: str, sign: float, searched: Searched | None
) -> dict[int, float]:
    """What is expected of the settings of a search, higher is better, by trial; `full` are its replicates."""
    from bpkd_search.results.estimates import fitted

    first = rows[(rows["origin"] != REPLICATE) & (rows["state"] == COMPLETE) & rows[metric].notna()]
    # Those that race have one training seed; a point that was given another does not.
    first = first[first["seed"].isin(first["seed"][first["number"].isin(full["replicate_of"])])]
    numbers = sorted(int(number) for number in first["number"])
    first = first.set_index("number").loc[numbers]
    points = {} if searched is None else {trial.number: trial.point for trial in searched.trials}
    expected = expected_of(
        sign * first[metric].to_numpy(dtype=float),
        first["method"].astype(str).tolist(),
        (first["origin"] != BASELINE).to_numpy(dtype=bool),
        None if searched is None else fitted(searched)[0],
        [points.get(number) for number in numbers],
    )
    values = sign * full[metric].astype(float)
    runs = zip(full["replicate_of"].astype(int), full["seed"].astype(int), values, strict=True)
    found = expected.after((numbers.index(of), seed, value) for of, seed, value in runs)
    return dict(zip(numbers, found.mean.tolist(), strict=True))


def _verdict(lines: pd.DataFrame, found: Standing, metric: str, out: Sequence[str]) -> str:
    left = f" Not compared, as it failed or breaks a constraint: {_listed(out)}." if out else ""
    if found.leader is None:
        return f"{NO_WINNER}: no setting that may lead ran in full with a second seed.{left}"
    row = lines.iloc[found.leader]
    interval = "" if np.isnan(row["low"]) else f" [{row['low']:.4f}, {row['high']:.4f}]"
    name = f"{label(row)}, mean {metric} {row['mean']:.4f}{interval} by {row['seeds']} fresh seeds"
    where = np.flatnonzero(found.rivals)
    others = "every other method" if set(lines["method"].iloc[where]) - {row["method"]} else "every other setting"
    if found.winner is not None:
        nearest = lines.iloc[where[np.argmin(found.low[where])]]
        gain = format_gain(nearest["lead"], nearest["lead_low"], nearest["lead_high"])
        return f"Winner, P >= 0.95: {name}, is better than {others}; nearest is {label(nearest)} ({gain}).{left}"
    if not len(where):
        return f"{NO_WINNER}: {name}, has nothing to be compared with.{left}"
    low, high = found.low[where], found.high[where]
    kinds = {
        " and is worse than": high < 0,
        " and cannot be told from": (low <= 0) & (high >= 0),
        f"; fewer than {FEWEST} seeds are shared with": np.isnan(low),
    }
    said = [f"{what} {_listed([_told(lines.iloc[i]) for i in where[of]])}" for what, of in kinds.items() if of.any()]
    return f"{NO_WINNER}: {name}, leads{''.join(said)}.{left}"


def _listed(names: Sequence[str]) -> str:
    return ", ".join([*names[:5], *([f"{len(names) - 5} others"] if len(names) > 5 else [])])


def _told(other: pd.Series) -> str:
    gain = format_gain(other["lead"], other["lead_low"], other["lead_high"])
    return f"{label(other)} ({gain or 'no shared seed'})"
