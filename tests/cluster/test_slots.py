"""How the nodes of a cluster are divided among trials."""

from __future__ import annotations

import itertools
import math
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from bpkd_search import Leaderboard
from bpkd_search.cluster import placement as placements
from bpkd_search.cluster.nodes import Node
from bpkd_search.cluster.placement import Placement
from bpkd_search.cluster.slots import Slots, divide
from bpkd_search.config import SearchConfig
from bpkd_search.config.load import parse
from bpkd_search.config.search import Resources, Search
from bpkd_search.errors import ConfigError, ResourceError
from tests.machines import nodes_of

ONE_NODE = [
    ({}, (2, 0), Slots(2, 1, 0)),
    ({}, (16, 1), Slots(1, 16, 1)),
    ({}, (64, 8), Slots(8, 8, 1)),
    ({"resources": {"gpus": 0.25}}, (16, 1), Slots(4, 4, 0.25)),
    ({"resources": {"gpus": 0.1}}, (4, 1), Slots(4, 1, 0.1)),
    ({"resources": {"gpus": 2}}, (16, 8), Slots(4, 4, 2)),
    ({"resources": {"gpus": 0}}, (8, 1), Slots(8, 1, 0)),
    ({"resources": {"cpus": 4}}, (16, 0), Slots(4, 4, 0)),
    ({"concurrent": 1}, (16, 0), Slots(1, 1, 0)),
    ({"concurrent": 99}, (2, 0), Slots(2, 1, 0)),
    # A fraction is of one GPU: three trials on each of eight, not 8 / 0.3.
    ({"resources": {"gpus": 0.3}}, (96, 8), Slots(24, 4, 0.3)),
    ({"resources": {"gpus": 3}}, (16, 8), Slots(2, 8, 3)),
    # No GPU is idle for want of a whole CPU; beyond one trial a GPU, a trial has at least one.
    ({}, (4, 8), Slots(8, 0.5, 1)),
    ({}, (1, 3), Slots(3, 0.3333, 1)),
    ({"resources": {"gpus": 0.5}}, (4, 8), Slots(8, 0.5, 0.5)),
    ({"resources": {"gpus": 0.5}}, (12, 8), Slots(12, 1, 0.5)),
    ({"resources": {"gpus": 2}}, (2, 8), Slots(4, 0.5, 2)),
]
NODES = [
    # A CPU head and GPU workers: CPUs are those of a trial's own node.
    ({}, [(64, 0), (8, 1), (8, 1)], Slots(2, 8, 1)),
    ({}, [(64, 0), (8, 2), (32, 2)], Slots(4, 4, 1)),
    # A head that is to run nothing.
    ({}, [(0, 1), (8, 1)], Slots(1, 8, 1)),
    ({}, [(0, 0), (8, 0), (3, 0)], Slots(11, 1, 0)),
    ({"resources": {"cpus": 3}}, [(8, 0), (4, 0), (2, 0)], Slots(3, 3, 0)),
    ({"resources": {"gpus": 4}}, [(16, 4), (16, 2), (16, 2)], Slots(1, 16, 4)),
    ({"resources": {"gpus": 0.5, "cpus": 2}}, [(4, 1), (2, 1)], Slots(3, 2, 0.5)),
    ({"concurrent": 3}, [(4, 4), (4, 4)], Slots(3, 1, 1)),
]


@pytest.mark.parametrize(("search", "machine", "slots"), ONE_NODE)
def test_one_node(search: dict[str, Any], machine: tuple[float, float], slots: Slots) -> None:
    assert divide(Search.model_validate(search), nodes_of(machine)) == slots


@pytest.mark.parametrize(("search", "machines", "slots"), NODES)
def test_several_nodes(search: dict[str, Any], machines: list[tuple[float, float]], slots: Slots) -> None:
    assert divide(Search.model_validate(search), nodes_of(*machines)) == slots


def packed(slots: Slots, machine: tuple[float, float]) -> int:
    """Trials placed on a node one after the other as Ray does: a fraction on one GPU, whole ones on free ones."""
    cpus, free = round(machine[0] * 1e4), [10_000] * int(machine[1])
    need_cpu, need_gpu = round(slots.cpus * 1e4), round(slots.gpus * 1e4)
    for count in itertools.count():
        fits = [k for k, left in enumerate(free) if left >= min(need_gpu, 10_000)]
        if cpus < need_cpu or len(fits) < math.ceil(need_gpu / 10_000):
            return count
        cpus -= need_cpu
        for k in fits[: math.ceil(need_gpu / 10_000)]:
            free[k] -= min(need_gpu, 10_000)
    raise AssertionError


@pytest.mark.parametrize("gpus", [None, 0, 0.1, 0.25, 0.3, 1 / 3, 0.5, 0.7, 1, 2])
def test_ray_can_place_exactly_that_many_trials(gpus: float | None) -> None:
    search = Search() if gpus is None else Search(resources=Resources(gpus=gpus))
    machines = [(cpus, g) for cpus in (1, 4, 7, 64) for g in (0, 1, 3, 8)]
    for table in itertools.product(machines, repeat=2):
        if max(g for _, g in table) < (gpus or 0):
            continue
        slots = divide(search, nodes_of(*table))
        assert slots.count == sum(packed(slots, machine) for machine in table), (table, slots)
        if slots.gpus == 1:
            assert slots.count == sum(g for _, g in table)  # none is idle


@pytest.mark.parametrize(
    ("resources", "machines", "said"),
    [
        ({"gpus": 1}, [(2, 0)], r"resources\.gpus: got 1 a trial, there are 0 GPU"),
        ({"cpus": 9}, [(2, 0)], r"cpus: got 9 a trial, there are 2 CPU"),
        ({"cpus": 9}, [(8, 0), (8, 0)], r"cpus: got 9 a trial, there are 8 CPU\(s\) on the largest node"),
        ({"gpus": 2}, [(8, 1), (8, 1)], r"gpus: got 2 a trial, there are 1 GPU\(s\) on the largest node"),
        ({"gpus": 1, "cpus": 9}, [(64, 0), (8, 1)], r"no node has 9 CPU\(s\) and 1 GPU\(s\) .* b: 8 CPU, 1 GPU"),
        ({}, [(0, 0)], r"cpus: got 1 a trial, there are 0 CPU"),
    ],
)
def test_a_trial_that_fits_on_no_node_is_refused_with_both_figures(
    resources: dict[str, Any], machines: list[tuple[float, float]], said: str
) -> None:
    with pytest.raises(ResourceError, match=said):
        divide(Search.model_validate({"resources": resources}), nodes_of(*machines))


def test_the_device_decides_whether_gpus_count() -> None:
    assert divide(Search(), nodes_of((8, 2)), "cpu") == Slots(8, 1, 0)
    assert divide(Search(resources=Resources(gpus=1)), nodes_of((8, 2)), "cpu") == Slots(8, 1, 0)
    assert divide(Search(), nodes_of((8, 2)), "cuda") == Slots(2, 4, 1)
    with pytest.raises(ResourceError, match=r"^train\.device: got cuda:1; .* CUDA_VISIBLE_DEVICES"):
        divide(Search(), nodes_of((8, 2)), "cuda:1")
    with pytest.raises(ResourceError, match=r"^train\.device: got cuda, but trials get no GPU"):
        divide(Search(), nodes_of((8, 0)), "cuda")


def test_one_and_a_half_gpus_are_refused_when_the_file_is_read(tiny: dict[str, Any]) -> None:
    tiny["search"]["resources"] = {"gpus": 1.5}
    with pytest.raises(ConfigError, match=r"search\.resources.*gpus: got 1\.5, must be at most 1 or a whole number"):
        parse(SearchConfig, tiny, "tiny.yaml")


SEARCH_ON_TWO_NODES = """
import sys
from ray.cluster_utils import Cluster
from bpkd_search import load_search, run_search
cluster = Cluster()
cluster.add_node(num_cpus=3, include_dashboard=False)
cluster.add_node(num_cpus=1, num_gpus=1, include_dashboard=False)
try:
    run_search(load_search(sys.argv[1]), sys.argv[2], address=cluster.address)
finally:
    cluster.shutdown()
"""


@pytest.mark.long
def test_a_real_cluster_of_a_cpu_head_and_a_gpu_worker_runs_a_search(tiny: dict[str, Any], tmp_path: Path) -> None:
    """A share of all CPUs (four) fits on neither node: the trials would wait for ever."""
    tiny["train"]["epochs"] = 1
    # Ray counts a GPU that is not there; trials without mixed precision compute on the CPU beside it.
    tiny["search"] = {"trials": 1, "scheduler": {"name": "none"}, "resources": {"gpus": 1}}
    path, folder = tmp_path / "tiny.yaml", tempfile.mkdtemp(prefix="rt", dir="/tmp")
    path.write_text(yaml.safe_dump(tiny))
    done = subprocess.run(
        [sys.executable, "-c", SEARCH_ON_TWO_NODES, str(path), str(tmp_path / "out")],
        env={**os.environ, "RAY_TMPDIR": folder, "RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES": "1"},
        capture_output=True,
        text=True,
        timeout=200,
    )
    shutil.rmtree(folder, ignore_errors=True)
    assert done.returncode == 0, done.stderr
    assert "ray: 1 trial(s) at once, 1 CPU and 1 GPU each" in done.stderr
    assert (Leaderboard(tmp_path / "out").trials()["state"] == "COMPLETE").all()


def test_slots_follow_nodes_that_join_and_leave() -> None:
    placement = Placement(Slots(8, 8, 1), search=Search())
    a, b, weak, blind = nodes_of((64, 8), (64, 8), (4, 8), (64, 0))

    def room(*nodes: Node) -> int:
        placement.follow(nodes)
        return placement.room

    assert (room(a), room(a, blind), room(a, b)) == (8, 8, 16)
    assert placement.slots == Slots(16, 8, 1)
    # Where eight CPUs a trial would leave its GPUs idle, trials get less from then on.
    assert room(a, b, weak) == 24 and placement.slots == Slots(24, 0.5, 1)
    assert room(b) == 8 and placement.slots == Slots(8, 0.5, 1)
    # With no node one trial waits in Ray for one, which an autoscaler sees.
    assert room(blind) == 1 and placement.slots.count == 0
    assert room() == 1 and room(a) == 8


@pytest.mark.parametrize(
    ("resources", "device", "told"), [(None, "auto", True), (None, "cpu", False), ({"gpus": 0}, "auto", False)]
)
def test_gpus_that_join_a_search_on_cpus_are_told_of_once(
    resources: Any, device: str, told: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    there, said = nodes_of((4, 0)), list[str]()
    monkeypatch.setattr(placements, "live_nodes", lambda: there)
    monkeypatch.setattr(placements, "draining_nodes", list)
    monkeypatch.setattr(placements, "CHECK_SECONDS", 0)
    placement = Placement(Slots(4, 1, 0), said.append, Search(resources=resources), device)
    assert placement.check_if_due() and said == []
    there += nodes_of((4, 0), (8, 2))[1:]
    assert placement.check_if_due() and placement.check_if_due()
    rule = "but trials run on CPUs; to use them, stop the search and resume it"
    assert said == ([f"warning: GPUs have joined (2 x GPU), {rule}"] if told else [])
    assert placement.slots == Slots(12, 1, 0)


def test_search_concurrent_bounds_what_follows() -> None:
    placement = Placement(Slots(2, 1, 0), search=Search(concurrent=3))
    placement.follow(nodes_of((2, 0), (2, 0)))
    assert placement.room == 4  # the searcher keeps to `search.concurrent`, which a request may raise


@pytest.mark.parametrize(
    ("slots", "machines", "roomier"),
    [
        (Slots(8, 2, 0.25), [(8, 1), (8, 1)], Slots(8, 2, 0.5)),
        (Slots(4, 2, 0.3333), [(8, 1)], Slots(4, 2, 1.0)),
        (Slots(2, 2, 1.0), [(8, 2)], None),  # alone on its GPU already
        (Slots(6, 1, 0), [(4, 0), (2, 0)], Slots(6, 2, 0)),
        (Slots(5, 1, 0), [(5, 0)], Slots(5, 2, 0)),  # two of the five
        (Slots(1, 2, 0), [(3, 0)], None),
        (Slots(1, 1, 0), [], None),
    ],
)
def test_a_roomier_slot_leaves_half_as_many_on_the_device(
    slots: Slots, machines: list[tuple[float, float]], roomier: Slots | None
) -> None:
    assert slots.roomier(nodes_of(*machines)) == roomier
