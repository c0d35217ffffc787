"""How busy a search keeps machines that join and leave, and what its driver needs: 64 simulated nodes of 8 GPUs.

    python runners/bench/elastic.py

The engine, the samplers, the recorder and the adapters to Ray Tune are the real ones, and every ask, report and end
holds up the simulated driver for as long as it really takes; Ray's own work is not counted. Trials are made up: an
epoch takes 30 to 60 s. At first there is a head without GPUs. Nodes join over the first minutes and stay for a random
time; half of them leave with a notice, as a spot machine does, the others at once. Another joins after a while. A
trial whose node has left continues elsewhere after its last epoch. GPUs count as busy while they train, not while
processes start, views are copied, or Ray has yet to notice that a node has joined or died. Prints one JSON object, and
writes it to the file given by --json. Exits with 1 if a target is missed.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import json
import math
import random
import resource
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

from ray.exceptions import RayActorError
from strategies import config_of

from bpkd_search.cluster import placement as placements
from bpkd_search.cluster.nodes import Node
from bpkd_search.cluster.placement import CHECK_SECONDS, Placement
from bpkd_search.cluster.slots import Slots
from bpkd_search.cluster.tune import EngineSearcher
from bpkd_search.experiment import folder as experiment
from bpkd_search.experiment.trial import Trial
from bpkd_search.search.backends import CurveBackend
from bpkd_search.search.engine import Engine
from bpkd_search.search.simulate import Clock

TARGET_BUSY, TARGET_MB = 0.95, 2000
# What a second trial of a process takes until it trains, and a first one (docs/measured.md).
WARM_SECONDS, COLD_SECONDS = 0.32, 6.5
# Until Ray tells that a node is gone, and how long before that one with a notice is drained.
UNNOTICED_SECONDS, NOTICE_SECONDS = 20.0, 120.0


@dataclass
class Machine:
    """A simulated node: when it joined, has its views, and is gone; the trials on it, and its warm processes."""

    node: Node
    joined: float
    ready: float
    drained: float
    gone: float
    trials: set[str] = field(default_factory=set)
    warm: int = 0


@dataclass
class Run:
    """A trial on a machine: the epoch that it trains, since when, and its epoch when the drain was noticed."""

    machine: Machine
    trial: Trial
    began: float
    report: dict[str, Any]
    noticed: int | None = None


class Cluster:
    """Machines that join and leave in simulated time, and the trials of a search on them."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self.options, self.clock, self.chance = options, Clock(), random.Random(options.seed)
        self.config = config_of(options.trials, options.sampler)
        experiment.create(folder, self.config)
        self.engine = Engine(self.config, folder, "simulated", clock=self.clock)
        self.placement = Placement(Slots(0, 1, 1), search=self.config.search)
        self.placement.limit.clock = self.clock
        self.searcher = EngineSearcher(self.engine, lambda trial: {"number": trial.number}, self.placement)
        self.backend = CurveBackend(self.config)
        self.machines: list[Machine] = []
        self.pending: list[str] = []
        self.runs: dict[str, Run] = {}
        self.training: list[tuple[float, float]] = []
        self.wasted = self.last_ask = self.driver = 0.0
        self.moves = self.losses = self.joins = self.most = 0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order, self._names = itertools.count(), itertools.count()

    def run(self) -> None:
        """Run the search to its end."""
        for _ in range(self.options.nodes):
            self.at(self.chance.uniform(30, self.options.ramp), self.join)
        self.at(0, self.look)
        with patch.object(placements, "live_nodes", lambda: [machine.node for machine in self.up()]):
            while not self.engine.done:
                when, _, act = heapq.heappop(self._events)
                self.clock.now = max(self.clock.now, when)
                act()
        self.engine.recorder.close()

    def at(self, when: float, act: Callable[[], None]) -> None:
        heapq.heappush(self._events, (when, next(self._order), act))

    def join(self) -> None:
        now, self.joins = self.clock.now, self.joins + 1
        gone = now + NOTICE_SECONDS + self.chance.expovariate(1 / (60 * self.options.life))
        drained = gone - NOTICE_SECONDS if self.chance.random() < 0.5 else math.inf
        name = f"10.0.{self.joins // 256}.{self.joins % 256}"
        node = Node(name, name, 8.0 * self.options.gpus, self.options.gpus, name)
        machine = Machine(node, now, now + self.options.copying, drained, gone)
        self.machines.append(machine)
        self.most = max(self.most, len(self.up()))
        self.at(gone, partial(self.leave, machine))
        self.place()

    def leave(self, machine: Machine) -> None:
        """A machine is gone; Ray tells it later."""
        self.at(self.clock.now + UNNOTICED_SECONDS, partial(self.lose, machine))
        self.at(self.clock.now + self.chance.expovariate(1 / (60 * self.options.gap)), self.join)

    def lose(self, machine: Machine) -> None:
        for trial_id in list(machine.trials):
            self.losses += 1
            text = f"The actor died because its node has died.\n\tip: {machine.node.address}\n"
            self.searcher.errors[trial_id] = RayActorError(trial_id, text)
            self.end(trial_id, machine.gone)

    def look(self) -> None:
        """What the driver does every some seconds: see which nodes there are, and leave those that are drained."""
        self.timed(lambda: self.placement.follow([machine.node for machine in self.up()]))
        for trial_id, run in list(self.runs.items()):
            if run.machine.drained > self.clock.now or run.machine.gone < self.clock.now:
                continue
            if run.noticed is None:
                run.noticed = run.trial.epoch
            elif run.trial.epoch != run.noticed:
                self.moves += 1
                self.searcher.moved[trial_id] = run.machine.node
                self.end(trial_id, self.clock.now)
        self.at(self.clock.now + CHECK_SECONDS, self.look)
        self.fill()

    def up(self) -> list[Machine]:
        """The machines that take trials."""
        return [each for each in self.machines if min(each.gone, each.drained) > self.clock.now]

    def fill(self) -> None:
        """Ask for trials while there is room."""
        while True:
            trial_id = f"{next(self._names):06d}"
            asked = self.timed(lambda trial_id=trial_id: self.searcher.suggest(trial_id))
            if not isinstance(asked, dict):
                return
            self.last_ask = self.clock.now
            self.pending.append(trial_id)
            self.place()

    def place(self) -> None:
        """Give the trials that wait a place, as Ray does."""
        free = [each for each in self.up() if len(each.trials) < self.placement.slots.on(each.node)]
        while free and self.pending:
            trial_id, machine = self.pending.pop(0), free[0]
            machine.trials.add(trial_id)
            if len(machine.trials) >= self.placement.slots.on(machine.node):
                free.pop(0)
            start = WARM_SECONDS if machine.warm else COLD_SECONDS
            machine.warm = max(0, machine.warm - 1)
            trial = self.engine.trials[self.searcher.numbers[trial_id]]
            self.begin(trial_id, machine, trial, max(self.clock.now, machine.ready) + start)

    def begin(self, trial_id: str, machine: Machine, trial: Trial, when: float) -> None:
        report = self.backend.report(trial, trial.epoch + 1)
        seconds = report["gpu_seconds"] - trial.last().get("gpu_seconds", 0.0)
        noticed = self.runs[trial_id].noticed if trial_id in self.runs else None
        run = self.runs[trial_id] = Run(machine, trial, when, report, noticed)
        if when + seconds < machine.gone:
            self.at(when + seconds, lambda: self.report(trial_id, run, when + seconds))

    def report(self, trial_id: str, run: Run, ended: float) -> None:
        if self.runs.get(trial_id) is not run:
            return  # it was moved in the middle of this epoch
        self.training.append((run.began, ended))
        go_on = self.timed(lambda: self.engine.report(run.trial.number, run.report))
        if go_on and not run.report["final"]:
            self.begin(trial_id, run.machine, run.trial, self.clock.now)
            return
        run.machine.warm += 1
        self.end(trial_id, None)

    def end(self, trial_id: str, cut: float | None) -> None:
        """A trial ends, or what it has trained of an epoch until `cut` is lost."""
        run = self.runs.pop(trial_id)
        run.machine.trials.discard(trial_id)
        if cut is not None and cut > run.began:
            self.training.append((run.began, cut))
            self.wasted += cut - run.began
        self.timed(lambda: self.searcher.on_trial_complete(trial_id, {}, error=cut is not None))
        self.fill()

    def timed(self, step: Callable[[], Any]) -> Any:
        now = time.process_time if self.options.cpu_time else time.perf_counter
        start = now()
        result = step()
        self.driver += (took := now() - start)
        self.clock.now += took
        return result

    def busy(self) -> tuple[float, float]:
        """The share of the GPUs' time until the last ask spent in training, and in training that was not lost."""
        end = self.last_ask
        there = sum(max(0.0, min(each.gone, end) - each.joined) * each.node.gpus for each in self.machines)
        trained = sum(max(0.0, min(stop, end) - start) for start, stop in self.training)
        return trained / there, (trained - self.wasted) / there


def options_of(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=64)
    parser.add_argument("--gpus", type=int, default=8, help="GPUs of a node")
    parser.add_argument("--trials", type=int, default=6000)
    parser.add_argument("--sampler", default="tpe")
    parser.add_argument("--ramp", type=float, default=300, help="seconds over which the nodes join")
    parser.add_argument("--life", type=float, default=60, help="mean minutes that a node stays")
    parser.add_argument("--gap", type=float, default=2, help="mean minutes until another takes its place")
    parser.add_argument("--copying", type=float, default=30, help="seconds that a node which joins copies views")
    parser.add_argument("--cpu-time", action="store_true", help="count the driver's CPU time, if others use the cores")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    options = options_of(arguments)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        cluster = Cluster(options, Path(folder))
        cluster.run()
    busy, useful = cluster.busy()
    figures = {
        "trials": len(cluster.engine.states), "nodes": options.nodes, "gpus": options.gpus,
        "hours": cluster.last_ask / 3600, "joined": cluster.joins, "most_at_once": cluster.most,
        "trials_moved": cluster.moves, "trials_lost": cluster.losses, "busy": busy, "busy_without_repeats": useful,
        "driver_busy": cluster.driver / cluster.clock.now,
        "failed": sum(state == "FAILED" for state in cluster.engine.states.values()),
        "driver_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "seconds_it_took": time.perf_counter() - start,
    }  # fmt: skip
    print(json.dumps(figures, indent=2))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")
    return 0 if busy >= TARGET_BUSY and figures["driver_memory_mb"] < TARGET_MB and not figures["failed"] else 1


if __name__ == "__main__":
    raise SystemExit(main())
