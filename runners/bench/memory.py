"""What a memory of other searches is worth on recorded tables, in simulated time.

    python runners/bench/memory.py scenes camvid methods camvid_trials --seeds 200
    python runners/bench/memory.py scenes --sampler model --scheduler model

For every seed, three finished searches lie in a memory, of those that `--pool` searches of each kind left:

- sibling: the same search with another recorded training seed at every point, and other points;
- other: of another table with the same space (camvid and camvid_trials, two image sizes, teachers and lengths);
- unrelated: of the same table with its scores permuted between the settings.

Figures are medians over seeds of the GPU-seconds, of all trials together, until a trial has run in full whose
setting's mean over recorded seeds is within 0.5 points of the best: as a ratio to random search in full, and as
a ratio to the same search without memory. Infinite where the median search never gets there. Each prints one JSON
object, and writes it to the file given by --json. The tables are those of `tables/record.py` and `strategies.py`.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bpkd_search.config import SearchConfig, load_search
from bpkd_search.experiment import folder as experiment
from bpkd_search.experiment.memory import Memory
from bpkd_search.experiment.schema import COMPLETE
from bpkd_search.experiment.trial import Trial
from bpkd_search.search.backends import TableBackend, read_table
from bpkd_search.search.memory import leave
from bpkd_search.search.simulate import simulate_search, target, with_strategy

HERE = Path(__file__).parent
TABLES = ("scenes", "camvid", "methods", "camvid_trials")
OTHERS = {"camvid": "camvid_trials", "camvid_trials": "camvid"}
TRIALS, SEARCHES = 64, 3


def opened(name: str) -> tuple[pd.DataFrame, SearchConfig]:
    """A table and the search that it stands for."""
    if name == "camvid_trials":
        return read_table(HERE / "camvid_trials.parquet"), load_search(
            HERE / "tables" / "camvid.yaml", ["train.epochs=6", "name=camvid-trials"]
        )
    return read_table(HERE / "tables" / f"{name}.parquet"), load_search(HERE / "tables" / f"{name}.yaml")


def permuted(table: pd.DataFrame, config: SearchConfig, seed: int) -> pd.DataFrame:
    """The same curves, at the points of other settings."""
    key = "setting" if "setting" in table else "number"
    points = table.groupby(key)[list(config.space)].first()
    order = np.random.default_rng(seed).permutation(len(points))
    moved = points.iloc[order].set_index(points.index).reset_index()
    return table.drop(columns=list(config.space)).merge(moved, on=key)


def searched(config: SearchConfig, sampler: str, scheduler: str, seed: int, training_seed: int = 0) -> SearchConfig:
    """The search with a strategy and seeds."""
    config = with_strategy(config, sampler, scheduler, seed)
    return config.model_copy(
        update={
            "search": config.search.model_copy(update={"trials": TRIALS}),
            "train": config.train.model_copy(update={"seed": training_seed}),
        }
    )


def leave_one(name: str, kind: str, strategy: tuple[str, str], slots: int, folder: Path, index: int) -> None:
    """Run one search of a kind and leave it in a memory of its own."""
    table, config = opened(OTHERS[name] if kind == "other" else name)
    if kind == "unrelated":
        table = permuted(table, config, index)
    config = searched(config, *strategy, seed=1_000_000 + index, training_seed=1 + index % 2)
    run = folder / f"{kind}-{index}-run"
    experiment.create(run, config)
    simulate_search(config, TableBackend(table, config), slots=slots, directory=run)
    leave(run, Memory(folder / f"{kind}-{index}"))


class Reached(Exception):
    """A search has come to the target: the rest of it is not needed."""


def seconds(name: str, kind: str, strategy: tuple[str, str], slots: int, folder: Path, pool: int, seed: int) -> float:
    """GPU-seconds to the target of one search, with the memory of a kind or `none`; infinite if it never gets there."""
    table, config = opened(name)
    config = searched(config, *strategy, seed=seed)
    backend, goal, metric = TableBackend(table, config), target(config, table), config.search.ranked_by
    spent: dict[int, float] = {}

    def listen(event: str, trial: Trial) -> None:
        spent[trial.number] = float(trial.last().get("gpu_seconds", 0.0))
        if event == "end" and trial.state == COMPLETE and backend.mean(backend.nearest(trial), metric) >= goal:
            raise Reached

    with tempfile.TemporaryDirectory() as memory:
        if kind != "none":
            for index in range(SEARCHES * seed, SEARCHES * (seed + 1)):
                for file in (folder / f"{kind}-{index % pool}").iterdir():
                    Path(memory, file.name).hardlink_to(file)
            config = config.model_copy(update={"search": config.search.model_copy(update={"memory": memory})})
        try:
            simulate_search(config, backend, slots=slots, listen=listen)
        except Reached:
            return sum(spent.values())
    return math.inf


def measure(name: str, strategy: tuple[str, str], seeds: int, slots: int, pool: int, jobs: int) -> dict[str, Any]:
    """All kinds on one table."""
    # The older table has one training seed, so that a sibling would have the same luck.
    kinds = [*(["sibling"] if name != "camvid_trials" else []), *(["other"] if name in OTHERS else []), "unrelated"]
    with tempfile.TemporaryDirectory() as made, ProcessPoolExecutor(jobs) as workers:
        folder = Path(made)
        for kind in kinds:
            list(workers.map(partial(leave_one, name, kind, strategy, slots, folder), range(pool)))

        def over_seeds(kind: str, by: tuple[str, str]) -> np.ndarray[Any, Any]:
            return np.array(
                list(workers.map(partial(seconds, name, kind, by, slots, folder, pool), range(seeds), chunksize=4))
            )

        random, cold = over_seeds("none", ("random", "none")), over_seeds("none", strategy)
        found = {kind: over_seeds(kind, strategy) for kind in kinds}
    whole, without = _median(random), _median(cold)
    figures = {"random in full": _figures(random, whole, without), "no memory": _figures(cold, whole, without)}
    return figures | {kind: _figures(values, whole, without) for kind, values in found.items()}


def _figures(values: np.ndarray[Any, Any], whole: float, without: float) -> dict[str, float]:
    middle = _median(values)
    return {
        "seconds": middle,
        "of_random": middle / whole,
        "of_no_memory": middle / without,
        "reached": float(np.isfinite(values).mean()),
    }


def _median(values: np.ndarray[Any, Any]) -> float:
    return float(np.quantile(values, 0.5, method="nearest"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="+", choices=TABLES)
    parser.add_argument("--sampler", default="tpe")
    parser.add_argument("--scheduler", default="asha")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--pool", type=int, default=30, help="finished searches of each kind to draw three from")
    parser.add_argument("--slots", type=int, default=4)
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    given = parser.parse_args()
    strategy = (given.sampler, given.scheduler)
    result: dict[str, Any] = {
        "strategy": " + ".join(strategy), "trials": TRIALS, "slots": given.slots, "seeds": given.seeds,
        "tables": {
            name: measure(name, strategy, given.seeds, given.slots, given.pool, given.jobs) for name in given.tables
        },
    }  # fmt: skip
    figures = json.dumps(result, indent=2)
    print(figures)
    if given.json:
        given.json.write_text(figures + "\n")


if __name__ == "__main__":
    main()
