"""A soak test: searches on a Ray cluster of this machine, of which a process is killed every few seconds.

    python runners/bench/soak.py --minutes 10 --out runs/soak

One small search runs undisturbed; then the same search runs again and again until the minutes are over, while trials'
processes, nodes and the driver are killed. A killed driver is started again with the same command; for a killed
node, a new one joins.
Points are drawn at random from the search's seed and the trial's number, and no trial is stopped early: nothing in the
tables depends on what ended first, so every search must end with the tables of the undisturbed one, seconds aside.
Exits with 1 if a target is missed.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import psutil
import yaml
from nodes import Nodes, raylet
from soak_checks import TARGETS, faults

from bpkd_search.experiment.events import read_events

KINDS = ("trial", "trial", "node", "driver")
UNEXPECTED, MOST_UNEXPECTED = "drivers that ended with an error", 3
# The kills are no fault of the nodes: none of them is to be avoided.
ENVIRONMENT = {"BPKD_SEARCH_LOSSES_PER_HOUR": "100000", "OMP_NUM_THREADS": "1"}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0, help="how long processes are killed")
    parser.add_argument("--every", type=float, default=10.0, help="mean seconds between two kills")
    parser.add_argument("--nodes", type=int, default=4, help="workers of one CPU each")
    parser.add_argument("--trials", type=int, default=6, help="sampled trials of a search, beside the baselines")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0, help="of the kills")
    parser.add_argument("--out", type=Path, required=True, help="a new folder")
    options = parser.parse_args(arguments)
    options.out = options.out.resolve()
    options.out.mkdir(parents=True)
    space = options.out / "soak.yaml"
    space.write_text(yaml.safe_dump(search(options.out, options.trials, options.epochs)))

    with Nodes(options.nodes, ENVIRONMENT) as nodes:
        start = time.monotonic()
        driver = Driver(nodes, space, options.out / "undisturbed")
        if code := driver.process.wait():
            raise SystemExit(f"the undisturbed search ended with exit code {code}: see {driver.log}")
        print(f"undisturbed: {time.monotonic() - start:.0f} s", flush=True)
        return soak(nodes, space, options)


def search(folder: Path, trials: int, epochs: int) -> dict[str, object]:
    """The search: drawn scenes, the smallest student, decisions that depend on no time."""
    scenes = {"train_images": 24, "val_images": 6, "height": 48, "width": 64}
    return {
        "name": "soak",
        "data": {"kind": "synthetic", "height": 48, "width": 64, "views": 2, "synthetic": scenes,
                 "views_dir": str(folder / "views"), "local_dir": "$NODE_DIR/copies"},
        "teacher": {"encoder": "mobilenetv3_small_050", "channels": 16, "train": {"epochs": 2, "batch_size": 4}},
        "student": {"encoder": "mobilenetv3_small_050", "channels": 8},
        "loss": {"method": "bpkd", "edge_width": 3},
        "train": {"epochs": epochs, "batch_size": 4, "lr": 0.02, "device": "cpu"},
        "search": {"trials": trials, "sampler": {"name": "random"}, "scheduler": {"name": "none"}},
        "space": {"loss.edge_weight": {"float": [0.05, 50], "log": True}},
    }  # fmt: skip


def soak(nodes: Nodes, space: Path, options: argparse.Namespace) -> int:
    """Search under kills until the time is over, and print a verdict on each target; gives the exit code."""
    choice, killed = random.Random(options.seed), Counter[str]()
    kinds = in_shuffled_rounds(choice)
    found: dict[str, list[str]] = {target: [] for target in (UNEXPECTED, *TARGETS)}
    start, number = time.monotonic(), 0
    end = start + 60 * options.minutes
    while time.monotonic() < end:
        number += 1
        folder, ended, before = options.out / f"search-{number:02d}", set[int](), killed.total()
        driver = Driver(nodes, space, folder)
        while (code := driver.ends_within(pause(choice, options.every, end))) != 0:
            if code is not None:
                found[UNEXPECTED].append(f"search {number}: exit code {code}, see {driver.log}")
                if len(found[UNEXPECTED]) > MOST_UNEXPECTED:
                    break
                driver = Driver(nodes, space, folder)
            elif time.monotonic() < end:
                ended |= {event["number"] for event in read_events(folder) if event["event"] == "end"}
                driver, kind = kill(next(kinds), nodes, driver, choice)
                killed[kind] += 1
        for target, lines in faults(folder, options.out / "undisturbed", ended).items():
            found[target] += [f"search {number}: {line}" for line in lines]
        seconds, kills = time.monotonic() - start, killed.total() - before
        print(f"search {number}: {kills} kills; {seconds:.0f} s since the first one began", flush=True)
    counts = ", ".join(f"{killed[kind]} of a {kind}" for kind in dict.fromkeys(KINDS))
    print(f"{number} searches of {options.trials + 4} trials, {killed.total()} kills: {counts}")
    for target, lines in found.items():
        print(f"{'ok' if not lines else 'MISSED':6} {target}: {len(lines)}", *lines, sep="\n    ")
    return 1 if any(found.values()) else 0


def pause(choice: random.Random, every: float, end: float) -> float | None:
    """Seconds until the next kill, none after the end."""
    left = end - time.monotonic()
    return min(choice.expovariate(1 / every), left) if left > 0 else None


def kill(kind: str, nodes: Nodes, driver: Driver, choice: random.Random) -> tuple[Driver, str]:
    """Kill one process, the driver where there is none of that kind; gives the driver from now on, and the kind."""
    running, node = nodes.trials(), choice.choice(nodes.workers)
    process = raylet(node)
    if kind == "trial" and running:
        with suppress(psutil.NoSuchProcess):
            choice.choice(running).kill()
    elif kind == "node" and process:
        nodes.remember(node)
        process.kill()
        nodes.workers.remove(node)
        nodes.add()
    else:
        driver.process.kill()
        driver.process.wait()
        return Driver(nodes, driver.space, driver.folder), "driver"
    return driver, kind


def in_shuffled_rounds(choice: random.Random) -> Iterator[str]:
    """Kinds of kills without end, each of `KINDS` once before any comes again."""
    while True:
        yield from choice.sample(KINDS, len(KINDS))


class Driver:
    """A `bpkd-search run --resume` on the cluster; its output is added to a file beside its folder."""

    def __init__(self, nodes: Nodes, space: Path, folder: Path) -> None:
        self.space, self.folder, self.log = space, folder, folder.with_suffix(".log")
        command = [sys.executable, "-m", "bpkd_search", "run", str(space), "--out", str(folder), "--resume",
                   "--address", nodes.address]  # fmt: skip
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, env=nodes.environment, stdout=log, stderr=log,
                                            start_new_session=True)  # fmt: skip

    def ends_within(self, seconds: float | None) -> int | None:
        """Its exit code, or None where it has not ended by then."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None


if __name__ == "__main__":
    raise SystemExit(main())
