"""What recording and reading a large experiment costs: 10,000 trials with 50 reports each.

    python runners/bench/results.py [--trials 10000] [--reports 50] [--json FILE]

Writes an experiment with made-up scores through the recorder, as fast as it takes them, then opens it, ranks
it and calls the command line in fresh processes. Wall and CPU seconds are the least of several rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import yaml

from bpkd_search import Leaderboard
from bpkd_search.experiment.paths import CONFIG, EVENTS, REPORTS, TRIALS
from bpkd_search.experiment.recorder import Recorder

CLASSES, ROUNDS = 19, 5
SPACE = {
    "loss.edge_width": {"int": [3, 11], "step": 2},
    "loss.edge_weight": {"float": [0.05, 50.0], "log": True},
    "loss.body_weight": {"float": [0.02, 20.0], "log": True},
    "loss.edge_temperature": {"float": [0.5, 8.0], "log": True},
    "loss.body_temperature": {"float": [0.5, 8.0], "log": True},
}
KINDS = {path: next(iter(rule)) for path, rule in SPACE.items()}
SCORES = ("miou", "edge_miou", "body_miou", "boundary_iou", "boundary_f", "accuracy")


def write(folder: Path, trials: int, reports: int) -> dict[str, float]:
    """Record the experiment; milliseconds a report (mean, worst), and the peak memory."""
    folder.mkdir()
    config = {"name": "bench", "search": {"metric": "miou"}, "space": SPACE, "train": {"epochs": reports}}
    (folder / CONFIG).write_text(yaml.safe_dump(config))
    run = {"padding": "x" * 2000}
    random.seed(0)
    recorder = Recorder(folder, "bench", KINDS, "0")
    spent = worst = 0.0
    for number in range(trials):
        point = {path: 7 if kind == "int" else random.uniform(0.5, 8) for path, kind in KINDS.items()}
        recorder.record(
            "ask", number, trial_id=f"bench-{number:05d}", method="kd" if number % 10 == 0 else "bpkd",
            origin="baseline" if number < 4 else "sampled", point=point, seed=0, config=run,
        )  # fmt: skip
        for epoch in range(1, reports + 1):
            values = {name: random.random() for name in SCORES}
            ious = [random.random() for _ in range(CLASSES)]
            start = time.perf_counter()
            recorder.record(
                "report", number, epoch=epoch, **values, gpu_seconds=3.0 * epoch, wall_seconds=4.0 * epoch,
                images_per_second=100.0, loss=1.0, loss_ce=0.5, loss_edge=0.3, loss_body=0.2, class_iou=ious,
                node="node-1", parameters=1_000_000,
            )  # fmt: skip
            took = time.perf_counter() - start
            spent, worst = spent + took, max(worst, took)
        recorder.record("end", number, state="COMPLETE" if number % 3 == 0 else "PRUNED", reason=None, message=None)
    recorder.close()
    return {
        "record_ms": 1000 * spent / (trials * reports),
        "record_worst_ms": 1000 * worst,
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "files": sum(1 for table in (TRIALS, REPORTS) for _ in (folder / table).iterdir()),
        "log_mb": (folder / EVENTS).stat().st_size / 2**20,
        "tables_mb": sum(f.stat().st_size for t in (TRIALS, REPORTS) for f in (folder / t).iterdir()) / 2**20,
    }


def fastest(call: Callable[[], object]) -> tuple[float, float]:
    """Wall and CPU seconds, children included, each the least of several rounds."""
    walls, cpus = [], []
    for _ in range(ROUNDS):
        wall, cpu = time.perf_counter(), sum(os.times()[:4])
        call()
        walls.append(time.perf_counter() - wall)
        cpus.append(sum(os.times()[:4]) - cpu)
    return min(walls), min(cpus)


def read(folder: Path) -> dict[str, tuple[float, float]]:
    """Seconds of what people do with it."""

    def command(*arguments: str) -> Callable[[], object]:
        line = [sys.executable, "-m", "bpkd_search", *arguments]
        return lambda: subprocess.run(line, check=True, stdout=subprocess.DEVNULL)

    return {
        "open and rank": fastest(lambda: Leaderboard(folder).trials()),
        "all reports": fastest(lambda: Leaderboard(folder).reports()),
        "compare": fastest(lambda: Leaderboard(folder).compare()),
        "curves": fastest(lambda: Leaderboard(folder).curves()),
        "per class": fastest(lambda: Leaderboard(folder).per_class()),
        "bpkd-search leaderboard": fastest(command("leaderboard", str(folder))),
        "bpkd-search leaderboard --format csv": fastest(command("leaderboard", str(folder), "--format", "csv")),
        "bpkd-search show 7": fastest(command("show", str(folder), "7")),
        "bpkd-search --help": fastest(command("--help")),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--reports", type=int, default=50)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "bench"
        written = write(folder, arguments.trials, arguments.reports)
        for name, value in written.items():
            print(f"{name:40}{value:10.3f}", flush=True)
        start = time.perf_counter()
        Recorder(folder, "bench", KINDS, "0").close()
        print(f"{'reopen to resume, s':40}{time.perf_counter() - start:10.3f}", flush=True)
        seconds = read(folder)
    print(f"{'':40}{'wall s':>10}{'CPU s':>10}")
    for name, (wall, cpu) in seconds.items():
        print(f"{name:40}{wall:10.3f}{cpu:10.3f}")
    if arguments.json:
        arguments.json.write_text(json.dumps({**written, "seconds": seconds}, indent=2) + "\n")


if __name__ == "__main__":
    main()
