"""Record a search space as a table: every setting with several training seeds, every epoch, by the tool itself.

    python runners/bench/tables/record.py scenes --runs DIR
    python runners/bench/tables/record.py camvid --runs DIR --root CAMVID --weights LITE2.safetensors
    python runners/bench/tables/record.py methods --runs DIR

One search without early stopping for each seed, by the space NAME.yaml beside this file; their random points are the
same, as a random point depends on the search's seed and the trial's number alone. A recording that was interrupted
goes on. NAME.parquet holds a row an epoch: `setting`, `seed`, the parameters, `epoch`, `gpu_seconds`, the metrics; its
metadata say with what command, commit, versions and CPU time it was made.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from datetime import date
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from bpkd_search import Leaderboard, __version__, resume_search, run_search
from bpkd_search.config import load_search
from bpkd_search.experiment.schema import BASELINE
from bpkd_search.metrics.table import SCORES

HERE = Path(__file__).parent


def record(name: str, seeds: int, runs: Path, overrides: list[str]) -> pd.DataFrame:
    """The rows of all seeds; the searches lie in `runs`."""
    parts = []
    for seed in range(seeds):
        folder = runs / f"{name}-{seed}"
        config = load_search(HERE / f"{name}.yaml", [*overrides, f"train.seed={seed}", f"name={folder.name}"])
        if folder.exists():
            resume_search(folder)
        else:
            run_search(config, folder)
        board = Leaderboard(folder)
        trials = board.trials()
        trials = trials[trials["origin"] != BASELINE].sort_values("number")
        trials["setting"] = range(len(trials))
        rows = board.reports().merge(trials[["number", "setting", *board.parameters]], on="number")
        parts.append(rows.assign(seed=seed)[
            ["setting", "seed", *board.parameters, "epoch", "gpu_seconds", *(m for m in SCORES if m in rows)]
        ])  # fmt: skip
    table = pd.concat(parts).sort_values(["setting", "seed", "epoch"], ignore_index=True)
    return table.astype({column: "float32" for column in table.columns.intersection([*SCORES, "gpu_seconds"])})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=sorted(path.stem for path in HERE.glob("*.yaml")))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--runs", type=Path, required=True, help="where the searches go")
    parser.add_argument("--root", type=Path, help="the data, where the space does not draw them")
    parser.add_argument("--weights", type=Path, help="the teacher's encoder")
    options = parser.parse_args()
    overrides = [f"data.root={options.root.resolve()}"] if options.root else []
    overrides += [f"teacher.weights={options.weights.resolve()}"] if options.weights else []
    table = record(options.name, options.seeds, options.runs, overrides)
    last = table[table["epoch"] == table["epoch"].max()]
    commit = subprocess.run(["git", "-C", HERE, "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()
    about = {
        "command": " ".join(["python", "runners/bench/tables/record.py", options.name, "--seeds", str(options.seeds)]),
        "commit": commit,
        "date": date.today().isoformat(),
        "versions": {"bpkd_search": __version__, "python": sys.version.split()[0]},
        "gpu_seconds": round(float(last["gpu_seconds"].sum())),
    }
    arrow = pa.Table.from_pandas(table.dropna(axis="columns", how="all"), preserve_index=False)
    scores = [field.name for field in arrow.schema if field.type == pa.float32()]
    pq.write_table(
        arrow.replace_schema_metadata({**(arrow.schema.metadata or {}), b"recorded": json.dumps(about)}),
        HERE / f"{options.name}.parquet",
        compression="zstd",
        use_dictionary=[name for name in arrow.schema.names if name not in scores],
        use_byte_stream_split=scores,  # a third smaller
    )
    print(json.dumps(about | {"rows": len(table), "settings": int(table["setting"].nunique())}, indent=2))


if __name__ == "__main__":
    main()
