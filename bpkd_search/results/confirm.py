"""Statistics of a confirmation: means, intervals and paired differences over seeds, and the winner, if any."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from bpkd_search.config.points import PAPER, PLAIN_BASELINES
from bpkd_search.experiment.schema import BASELINE, COMPLETE
from bpkd_search.results.selection import leads, probability_best

LEVEL = 0.95


def interval(values: np.ndarray[Any, Any]) -> tuple[float, float, float]:
    """Return the mean of values and the ends of its 95 % interval by Student's t; NaN ends for fewer than two."""
    from scipy.special import stdtrit

    count = len(values)
    mean = float(np.mean(values)) if count else np.nan
    if count < 2:
        return mean, np.nan, np.nan
    half = float(stdtrit(count - 1, 0.5 + LEVEL / 2) * np.std(values, ddof=1) / np.sqrt(count))
    return mean, mean - half, mean + half


def prediction(values: np.ndarray[Any, Any]) -> tuple[float, float]:
    """Return the ends of the 95 % prediction interval for one further value: mean +- t s sqrt(1 + 1/n).

    It assumes independent, normally distributed values; NaN ends for fewer than two.
    """
    mean, low, _ = interval(values)
    half = (mean - low) * float(np.sqrt(len(values) + 1))
    return mean - half, mean + half


def summarise(rows: pd.DataFrame, metric: str, chosen_by: str | None = None) -> pd.DataFrame:
    """Return one row per setting, best mean first, from the rows of `confirm`.

    Columns: number, method, origin, seeds (with a value of the metric), failed, mean with its interval (`low`, `high`),
    the difference from `bpkd-paper` with its interval (`vs_paper`, `vs_paper_low`, `vs_paper_high`) and from the plain
    baseline with the highest mean (`vs_plain`, ...), both over the seeds that the two share, and `p_best`, see
    `selection.probability_best`. Intervals are 95 % by Student's t over seeds; those of the verdict are also corrected
    for the number of searched settings, see `selection.leads`. Order, reference and candidate are chosen by
    `chosen_by`, by default the metric itself: nothing is chosen on a held-out split. `attrs` holds metric, paper
    and plain (numbers of the references), winner (a number or None) and verdict (a sentence).
    """
    scores, picked = (rows.pivot(index="seed", columns="number", values=m) for m in (metric, chosen_by or metric))
    states = rows.assign(settled=rows[metric].notna() | (rows["state"] != COMPLETE))
    settled = states.pivot(index="seed", columns="number", values="settled").eq(True).all(axis=1)
    about = rows.drop_duplicates("number").set_index("number")[["method", "origin"]].astype(str)
    means = picked.mean().sort_values(ascending=False, na_position="last", kind="stable")
    baselines = means[about["origin"].loc[means.index] == BASELINE].dropna().index
    methods = about["method"].loc[baselines]
    references = {
        name: None if found.empty else int(found[0])
        for name, found in (
            ("paper", baselines[methods == PAPER]),
            ("plain", baselines[methods.isin(PLAIN_BASELINES)]),
        )
    }
    best = pd.Series(probability_best(scores[settled].T.to_numpy(dtype=float)), index=scores.columns)
    lines = []
    for number in map(int, means.index):
        mine = scores[number].dropna()
        runs = rows[rows["number"] == number]
        line: dict[str, Any] = {"number": number, "method": about.at[number, "method"]}
        line |= {"origin": about.at[number, "origin"], "seeds": len(mine)}
        line |= {"failed": int((runs["state"] != COMPLETE).sum()), **_named("mean", "", mine)}
        for name, other in references.items():
            gains = mine.iloc[:0] if other in (None, number) else (mine - scores[other]).dropna()
            line |= _named(f"vs_{name}", f"vs_{name}_", gains)
        lines.append(line | {"p_best": float(best[number])})
    table = pd.DataFrame(lines, index=pd.RangeIndex(1, len(lines) + 1, name="rank"))
    winner, verdict = _verdict(table, scores, metric, references)
    table.attrs.update({"metric": metric, **references, "winner": winner, "verdict": verdict})
    return table


def label(row: pd.Series) -> str:
    """Return the display name of a setting: its method for a baseline, otherwise its trial."""
    return str(row["method"]) if row["origin"] == BASELINE else f"trial {row['number']} ({row['method']})"


def _named(mean: str, ends: str, values: pd.Series) -> dict[str, float]:
    return dict(zip((mean, f"{ends}low", f"{ends}high"), interval(values.to_numpy()), strict=True))


def format_interval(row: pd.Series, of: str) -> str:
    """Format a difference with its interval, or the interval of the mean; empty if it is missing."""
    if not of:
        return "" if np.isnan(row["low"]) else f"[{row['low']:.4f}, {row['high']:.4f}]"
    return format_gain(row[of], row[f"{of}_low"], row[f"{of}_high"])


def format_gain(gain: float, low: float, high: float) -> str:
    """Format a difference and the ends of its interval as far as they are known."""
    if np.isnan(gain):
        return ""
    return f"{gain:+.4f}" if np.isnan(low) else f"{gain:+.4f} [{low:+.4f}, {high:+.4f}]"


def _verdict(
    table: pd.DataFrame, scores: pd.DataFrame, metric: str, references: dict[str, int | None]
) -> tuple[int | None, str]:
    """Return the number of the winner, or None, and the verdict.

    A winner never failed, and the whole intervals of its differences from bpkd-paper and from the best plain baseline
    are above zero. It leads the searched settings, and the intervals are corrected for the number of those.
    """
    able = table[(table["origin"] != BASELINE) & table["mean"].notna() & (table["failed"] == 0)]
    if able.empty:
        return None, "No winner: no searched setting ran in full with every seed."
    row, parts, won = able.iloc[0], [], []
    numbers = table.loc[table["mean"].notna(), "number"].tolist()
    ends = leads(scores[numbers].T.to_numpy(dtype=float), [numbers.index(number) for number in able["number"]])
    for name, number in references.items():
        if number is None:
            continue
        other = table[table["number"] == number].iloc[0]
        low, high = (float(end[numbers.index(row["number"]), numbers.index(number)]) for end in ends)
        won.append(low > 0)
        relation = "is better than" if low > 0 else "is worse than" if high < 0 else "cannot be told from"
        gain = format_gain(row[f"vs_{name}"], low, high)
        parts.append(f"{relation} {label(other)}{', the best plain baseline' * (name == 'plain')} ({gain})")
    mean = f"{metric} {row['mean']:.4f} {format_interval(row, '')} over {row['seeds']} seeds"
    if not parts:
        return None, f"No winner: no baseline ran in full to compare {label(row)} with ({mean})."
    start = "Winner" if all(won) else "No winner beyond noise"
    return int(row["number"]) if all(won) else None, f"{start}: {label(row)}, {mean}, {' and '.join(parts)}."
