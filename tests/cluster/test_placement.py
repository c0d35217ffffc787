"""Where trials run, on real Ray: more room after an out-of-memory error, and nodes that lose trials are avoided."""

from __future__ import annotations

import json
import math
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster

from bpkd_search import Leaderboard
from bpkd_search.cluster import placement as placements
from bpkd_search.cluster.connection import connect_ray
from bpkd_search.cluster.driver import run_on_ray
from bpkd_search.cluster.losses import OPTION
from bpkd_search.cluster.nodes import live_nodes
from bpkd_search.cluster.placement import Placement
from bpkd_search.cluster.slots import PLACE, Slots
from bpkd_search.config import SearchConfig
from bpkd_search.config.load import parse
from bpkd_search.errors import ResourceError
from bpkd_search.experiment import folder as experiment
from bpkd_search.experiment.events import read_events
from bpkd_search.experiment.trial import Trial
from bpkd_search.machine import usable_cpus
from bpkd_search.search.engine import Engine
from bpkd_search.search.replay import replay
from tests.driving import drive, report_of
from tests.machines import nodes_of
from tests.trainables import Hungry, Scripted

STORE_BYTES = 100 * 2**20


def start(tiny: dict[str, Any], folder: Path, trials: int) -> Engine:
    tiny["train"]["epochs"] = 2
    tiny["search"] = {"trials": trials, "scheduler": {"name": "none"}}
    config = parse(SearchConfig, tiny, "test")
    if not folder.exists():
        experiment.create(folder, config)
    return Engine(config, folder, "test")


@pytest.mark.skipif(usable_cpus() < 2, reason="needs two CPUs")
def test_out_of_memory_is_retried_once_at_the_end_with_half_as_many_beside_it(
    tiny: dict[str, Any], tmp_path: Path
) -> None:
    engine = start(tiny, tmp_path / "e", 3)

    def task(trial: Trial) -> dict[str, Any]:
        # Trial 1 has to be given two CPUs, and trial 2 never has memory enough.
        reports = [json.dumps(report_of(trial, epoch, 0.1)) for epoch in (1, 2)]
        return {"reports": reports, "needs": {1: 2.0, 2: math.inf}.get(trial.number, 0.0)}

    with connect_ray(None, False):
        run_on_ray(engine, tmp_path / "e", Slots(usable_cpus(), 1, 0), Hungry, task)
    engine.recorder.close()
    assert engine.done and engine.fatal is None
    table = Leaderboard(tmp_path / "e").trials().set_index("number").sort_index()
    assert table["state"].tolist() == ["COMPLETE", "COMPLETE", "FAILED", *["COMPLETE"] * 4]
    assert table.loc[2, "reason"] == "oom" and table["reason"].notna().sum() == 1
    assert table["retries"].tolist() == [0, 1, 1, 0, 0, 0, 0]
    assert table.loc[1, "message"] == (
        "out of memory (CUDA out of memory. Tried to allocate 2 GiB); it runs again at the end of the search, with half"
        " as many trials beside it"
    )
    assert table.loc[2, "message"] == "CUDA out of memory. Tried to allocate 2 GiB"
    events = list(read_events(tmp_path / "e"))
    # Which of the two comes first depends on their processes.
    assert sorted((e["number"], e["cause"]) for e in events if e["event"] == "lost") == [(1, "oom"), (2, "oom")]
    assert {e["number"] for e in events if e["event"] == "end"} == set(range(7))
    assert {e["number"] for e in [e for e in events if e["event"] == "end"][-2:]} == {1, 2}
    assert replay(tmp_path / "e") == (7, [])


def test_a_trial_that_ran_out_of_memory_is_asked_last_also_after_a_restart(
    tiny: dict[str, Any], tmp_path: Path
) -> None:
    engine = start(tiny, tmp_path / "e", 2)
    first, second = engine.ask(), engine.ask()
    assert first is not None and second is not None
    engine.lost(0, "oom", "out of memory")
    engine.lost(1, "process", "was killed")
    assert engine.ask() is second
    engine.recorder.close()
    engine = start(tiny, tmp_path / "e", 2)
    asked = []
    while trial := engine.ask():
        asked.append(trial.number)
    assert asked == [1, 2, 3, 4, 5, 0]
    engine.recorder.close()
    engine = start(tiny, tmp_path / "e", 2)
    drive(engine)
    engine.recorder.close()
    assert engine.done and list(engine.states)[-1] == 0 and replay(tmp_path / "e") == (6, [])


def test_a_second_time_and_a_trial_alone_on_its_device_fail(
    tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bpkd_search.cluster.tune import EngineSearcher

    monkeypatch.setattr(placements, "live_nodes", lambda: nodes_of((4, 1)))
    engine = start(tiny, tmp_path / "e", 2)
    shared = EngineSearcher(engine, lambda trial: {}, Placement(Slots(4, 1, 0.25)))
    alone = EngineSearcher(engine, lambda trial: {}, Placement(Slots(1, 1, 1.0)))
    oom = {"failure": "oom", "message": "full"}
    assert shared.suggest("a") == {PLACE: {"cpus": 1, "gpus": 0.25, "avoided": []}}
    shared.on_trial_complete("a", oom)
    assert alone.suggest("b") is not None
    alone.on_trial_complete("b", oom)
    assert engine.states == {1: "FAILED"} and engine.trials[0].retries == 1
    for reason in ("nan", "error"):
        shared.suggest(reason)
        shared.on_trial_complete(reason, {"failure": reason, "message": "x"})
    while (place := shared.suggest("c")) is not None and place[PLACE]["gpus"] == 0.25:
        shared.on_trial_complete("c", {"failure": "error", "message": "x"})
    assert place == {PLACE: {"cpus": 1, "gpus": 0.5, "avoided": []}}
    shared.on_trial_complete("c", oom)
    assert (engine.states[0], engine.trials[0].reason, engine.trials[0].retries) == ("FAILED", "oom", 1)
    assert {n: trial.retries for n, trial in engine.trials.items() if n} == dict.fromkeys(range(1, 6), 0)
    engine.recorder.close()


class Fragile(Scripted):
    """A trial that dies on the nodes it is told, before its first report."""

    def step(self) -> dict[str, Any]:
        node = ray.get_runtime_context().get_node_id()
        deaths = Path(self.values["deaths"])
        if node in self.values["bad"]:
            (deaths / str(os.getpid())).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        while len(list(deaths.iterdir())) < 2:  # so that the other node has lost two before this one is done
            time.sleep(0.1)
        self.epoch += 1
        report = report_of(Trial(self.values["number"], "x", "x", None), self.epoch, 0.1)  # type: ignore[arg-type]
        return {"report": json.dumps(report | {"node": node}), "done": self.epoch == 2}


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Two nodes of one CPU each on this machine, and a head without any."""
    cluster = Cluster(True, head_node_args={"num_cpus": 0, "object_store_memory": STORE_BYTES})
    try:
        for _ in range(2):
            cluster.add_node(num_cpus=1, object_store_memory=STORE_BYTES)
        yield cluster.address
    finally:
        cluster.shutdown()


@pytest.mark.long
@pytest.mark.parametrize("bad", [1, 2])
def test_a_node_over_the_limit_gets_no_more_trials_and_when_all_are_the_search_stops(
    tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str, bad: int
) -> None:
    monkeypatch.setenv(OPTION, "1")
    (deaths := tmp_path / "deaths").mkdir()
    engine, said = start(tiny, tmp_path / "e", 6), list[str]()
    with connect_ray(address, False):
        workers = sorted(node.id for node in live_nodes() if node.cpus)
        names = {node.id: node.name for node in live_nodes()}

        def task(trial: Trial) -> dict[str, Any]:
            return {"number": trial.number, "bad": workers[:bad], "deaths": str(deaths)}

        run_on_ray(engine, tmp_path / "e", Slots(2, 1, 0), Fragile, task, said.append)
    engine.recorder.close()
    lost = [e["node"] for e in read_events(tmp_path / "e") if e["event"] == "lost"]
    assert all(name.endswith(f", node {node[:8]})") for node, name in names.items())  # all have the same IP
    first = [line for line in said if line.startswith(f"warning: {names[workers[0]]} has lost 2 trials within an hour")]
    assert len(first) == 1
    if bad == 1:
        assert engine.done and engine.fatal is None and set(engine.states.values()) == {"COMPLETE"}
        assert lost == [names[workers[0]]] * 2
        assert set(Leaderboard(tmp_path / "e").trials()["node"]) == {workers[1]}
    else:
        assert isinstance(engine.fatal, ResourceError) and "resume the search" in str(engine.fatal)
        assert not engine.states and set(lost) == {names[node] for node in workers}
        again = start(tiny, tmp_path / "e", 6)
        drive(again)
        again.recorder.close()
        assert again.done and set(again.states.values()) == {"COMPLETE"}
