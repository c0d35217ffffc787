"""What a trial gets of a node, and how many trials run at once on all of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from bpkd_search.cluster.nodes import Node
from bpkd_search.config.search import Resources, Search
from bpkd_search.errors import ResourceError

# The key under which a trial's configuration in Ray Tune says what Ray is to give it.
PLACE = "place"
# Ray counts resources in parts of one.
PARTS = 10_000


@dataclass(frozen=True)
class Slots:
    """`count` trials at once, each with `cpus` (and as many torch threads) and `gpus`."""

    count: int
    cpus: float
    gpus: float

    @property
    def threads(self) -> int:
        """Torch threads of a trial."""
        return max(1, int(self.cpus))

    def on(self, node: Node) -> int:
        """Number of such trials that fit on a node at once."""
        by_gpu = on_gpus(node, self.gpus)
        by_cpu = whole(node.cpus / self.cpus)
        return by_cpu if by_gpu is None else min(by_cpu, by_gpu)

    def roomier(self, nodes: Sequence[Node]) -> Slots | None:
        """The same for a trial beside which only half as many run on its GPU, or without GPUs on the largest node.

        None where it had that to itself already.
        """
        if self.gpus:
            half = whole(1 / self.gpus) // 2
            return replace(self, gpus=math.floor(PARTS / half) / PARTS) if half else None
        most = max(nodes, key=lambda node: node.cpus, default=None)
        half = self.on(most) // 2 if most else 0
        return replace(self, cpus=math.floor(most.cpus / half)) if most and half else None


def divide(search: Search, nodes: Sequence[Node], device: str = "auto", measured: Resources | None = None) -> Slots:
    """Divide the nodes of a cluster among trials; `measured` is what a packing has found for one on the largest node.

    By default a trial has a GPU to itself where there is one, and one CPU where there is none: on CPU, two
    trials of two threads each were several times slower than two of one. A set figure is obeyed. Beside a GPU a
    trial gets an even share of the CPUs of its own node, the smallest such share of all nodes with GPUs, because
    Ray gives every trial the same. `device` is `train.device`; on `cpu` no trial gets a GPU.
    Raises `ResourceError` for a trial that fits on no node, and for a device that is not Ray's to give.
    """
    if ":" in device:
        rule = "a search places its trials on GPUs itself; use cuda, and CUDA_VISIBLE_DEVICES to choose among GPUs"
        raise ResourceError(f"train.device: got {device}; {rule}")
    wanted = measured or (search.resources if isinstance(search.resources, Resources) else Resources())
    # A node without CPUs (`ray start --num-cpus=0`) is one that is to run nothing.
    nodes = [node for node in nodes if node.cpus > 0]
    most_gpus = max((node.gpus for node in nodes), default=0.0)
    if device == "cpu":
        gpus = 0.0
    elif wanted.gpus == "auto":
        gpus = 1.0 if most_gpus >= 1 else 0.0
    else:
        gpus = float(wanted.gpus)
    if gpus > 1 and gpus != int(gpus):
        raise ResourceError(f"search.resources.gpus: got {gpus:g} a trial, must be at most 1 or a whole number")
    if gpus > most_gpus:
        raise ResourceError(
            f"search.resources.gpus: got {gpus:g} a trial, there are {most_gpus:g} GPU(s) on the largest node"
        )
    if device == "cuda" and not gpus:
        raise ResourceError("train.device: got cuda, but trials get no GPU; set search.resources.gpus, or use auto")
    # What copies on one GPU share is measured; the CPUs beside it differ from node to node.
    fixed = None if wanted.cpus == "auto" or (measured and gpus) else float(wanted.cpus)
    cpus = fixed if fixed is not None else cpu_share(nodes, gpus)
    if cpus > (most_cpus := max((node.cpus for node in nodes), default=0.0)):
        raise ResourceError(
            f"search.resources.cpus: got {cpus:g} a trial, there are {most_cpus:g} CPU(s) on the largest node"
        )
    slots = Slots(1, cpus, gpus)
    count = sum(slots.on(node) for node in nodes)
    if not count:
        there = "; ".join(f"{node.name}: {node.cpus:g} CPU, {node.gpus:g} GPU" for node in nodes)
        raise ResourceError(
            f"search.resources: no node has {cpus:g} CPU(s) and {gpus:g} GPU(s) for a trial; there are {there}"
        )
    return replace(slots, count=at_once(search, replace(slots, count=count)))


def divide_again(search: Search, slots: Slots, nodes: Sequence[Node]) -> Slots:
    """Divide other nodes among the same trials: as many GPUs each, and CPUs as set, or a new even share beside a GPU.

    As many as the nodes hold. Raises `ResourceError` as `divide`.
    """
    fixed = not slots.gpus or (isinstance(search.resources, Resources) and search.resources.cpus != "auto")
    resources = Resources(cpus=slots.cpus if fixed else "auto", gpus=slots.gpus)
    again = search.model_copy(update={"resources": resources, "concurrent": "auto"})
    return divide(again, nodes, "auto" if slots.gpus else "cpu")


def room(slots: Slots, nodes: Sequence[Node]) -> Slots:
    """The same trials, as many as the nodes hold whatever `search.concurrent` says."""
    return replace(slots, count=sum(slots.on(node) for node in nodes if node.cpus > 0))


def at_once(search: Search, slots: Slots) -> int:
    """Trials that run at once where there is room for `slots`."""
    return slots.count if search.concurrent == "auto" else min(slots.count, search.concurrent)


def on_gpus(node: Node, gpus: float) -> int | None:
    """Number of trials with so many GPUs that a node's GPUs hold; a trial's fraction is of one GPU. None without."""
    if not gpus:
        return None
    return int(node.gpus) * whole(1 / gpus) if gpus < 1 else whole(node.gpus / gpus)


def cpu_share(nodes: Sequence[Node], gpus: float) -> float:
    """CPUs of a trial that has so many GPUs: one without any, else an even share that every node has for each trial.

    It is less than one CPU only where a node would otherwise leave a GPU idle.
    """
    shares = [1.0] if not gpus else []
    for node in nodes:
        if trials := on_gpus(node, gpus):
            filled = node.cpus / min(trials, node.gpus)
            shares.append(max(node.cpus // trials, min(1.0, math.floor(filled * PARTS) / PARTS)))
    return min(shares, default=1.0)


def whole(ratio: float) -> int:
    """The whole part, such that 1 / (1/3) is 3."""
    return int(ratio + 1e-3 / PARTS)
