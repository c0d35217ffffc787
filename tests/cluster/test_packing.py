"""Packing: the best of a simulated machine is found, and a real one is measured through Ray."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from bpkd_search.cluster import packing
from bpkd_search.cluster.connection import connect_ray
from bpkd_search.cluster.mps import DIRECTORY, mps_runs
from bpkd_search.cluster.nodes import Node
from bpkd_search.cluster.packing import Machine, Measured, Packing, candidates, climb, pack, wanted
from bpkd_search.cluster.slots import Slots, divide
from bpkd_search.config import SearchConfig
from bpkd_search.config.load import parse
from bpkd_search.config.points import to_tree
from bpkd_search.config.search import Resources, Search
from bpkd_search.errors import ConfigError, ResourceError
from bpkd_search.machine import usable_cpus
from bpkd_search.training.prepare import prepare
from tests.machines import nodes_of

AUTO = Search(resources="auto")


def gpu(saturates: float, memory: float, overhead: float = 0.03) -> Any:
    """A GPU on which copies share its rate once together they fill it, and each holds so much of its memory."""

    def measure(each: Packing) -> Measured:
        if each.copies * memory > 1:
            return Measured(each, None, 0.0)
        rate = 100 * min(each.copies, saturates) * (1 - overhead * (each.copies - 1))
        return Measured(each, rate, 1 - each.copies * memory)

    return measure


def known_best(machine: Machine, measure: Any) -> Packing:
    """By measuring everything."""
    everything = [measure(each) for each in candidates(machine)]
    return max((m for m in everything if m.fits), key=lambda m: m.images_per_second).packing


@pytest.mark.parametrize(
    ("saturates", "memory", "copies"),
    [(1, 0.05, 1), (2, 0.05, 2), (3.5, 0.05, 4), (6, 0.05, 6), (6, 0.2, 4), (6, 0.31, 2), (6, 0.6, 1), (99, 0.01, 16)],
)
def test_the_best_of_a_simulated_gpu_is_found(saturates: float, memory: float, copies: int) -> None:
    machine, measure, said = Machine(gpus=1, cpus=32), gpu(saturates, memory), []
    record = pack(AUTO, machine, measure, said.append)
    best = known_best(machine, measure)
    assert best.copies == copies
    assert record["resources"] == {"cpus": 32 // copies, "gpus": best.gpus}
    assert f"packing: {copies} trial(s) on a GPU, {32 // copies} thread(s) each is the fastest" in said
    slots = divide(AUTO, nodes_of((32, 1)), measured=Resources(**record["resources"]))
    assert (slots.count, slots.threads) == (copies, 32 // copies)


@pytest.mark.parametrize("exponent", [0.1, 0.5, 0.9, 1.2])
def test_the_best_of_simulated_cpus_is_found(exponent: float) -> None:
    """`t` threads are worth t^exponent: below 1 single threads win, above 1 the whole machine on one trial."""

    def measure(each: Packing) -> Measured:
        return Measured(each, each.copies * each.cpus**exponent, 0.5)

    machine = Machine(gpus=0, cpus=8)
    record = pack(AUTO, machine, measure, lambda line: None)
    best = known_best(machine, measure)
    assert best.cpus == (1 if exponent < 1 else 8)
    assert record["resources"]["cpus"] == best.cpus
    assert divide(AUTO, nodes_of((8, 0)), measured=Resources(**record["resources"])).count == best.copies


def test_on_two_gpus_the_cpus_are_shared_and_both_are_filled() -> None:
    record = pack(AUTO, Machine(gpus=2, cpus=16), gpu(4, 0.05), lambda line: None)
    slots = divide(AUTO, nodes_of((16, 2)), measured=Resources(**record["resources"]))
    assert slots == Slots(8, 2, 0.25)


def test_every_share_of_a_gpu_leaves_room_for_the_last_copy() -> None:
    for each in candidates(Machine(gpus=1, cpus=64)):
        slots = divide(AUTO, nodes_of((64, 1)), measured=Resources(cpus=each.cpus, gpus=each.gpus))
        assert slots.count == each.copies
        assert each.copies * each.gpus <= 1


def test_with_mps_the_measurement_says_so_and_without_it_is_offered() -> None:
    said: dict[bool, list[str]] = {True: [], False: []}
    for mps in said:
        assert pack(AUTO, Machine(gpus=1, cpus=8), gpu(4, 0.05), said[mps].append, mps=mps)["mps"] is mps
    assert said[True][0] == "packing: MPS runs, so trials on one GPU compute at the same time"
    assert "nvidia-cuda-mps-control -d" in said[False][-1] and not any("MPS" in line for line in said[False][:-1])
    on_cpus: list[str] = []
    pack(AUTO, Machine(gpus=0, cpus=4), lambda each: Measured(each, 1.0, 0.5), on_cpus.append)
    assert not any("MPS" in line for line in on_cpus)


def test_a_daemon_is_one_that_listens(tmp_path: Path) -> None:
    found = {DIRECTORY: str(tmp_path)}
    assert not mps_runs(found)
    (tmp_path / "control").write_text("no pipe")
    assert not mps_runs(found)
    (tmp_path / "control").unlink()
    os.mkfifo(tmp_path / "control")
    assert not mps_runs(found), "its daemon was killed"
    daemon = os.open(tmp_path / "control", os.O_RDONLY | os.O_NONBLOCK)
    assert mps_runs(found)
    os.close(daemon)
    assert not mps_runs(found)


def test_a_record_of_other_circumstances_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes, slots = nodes_of((8, 1)), Slots(1, 8, 1.0)
    measured: list[bool] = []

    def again(search: Search, machine: Machine, measure: Any, say: Any, *, mps: bool) -> dict[str, Any]:
        measured.append(mps)
        return {"mps": mps}

    monkeypatch.setattr(packing, "live_nodes", lambda: nodes)
    monkeypatch.setattr(packing, "pack", again)
    monkeypatch.setattr(packing, "ray_copies", lambda *given: nullcontext())
    for mps, taken in ((False, True), (True, False)):
        monkeypatch.setattr(packing, "on_each", lambda nodes, ask, mps=mps: dict.fromkeys(nodes, mps))
        # Records of before are of machines without MPS.
        known = {"machine": {"gpus": 1, "cpus": 8}, "resources": {"cpus": 4, "gpus": 0.5}}
        task = SimpleNamespace(to_dict=dict)
        assert (packing.pack_on_ray(AUTO, task, slots, known, print) is known) is taken  # type: ignore[arg-type]
    assert measured == [True]


def test_a_packing_that_leaves_no_memory_is_not_taken_however_fast() -> None:
    def measure(each: Packing) -> Measured:
        return Measured(each, 100.0 * each.copies, 0.5 if each.copies < 3 else 0.02)

    assert pack(AUTO, Machine(gpus=1, cpus=8), measure, lambda line: None)["resources"]["gpus"] == 0.5


def test_nothing_fits_still_gives_one_trial_a_device_and_says_so() -> None:
    said: list[str] = []
    record = pack(AUTO, Machine(gpus=1, cpus=8), lambda each: Measured(each, None, 0.0), said.append)
    assert record["resources"] == {"cpus": 8, "gpus": 1.0}
    assert any("nothing fits in memory" in line for line in said)


def test_the_climb_ends_after_two_that_are_no_better() -> None:
    tried = list(climb(candidates(Machine(gpus=1, cpus=16)), gpu(2, 0.05)))
    assert [m.packing.copies for m in tried] == [1, 2, 3, 4]


def test_the_users_bound_on_trials_at_once_is_kept() -> None:
    bounded = Search(resources="auto", concurrent=2)
    record = pack(bounded, Machine(gpus=1, cpus=16), gpu(8, 0.05), lambda line: None)
    assert divide(bounded, nodes_of((16, 1)), measured=Resources(**record["resources"])).count == 2
    assert [(p.copies, p.cpus) for p in candidates(Machine(gpus=0, cpus=4), 1)] == [(1, 1), (1, 2), (1, 4)]


@pytest.mark.parametrize(
    ("resources", "gpus", "measures"),
    [("auto", 0, True), ("auto", 1, True), (None, 1, True), (None, 0, False), ({"gpus": 1}, 1, False), ({}, 1, False)],
)
def test_a_set_figure_is_obeyed_and_auto_is_measured(resources: Any, gpus: float, measures: bool) -> None:
    assert wanted(Search.model_validate({"resources": resources}), gpus) is measures


def test_a_wrong_word_names_what_is_valid(tiny: dict[str, Any]) -> None:
    tiny["search"]["resources"] = "lots"
    with pytest.raises(ConfigError, match=r"search\.resources: got 'lots', must be auto, or figures"):
        parse(SearchConfig, tiny, "tiny.yaml")


@pytest.fixture(scope="module")
def nodes() -> Iterator[list[Node]]:
    """A Ray of this machine's CPUs, two at most: each is a process more."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bpkd_search.cluster.connection.usable_cpus", lambda: min(2, usable_cpus()))
        patch.setenv("OMP_WAIT_POLICY", "PASSIVE")  # threads that wait leave the CPUs to other tests
        with connect_ray(None, False) as found:
            yield found


def test_a_real_machine_is_measured_through_ray_and_remembered(
    nodes: list[Node], tmp_path: Path, tiny: dict[str, Any]
) -> None:
    from bpkd_search.cluster.trial import TrialTask

    config = parse(SearchConfig, {**tiny, "search": {**tiny["search"], "resources": "auto"}}, "tiny.yaml")
    prepared, said = prepare(config.run(), lambda line: None), []
    task = TrialTask(str(tmp_path), prepared, 1, run=to_tree(config.run()))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing, "SECONDS", 0.5)
        record = packing.pack_on_ray(config.search, task, divide(config.search, nodes), None, said.append)
        empty = replace(task, prepared=None)
        assert packing.pack_on_ray(config.search, empty, divide(config.search, nodes), record, said.append) == record
    record = json.loads(json.dumps(record))
    cpus = int(nodes[0].cpus)
    assert record["machine"] == {"gpus": 0, "cpus": cpus}
    rates = {m["packing"]["cpus"]: m["images_per_second"] for m in record["measured"]}
    assert all(rate > 0 for rate in rates.values()), said
    assert record["resources"]["cpus"] == max(rates, key=lambda cpus: rates[cpus])
    assert len(said) == len(rates) + 1


def test_validation_counts_into_the_memory_of_a_packing(
    tmp_path: Path, tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from bpkd_search.cluster.trial import TrialTask
    from bpkd_search.training import evaluation

    run = parse(SearchConfig, tiny, "tiny.yaml").run()
    copy = packing.Copy(TrialTask(str(tmp_path), prepare(run, lambda line: None), 1, run=to_tree(run)).to_dict())
    assert copy.warm_up(1)
    seen: list[int] = []

    def full(model: Any, images: torch.Tensor, *given: Any, **named: Any) -> torch.Tensor:
        seen.append(len(images))
        raise torch.OutOfMemoryError("CUDA out of memory.")

    # Training fits; the logits of whole validation images do not.
    monkeypatch.setattr(evaluation, "predict_classes", full)
    assert copy.warm_up(1) is None
    # Not even one at a time.
    assert seen[0] == tiny["data"]["synthetic"]["val_images"] and seen[-1] == 1


def test_a_machine_that_others_hold_is_not_waited_for_without_end(
    nodes: list[Node], monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    monkeypatch.setattr(packing, "READY_SECONDS", 1.0)

    class Holder:
        def ready(self) -> bool:
            return True

    holder = ray.remote(Holder).options(num_cpus=nodes[0].cpus).remote()
    assert ray.get(holder.ready.remote())
    with (
        pytest.raises(ResourceError, match=r"packing: Ray has not given 1 CPU\(s\) of one node for 1 s"),
        packing.ray_copies({}, Machine(gpus=0, cpus=1), 1),
    ):
        pass
    ray.kill(holder)
