"""Every strategy on every table, in simulated time: what a search is worth beside random trials in full.

    python runners/bench/compare.py --seeds 200 --json runs/bench/compare.json
    python runners/bench/compare.py --tables scenes methods --strategies "model + none" --seeds 20

Four tables are recorded; two are made up (`made_up.py`), as a check on the others. A search has 64 trials, 8 at once.
Printed for each table and strategy: GPU-seconds until a trial of a setting whose mean over the recorded seeds is within
0.5 points of the best has run in full, as a ratio of the median of random trials in full (quartiles in
brackets), how often that happened, and the mean regret, in points of true mean, of the setting that is handed over and
of the one with the best single score; the true mean is that of all recorded seeds, then of those that the chosen trial
did not draw, so that its own luck is no part of what it is judged by. Every search is added to the file of --json as it
ends; those that are in it already are not run again.
"""

from __future__ import annotations

import argparse
import json
import math
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from made_up import made_up
from rivals import RIVALS, is_installed, play

from bpkd_search.config import SearchConfig, load_search
from bpkd_search.files import write_text
from bpkd_search.search.backends import TableBackend, read_table
from bpkd_search.search.simulate import figures, simulate_search, with_strategy

HERE = Path(__file__).parent
# Each table with the space that it was recorded for.
TABLES: Mapping[str, tuple[Path, Path]] = {
    **{name: (HERE / "tables" / f"{name}.parquet", HERE / "tables" / f"{name}.yaml")
       for name in ("scenes", "camvid", "methods")},
    "camvid at 96x128": (HERE / "camvid_trials.parquet", HERE.parents[1] / "search_spaces" / "camvid.yaml"),
}  # fmt: skip
# Made-up tables, the surface of each, and the table whose space they have.
SPACE = "scenes"
MADE_UP = {"made up 1": 1, "made up 2": 2}
REFERENCE = "random + none"
UNSEEN = ("regret_unseen", "regret_unseen_of_best_score")
OWN = (REFERENCE, "tpe + asha", "gp + asha", "model + none", "model + asha", "model + model")


class Table:
    """A table with the search that is simulated on it."""

    def __init__(self, name: str, trials: int) -> None:
        recorded, space = TABLES[SPACE if name in MADE_UP else name]
        frame = made_up(load_search(space).space, MADE_UP[name]) if name in MADE_UP else read_table(recorded)
        self.config = load_search(space, [f"search.trials={trials}", f"train.epochs={int(frame['epoch'].max())}"])
        self.backend = TableBackend(frame, self.config)
        self.metric = self.config.search.ranked_by
        self.goal = self.backend.best(self.metric) - 0.005

    def search(self, strategy: str, seed: int, slots: int) -> dict[str, float]:
        """The figures of one search."""
        if strategy in RIVALS:
            return play(strategy, self._with("random", "asha", seed), self.backend, slots, self.goal)
        outcome = simulate_search(self._with(*strategy.split(" + "), seed), self.backend, slots=slots)
        return figures(outcome, self.backend, self.metric, self.goal)

    def _with(self, sampler: str, scheduler: str, seed: int) -> SearchConfig:
        return with_strategy(self.config, sampler, scheduler, seed)


def summary(found: pd.DataFrame) -> pd.DataFrame:
    """A row a table and strategy; `found` has one for each search."""
    rows = []
    for table, searches in found.groupby("table", sort=False):
        reference = searches.loc[searches["strategy"] == REFERENCE, "seconds_to_target"]
        random = _quantile(reference, 0.5) if len(reference) else math.nan
        for strategy, runs in searches.groupby("strategy", sort=False):
            low, middle, high = (_quantile(runs["seconds_to_target"], q) / random for q in (0.25, 0.5, 0.75))
            rows.append(
                {
                    "table": table,
                    "strategy": strategy,
                    "searches": len(runs),
                    "ratio": middle,
                    "ratio_q1": low,
                    "ratio_q3": high,
                    "reached": float(np.isfinite(runs["seconds_to_target"]).mean()),
                    "regret": 100 * float(runs["regret"].mean()),
                    "regret_of_best_score": 100 * float(runs["regret_of_best_score"].mean()),
                    **{name: 100 * float(runs[name].mean()) for name in UNSEEN if name in runs},
                }
            )
    return pd.DataFrame(rows)


def text(rows: pd.DataFrame) -> str:
    """The rows as a table in Markdown."""
    lines = [
        "| table | strategy | searches | ratio (quartiles) | reached | regret | best score | unseen | best score |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows.to_dict("records"):
        ratio = f"{row['ratio']:.2f} ({row['ratio_q1']:.2f} to {row['ratio_q3']:.2f})".replace("inf", "never")
        lines.append(
            f"| {row['table']} | {row['strategy']} | {row['searches']} | {ratio} | {row['reached']:.0%}"
            f" | {row['regret']:.2f} | {row['regret_of_best_score']:.2f} |"
            + "".join(f" {row.get(name, math.nan):.2f} |" for name in UNSEEN)
        )
    return "\n".join(lines)


def missing(given: argparse.Namespace, done: set[tuple[Any, ...]]) -> Iterator[tuple[str, str, int]]:
    """The searches that are still to run: seed after seed, so that what is there is of equal numbers."""
    for seed in range(given.first, given.first + given.seeds):
        for table in given.tables:
            for strategy in given.strategies:
                if (table, strategy, seed) not in done:
                    yield table, strategy, seed


def main(arguments: list[str] | None = None) -> None:
    """Run what is missing, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", nargs="+", choices=[*TABLES, *MADE_UP], default=[*TABLES, *MADE_UP])
    parser.add_argument("--strategies", nargs="+", choices=[*OWN, *RIVALS], default=[*OWN, *RIVALS])
    parser.add_argument("--seeds", type=int, default=200)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--trials", type=int, default=64)
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--json", type=Path, help="keep the searches in this file, and run only those that it lacks")
    given = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    for name in [name for name in given.strategies if name in RIVALS and not is_installed(name)]:
        given.strategies.remove(name)
        print(f"{name} is left out: the package {RIVALS[name][0]} is not installed")
    kept = given.json is not None and given.json.exists()
    searches = json.loads(given.json.read_text())["searches"] if kept else []
    done = {(row["table"], row["strategy"], row["seed"]) for row in searches}
    tables = {name: Table(name, given.trials) for name in given.tables}
    for table, strategy, seed in missing(given, done):
        found = tables[table].search(strategy, seed, given.slots)
        never = math.isinf(found["seconds_to_target"])
        shown = found | {"seconds_to_target": None} if never else found
        searches.append({"table": table, "strategy": strategy, "seed": seed, **shown})
        if given.json:
            write_text(given.json, json.dumps({"searches": searches}, indent=0))
    frame = pd.DataFrame(searches)
    frame["seconds_to_target"] = frame["seconds_to_target"].astype(float).fillna(math.inf)
    print(text(summary(frame)))


def _quantile(values: Any, share: float) -> float:
    return float(np.quantile(values, share, method="nearest"))


if __name__ == "__main__":
    main()
