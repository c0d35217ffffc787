"""Record a search space as a table: every setting with several training seeds, every epoch, by the tool itself.

    python runners/bench/tables/record.py scenes --runs DIR
    python runners/bench/tables/record.py camvid --runs DIR --root CAMVID --weights LITE2.safetensors
    python runners/bench/tables/record.py methods --runs DIR
    python runners/bench/tables/record.py camvid-360x480 --runs DIR --root CAMVID --weights LITE2.safetensors --hours 8

One search without early stopping for each seed, by the space NAME.yaml beside this file; their random points are the
same, as a random point depends on the search's seed and the trial's number alone. A recording that was interrupted
goes on, also one that --hours has stopped. NAME.parquet, beside this file or in --to, holds a row an epoch: `setting`,
`seed`, the parameters, `epoch`, `gpu_seconds`, the metrics; its metadata say with what command, commit, versions and
seconds it was made.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from bpkd_search import Leaderboard, __version__, resume_search, run_search
from bpkd_search.cluster.driver import Interrupted
from bpkd_search.config import load_search
from bpkd_search.experiment.schema import BASELINE
from bpkd_search.metrics.table import SCORES

HERE = Path(__file__).parent
TINY = [
    "data.kind=synthetic", "data.synthetic={train_images: 8, val_images: 4, height: 32, width: 48}", "data.resize=null",
    "data.crop=[32, 48]", "teacher.encoder=mobilenetv3_small_050", "teacher.output_stride=32", "teacher.train.epochs=1",
    "student.encoder=mobilenetv3_small_050", "student.output_stride=32", "train={epochs: 2, batch_size: 4, warmup: 0}",
    "search.trials=2", "search.scheduler.grace=1",
]  # fmt: skip


def record(name: str, seeds: int, runs: Path, overrides: list[str], hours: float | None = None) -> pd.DataFrame | None:
    """The rows of all seeds; the searches lie in `runs`. None where the hours were up before the end."""
    parts, end = [], None if hours is None else time.monotonic() + 3600 * hours
    for seed in range(seeds):
        folder = runs / f"{name}-{seed}"
        config = load_search(HERE / f"{name}.yaml", [*overrides, f"train.seed={seed}", f"name={folder.name}"])
        with until(end):
            try:
                if folder.exists():
                    resume_search(folder)
                else:
                    run_search(config, folder)
            except Interrupted:
                if end is None or time.monotonic() < end:
                    raise
                return None
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


@contextmanager
def until(end: float | None) -> Iterator[None]:
    """At the time `end`, stop the search that runs, as SIGTERM does: it can be resumed."""
    if end is None:
        yield
        return
    timer = threading.Timer(max(0.0, end - time.monotonic()), os.kill, (os.getpid(), signal.SIGTERM))
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=sorted(path.stem for path in HERE.glob("*.yaml")))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--runs", type=Path, required=True, help="where the searches go")
    parser.add_argument("--root", type=Path, help="the data, where the space does not draw them")
    parser.add_argument("--weights", type=Path, help="the teacher's encoder")
    parser.add_argument("--to", type=Path, default=HERE, help="where the table goes (default: beside this file)")
    parser.add_argument("--hours", type=float, help="stop after so many hours; the same command goes on")
    parser.add_argument("--tiny", action="store_true", help="two settings on a few drawn images, to try the command")
    options = parser.parse_args()
    overrides = [f"data.root={options.root.resolve()}"] if options.root else []
    overrides += [f"teacher.weights={options.weights.resolve()}"] if options.weights else []
    if options.tiny:
        overrides += TINY
    options.runs.mkdir(parents=True, exist_ok=True)
    table = record(options.name, options.seeds, options.runs, overrides, options.hours)
    if table is None:
        print(f"{options.name}: the time is up; the same command goes on")
        return
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
        options.to / f"{options.name}.parquet",
        compression="zstd",
        use_dictionary=[name for name in arrow.schema.names if name not in scores],
        use_byte_stream_split=scores,  # a third smaller
    )
    print(json.dumps(about | {"rows": len(table), "settings": int(table["setting"].nunique())}, indent=2))


if __name__ == "__main__":
    main()
