"""How often the interval of the expected best holds the truth, on the recorded tables.

    python runners/bench/expected_best.py

A trial is a random setting of a method in a table with a random one of its recorded seeds; the truth is the mean of the
best of k such trials at full budget. Of each number of trials n, the shares of simulated searches of which
`results.expected_best` holds the truth: "lowest" and "mean" over k from 1 to n, "at n", "all" for every k at once; the
same under "bootstrap" of percentiles of the plug-in estimate over resampled trials. "width" is that of the interval at
n in points. With "asha", trials ran one after the other under ASHA and those that it stopped have the score that they
had: it shows why no interval is stated then. Prints a line each, and writes all as JSON to the file given by --json.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bpkd_search.results.expected_best import FEWEST, interval
from bpkd_search.search.stopping import Asha

TABLES = Path(__file__).parent / "tables"
Array = np.ndarray[Any, Any]


def curves(table: str) -> dict[str, Array]:
    """The score of every epoch of every run, [runs, epochs], by method."""
    rows = pd.read_parquet(TABLES / f"{table}.parquet")
    method = rows["loss.method"].astype(str) if "loss.method" in rows else pd.Series("bpkd", index=rows.index)
    return {
        name: own.pivot_table("miou", ["setting", "seed"], "epoch").to_numpy() for name, own in rows.groupby(method)
    }


def truth(scores: Array, n: int) -> Array:
    """The mean of the best of k draws, with replacement, for k from 1 to n."""
    places = np.arange(len(scores) + 1) / len(scores)
    return np.array([np.diff(places**k) @ np.sort(scores) for k in range(1, n + 1)])


def bootstrap(rng: np.random.Generator, scores: Array, n: int, resamples: int = 400) -> tuple[Array, Array]:
    """The plain interval: percentiles of the plug-in estimate."""
    drawn = np.sort(rng.choice(scores, (resamples, n)), axis=1)
    places = np.arange(n + 1) / n
    found = np.array([drawn @ np.diff(places**k) for k in range(1, n + 1)])
    low, high = np.quantile(found, [0.025, 0.975], axis=1)
    return low, high


def in_full(rng: np.random.Generator, ends: Array, n: int, repeats: int) -> dict[str, Any]:
    """Shares of searches in full."""
    best, inside, plain, width = truth(ends, n), [], [], []
    for _ in range(repeats):
        scores = rng.choice(ends, n)
        low, high = interval(scores)
        inside.append((low <= best) & (best <= high))
        width.append(100 * (high[-1] - low[-1]))
        low, high = bootstrap(rng, scores, n)
        plain.append((low <= best) & (best <= high))
    return {**_shares(np.array(inside)), "width": float(np.median(width)), "bootstrap": _shares(np.array(plain))}


def under_asha(rng: np.random.Generator, runs: Array, n: int, repeats: int) -> dict[str, Any]:
    """Shares of searches under ASHA, with the truth of searches in full; of those where 3 trials ran in full."""
    full = runs.shape[1]
    best, inside, stopped, width = truth(runs[:, -1], n), [], [], []
    for _ in range(repeats):
        rule, last = Asha(2, 3, full), []
        curves_drawn = runs[rng.integers(len(runs), size=n)]
        for number, curve in enumerate(curves_drawn):
            last.append(next((e for e in range(1, full) if not rule.report(number, e, (curve[e - 1],))), full))
        ended = np.array(last) == full
        stopped.append(1 - ended.mean())
        if ended.sum() >= FEWEST:
            scores = curves_drawn[np.arange(n), np.array(last) - 1]
            low, high = interval(np.where(ended, scores, np.minimum(scores, scores[ended].min())))
            inside.append((low <= best) & (best <= high))
            width.append(100 * (high[-1] - low[-1]))
    shares = _shares(np.array(inside)) if inside else {}
    return {**shares, "width": float(np.median(width or [np.nan])), "share stopped": float(np.mean(stopped))}


def _shares(inside: Array) -> dict[str, float]:
    by_k = inside.mean(0)
    return {
        "lowest": float(by_k.min()),
        "mean": float(by_k.mean()),
        "at n": float(by_k[-1]),
        "all": float(inside.all(1).mean()),
    }


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", nargs="+", default=["methods", "scenes", "camvid"])
    parser.add_argument("--trials", type=int, nargs="+", default=[4, 8, 12, 24, 48])
    parser.add_argument("--repeats", type=int, default=1000)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    given = parser.parse_args(arguments)
    found = []
    for table in given.tables:
        for method, runs in curves(table).items():
            for n in given.trials:
                rng = np.random.default_rng(n)
                about = {"table": table, "method": method, "trials": n}
                found.append({**about, "searches": "in full", **in_full(rng, runs[:, -1], n, given.repeats)})
                rows = under_asha(rng, runs, n, min(given.repeats, 200))
                found.append({**about, "searches": "asha", **rows})
                for row in found[-2:]:
                    print(*(f"{k}: {v:.3f}" if isinstance(v, float) else f"{k}: {v}" for k, v in row.items()), sep=", ")
    if given.json:
        given.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
