"""Nodes that join, are drained and die while a search runs: several Ray nodes on this machine."""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.cluster_utils import Cluster
from ray.tune.experiment import Trial

from bpkd_search import Leaderboard, run_search
from bpkd_search.cluster import tune as adapters
from bpkd_search.cluster.nodes import Node, kinds_of
from bpkd_search.cluster.placement import Placement
from bpkd_search.cluster.slots import Slots
from bpkd_search.config import SearchConfig
from bpkd_search.config.load import parse
from bpkd_search.experiment import folder as experiment
from bpkd_search.experiment.events import read_events
from bpkd_search.search.engine import Engine
from tests.driving import curve, report_of
from tests.machines import nodes_of

STORE_BYTES = 100 * 2**20


def test_the_gpus_of_nodes_are_counted_by_kind() -> None:
    nodes = [Node(str(i), "", 8, gpus, kind=kind) for i, (gpus, kind) in enumerate([(8, "T4"), (4, "A100"), (4, "T4")])]
    assert kinds_of(nodes) == "4 x A100, 12 x T4"
    assert kinds_of([Node("a", "", 8, 2), Node("b", "", 8, 0)]) == "2 x GPU" and kinds_of([]) == ""


def test_a_trial_leaves_a_drained_node_at_the_end_of_its_epoch_and_a_later_one_at_once(
    tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = parse(SearchConfig, tiny | {"search": {"trials": 2, "scheduler": {"name": "none"}}}, "test")
    experiment.create(tmp_path / "e", config)
    engine, (a,) = Engine(config, tmp_path / "e", "test"), nodes_of((1, 0))
    searcher = adapters.EngineSearcher(engine, lambda trial: {}, Placement(Slots(9, 1, 0)))
    scheduler, killed = adapters.EngineScheduler(engine, searcher), list[str]()
    monkeypatch.setattr(adapters, "node_id_of_actor", {"on-a": "a", "on-b": "b"}.get)
    monkeypatch.setattr(adapters.ray, "kill", lambda actor: killed.append(actor.trial_id))

    def begin(trial_id: str, where: str) -> None:
        assert searcher.suggest(trial_id) is not None
        actor = SimpleNamespace(trial_id=trial_id, _actor_id=SimpleNamespace(hex=lambda: where))
        state = SimpleNamespace(ray_actor=actor if where else None)
        scheduler.on_trial_add(None, SimpleNamespace(trial_id=trial_id, temporary_state=state))

    def report(trial_id: str) -> None:
        trial = engine.trials[searcher.numbers[trial_id]]
        engine.report(trial.number, report_of(trial, trial.epoch + 1, curve(trial, trial.epoch + 1)))

    for trial_id, where in (("one", "on-a"), ("other", "on-b"), ("starting", "")):
        begin(trial_id, where)
    scheduler.leave([])
    scheduler.leave([a])
    scheduler.leave([a])
    assert killed == []  # in the middle of their epochs
    report("other")
    begin("late", "on-a")  # in a process that was there
    scheduler.leave([a])
    assert killed == ["late"]
    report("one")
    scheduler.leave([a])
    scheduler.leave([a])
    assert killed == ["late", "one"]
    for trial_id in ("one", "late"):
        number = searcher.numbers[trial_id]
        searcher.on_trial_complete(trial_id, error=True)
        assert number not in engine.states
        again = engine.ask()
        assert again is not None and again.number == number  # from its checkpoint
    lost = [event for event in read_events(tmp_path / "e") if event["event"] == "lost"]
    assert [(e["number"], e["cause"], e["node"], e["message"]) for e in lost] == [
        (0, "node", "a", "the trial's node a is drained"),
        (3, "node", "a", "the trial's node a is drained"),
    ]
    assert searcher.placement.limit.over() == []  # leaving is no fault of a node
    engine.recorder.close()


def test_the_process_of_a_trial_that_has_ended_goes_to_the_one_that_was_asked_last(
    tiny: dict[str, Any], tmp_path: Path
) -> None:
    config = parse(SearchConfig, tiny, "test")
    experiment.create(tmp_path / "e", config)
    engine = Engine(config, tmp_path / "e", "test")
    scheduler = adapters.EngineScheduler(
        engine, adapters.EngineSearcher(engine, lambda trial: {}, Placement(Slots(2, 1, 0)))
    )
    starting, late = (Trial("made-up", trial_id=name, stub=True) for name in ("starting", "late"))
    assert scheduler.choose_trial_to_run(None) is None
    scheduler.on_trial_add(None, starting)
    assert scheduler.choose_trial_to_run(None) is starting
    assert scheduler.choose_trial_to_run(None) is None  # its own process starts, and is not to be dropped
    scheduler.on_trial_add(None, late)
    assert scheduler.choose_trial_to_run(None) is late and scheduler.choose_trial_to_run(None) is None
    scheduler.on_trial_add(None, late)
    late.set_status(Trial.TERMINATED)  # stopped before it ran
    assert scheduler.choose_trial_to_run(None) is None
    engine.recorder.close()


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """A head without CPUs for trials, alone."""
    monkeypatch.setenv("RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES", "1")
    # Hooks for the end of the process can only be set by the main thread, which drives the search.
    args = {"num_cpus": 0, "object_store_memory": STORE_BYTES}
    cluster = Cluster(True, head_node_args=args, shutdown_at_exit=False)
    try:
        yield cluster
    finally:
        cluster.shutdown()


class Fleet(threading.Thread):
    """Adds, drains and kills nodes at given points of a search; `steps` are those that it has come to."""

    def __init__(self, cluster: Cluster, disks: Path, folder: Path) -> None:
        super().__init__(daemon=True)
        self.cluster, self.disks, self.folder, self.steps = cluster, disks, folder, list[str]()

    def run(self) -> None:
        try:
            self.come_and_go()
        except Exception as e:
            self.steps.append(repr(e))
            os.kill(os.getpid(), signal.SIGINT)  # or the search would wait for nodes for ever

    def come_and_go(self) -> None:
        time.sleep(4)
        slow = self.add("a", "T4")
        self.wait("a trial on the first node", lambda: self.reports("T4") > 1)
        fast = self.add("b", "A100")
        self.wait("a trial on the second node", lambda: self.reports("A100") > 1)
        self.drain(slow)
        self.wait("a trial left", lambda: any("is drained" in e["message"] for e in self.events("lost")))
        self.cluster.remove_node(slow)
        known = self.reports("T4")
        self.add("c", "T4")
        self.wait("a trial on the third node", lambda: self.reports("T4") > known + 1)
        self.cluster.remove_node(fast, allow_graceful=False)
        self.wait("a trial lost its node", lambda: len(self.events("lost")) > 1)

    def add(self, name: str, kind: str) -> Any:
        # Ray counts a GPU that is not there; trials without mixed precision compute on the CPU beside it.
        return self.cluster.add_node(
            num_cpus=1, num_gpus=1, object_store_memory=STORE_BYTES, resources={f"accelerator_type:{kind}": 1},
            env_vars={"NODE_DIR": str(self.disks / name)},
        )  # fmt: skip

    def drain(self, node: Any) -> None:
        """As the documentation says, on notice."""
        subprocess.run(
            [Path(sys.executable).with_name("ray"), "drain-node", "--address", self.cluster.address, "--node-id",
             node.node_id, "--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot",
             "--deadline-remaining-seconds", "120"],
            check=True, capture_output=True,
        )  # fmt: skip

    def events(self, kind: str) -> list[dict[str, Any]]:
        return [e for e in read_events(self.folder) if e["event"] == kind] if self.folder.exists() else []

    def reports(self, device: str) -> int:
        return sum(e["device"] == device for e in self.events("report"))

    def wait(self, what: str, ready: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 150
        while not ready():
            if time.monotonic() > deadline:
                raise TimeoutError(f"not seen: {what}")
            time.sleep(0.2)
        self.steps.append(what)


@pytest.mark.long
def test_a_search_that_begins_with_a_head_alone_outlives_a_drained_and_a_dead_node(
    tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cluster: Cluster,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[2] / "runners" / "bench"))
    tiny["data"] |= {"local_dir": "$NODE_DIR/copies", "views_dir": str(tmp_path / "views")}
    tiny["train"] |= {"epochs": 25, "amp": "off"}
    tiny["teacher"]["train"] |= {"amp": "off"}
    # A trial takes a few seconds, less than the first one of a node needs to begin.
    tiny["search"] = {"trials": 4, "scheduler": {"name": "none"}, "sampler": {"name": "random"}}
    elastic, undisturbed = (
        {**tiny, "search": {**tiny["search"], "resources": each}} for each in ({"gpus": 0.5}, {"cpus": 1})
    )
    fleet = Fleet(cluster, tmp_path / "disks", tmp_path / "elastic")
    monkeypatch.setenv("NODE_DIR", str(tmp_path / "disks" / "own"))
    fleet.start()
    run_search(parse(SearchConfig, elastic, "test"), tmp_path / "elastic", address=cluster.address)
    fleet.join(timeout=1)
    said = capsys.readouterr().err
    run_search(parse(SearchConfig, undisturbed, "test"), tmp_path / "undisturbed")

    assert fleet.steps == [
        "a trial on the first node", "a trial on the second node", "a trial left", "a trial on the third node",
        "a trial lost its node",
    ]  # fmt: skip
    assert "waiting for a node with a CPU for trials; there are " in said and "a node has joined after" in said
    assert "ray: 1 trial(s) at once, 1 CPU and 0.5 GPU each; 1 x T4" in said
    found = importlib.import_module("soak_checks").faults(tmp_path / "elastic", tmp_path / "undisturbed", ())
    assert not any(found.values()), found
    trials = Leaderboard(tmp_path / "elastic").trials()
    assert set(trials["state"]) == {"COMPLETE"} and len(trials) == 8 and set(trials["device"]) <= {"T4", "A100"}
    assert trials["retries"].sum() == 2
    # Each node has copies of its own, also those that joined later.
    copies = {name: sorted(path.name for path in (tmp_path / "disks" / name).rglob("*.npy")) for name in "abc"}
    assert copies["a"] == copies["b"] == copies["c"] != []
    # Each kind was timed once, and seconds are counted by it.
    steps = json.loads((tmp_path / "elastic" / "calibration.json").read_text())
    assert list(steps) == ["T4", "A100"]
    last = dict[int, dict[str, Any]]()
    for event in fleet.events("report"):
        before = last.get(event["number"], {"gpu_seconds": 0.0, "calibrated_seconds": 0.0, "device": event["device"]})
        if before["device"] == event["device"]:
            spent, calibrated = (event[key] - before[key] for key in ("gpu_seconds", "calibrated_seconds"))
            assert calibrated == pytest.approx(spent * steps["T4"] / steps[event["device"]])
        last[event["number"]] = event
