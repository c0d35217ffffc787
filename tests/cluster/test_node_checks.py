"""Planted faults: each is found, on its machine, and nothing else is."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest

from bpkd_search.cluster.node_checks import FAULT, WARNING, Folder, Machine, as_json, find_faults

GPU = {"name": "A100", "error": None}
FACTS: dict[str, Any] = {
    "versions": {"python": "3.11.7", "torch": "2.8.0", "timm": "1.0.9", "bpkd-search": "0.1.0 (abc123)"},
    "torch": {"cuda": "12.8", "gpus": [GPU, GPU], "why": None},
    "driver": "570.86.15",
    "open_files": 65536,
    "shared_memory": 2**34,
    "token": True,
}
FOLDERS = {"experiments": Folder("experiments", "give --out"), "copies": Folder("copies", "set it", shared=False)}


def sound() -> list[Machine]:
    """A driver without GPUs and two nodes on which nothing is wrong."""
    folder = {"path": "/runs", "mark": "/runs/x", "error": None, "free": 2**40, "same": True}
    machines = [
        Machine(name, gpus, 2**33, deepcopy(FACTS), {key: dict(folder) for key in FOLDERS}, {"data.train": "a1"}, 0.0)
        for name, gpus in (("driver", 0), ("a", 2), ("b", 2))
    ]
    machines[0].facts.update(torch={"cuda": "12.8", "gpus": [], "why": "no GPUs"}, driver=None)
    machines[2].folders["copies"]["same"] = False  # each has its own
    return machines


def facts(path: str, value: Any) -> Callable[[Machine], Machine]:
    """Plant a value in the facts, by dotted path."""

    def plant(machine: Machine) -> Machine:
        *parents, last = path.split("/")
        inner: Any = machine.facts
        for parent in parents:
            inner = inner[parent]
        inner[last] = value
        return machine

    return plant


def folder(**values: Any) -> Callable[[Machine], Machine]:
    def plant(machine: Machine) -> Machine:
        machine.folders["experiments"].update(values)
        return machine

    return plant


def values(**new: Any) -> Callable[[Machine], Machine]:
    return lambda machine: replace(machine, **new)


PLANTED = {
    "no answer": (values(error="no answer within 180 s"), FAULT, "answer: no answer within 180 s"),
    "version": (facts("versions/torch", "2.4.0"), FAULT, "torch: 2.4.0, the driver has 2.8.0"),
    "not installed": (facts("versions/timm", None), FAULT, "timm: is not installed"),
    "other code": (
        facts("versions/bpkd-search", "0.1.0 (fff)"),
        FAULT,
        "bpkd-search: 0.1.0 (fff), the driver has 0.1.0 (abc123)",
    ),
    "GPU without PyTorch": (
        facts("torch", {"cuda": None, "gpus": [], "why": "Torch not compiled with CUDA enabled"}),
        FAULT,
        "GPUs: Ray counts 2 GPU(s), PyTorch 0 (Torch not compiled with CUDA enabled)",
    ),
    "broken GPU": (
        facts("torch/gpus", [GPU, {"name": "A100", "error": "no kernel image"}]),
        FAULT,
        "GPUs: PyTorch cannot use a GPU: no kernel image",
    ),
    "idle GPU": (values(gpus=1), WARNING, "GPUs: Ray counts 1 GPU(s), PyTorch 2: the rest stays idle"),
    "old driver": (
        facts("driver", "470.82"),
        FAULT,
        "driver: 470.82 is too old for PyTorch with CUDA 12.8, which needs 525 or later",
    ),
    "read-only folder": (
        folder(error="Read-only file system", mark=None, same=False),
        FAULT,
        "experiments: /runs cannot be written (Read-only file system)",
    ),
    "own folder": (folder(same=False), FAULT, "experiments: /runs is not the driver's"),
    "full disk": (folder(free=2**20), FAULT, "experiments: 1 MiB free for /runs"),
    "other data": (values(contents={"data.train": "b2"}), FAULT, "data.train: b2, the driver reads a1"),
    "clock ahead": (values(skew=7.25), FAULT, "clock: 7.2 s ahead of the driver's"),
    "clock behind": (values(skew=-3600.0), FAULT, "clock: 3600.0 s behind the driver's"),
    "few files": (facts("open_files", 1024), WARNING, "open files: a process may open 1024 files"),
    "little memory": (
        facts("shared_memory", 2**26),
        WARNING,
        "shared memory: /dev/shm has 64 MiB, Ray's object store 8.0 GiB",
    ),
    "no token": (facts("token", False), WARNING, "security: Ray accepts commands without a token"),
}


def test_nothing_is_found_where_nothing_is_wrong() -> None:
    assert find_faults(sound(), FOLDERS, {}) == []


@pytest.mark.parametrize("planted", PLANTED)
def test_a_planted_fault_is_found_on_its_machine(planted: str) -> None:
    plant, level, text = PLANTED[planted]
    machines = sound()
    machines[2] = plant(machines[2])
    (found,) = find_faults(machines, FOLDERS, {})
    assert str(found).startswith(f"{level}: {text} on b; ")
    assert found.remedy
    assert as_json(machines, [found])["findings"][0]["where"] == ("b",)


def test_machines_with_the_same_fault_share_a_line_and_faults_come_first() -> None:
    machines = sound()
    machines[1:] = [facts("open_files", 256)(folder(same=False)(machine)) for machine in machines[1:]]
    first, second = find_faults(machines, FOLDERS, {})
    assert (first.level, second.level) == (FAULT, WARNING)
    assert first.where == second.where == ("a", "b")


def test_data_that_cannot_be_read_and_mixed_gpus_are_found() -> None:
    machines = sound()
    facts("torch/gpus", [{"name": "V100", "error": None}] * 2)(machines[2])
    found = find_faults(machines, FOLDERS, {"a": "data.root: /data does not exist"})
    assert [str(each).partition(";")[0] for each in found] == [
        "fault: contents: data.root: /data does not exist on a",
        "warning: GPUs: A100 on a",
        "warning: GPUs: V100 on b",
    ]


def test_kinds_of_gpus_that_only_ray_names_are_told_apart() -> None:
    machines = sound()
    for machine in machines[1:]:
        facts("torch/gpus", [])(machine)
    machines[1], machines[2] = replace(machines[1], gpus=1, kind="T4"), replace(machines[2], gpus=1, kind="A100")
    assert [machine.kinds for machine in machines] == ["", "T4", "A100"]
    lines = [str(each).partition(";")[0] for each in find_faults(machines, FOLDERS, {})]
    assert lines[-2:] == ["warning: GPUs: T4 on a", "warning: GPUs: A100 on b"]


def test_a_driver_without_gpus_or_with_a_newer_python_patch_is_judged_like_any() -> None:
    machines = sound()
    facts("driver", "570.86.15")(machines[0])
    assert find_faults(machines, FOLDERS, {}) == []
    # One machine alone is reached by nobody else.
    machines = [facts("token", False)(machine) for machine in sound()[:2]]
    assert find_faults(machines, FOLDERS, {}) == []
