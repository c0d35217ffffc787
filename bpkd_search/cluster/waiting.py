"""Waiting for the first nodes of a cluster that begins with less than trials need, such as a head without GPUs."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from bpkd_search.cluster.nodes import Node, live_nodes
from bpkd_search.config.search import Resources, Search

# Said where trials run on CPUs only because no node had a GPU when the search began.
ON_CPUS = (
    "no node has a GPU: trials run on CPUs, also on nodes that join; with search.resources.gpus: 1 the search would"
    " wait for a GPU"
)
LOOK_SECONDS, SAY_SECONDS = 1.0, 600.0


def lacking(search: Search, device: str, nodes: Sequence[Node]) -> str | None:
    """What no node has at all and trials need; None where there is some of it, if perhaps too little.

    Trials need GPUs where `train.device` (here `device`) is `cuda` or `search.resources.gpus` is a number.
    """
    wanted = search.resources.gpus if isinstance(search.resources, Resources) else "auto"
    gpus = device != "cpu" and (device == "cuda" if wanted == "auto" else bool(wanted))
    if not any(node.cpus for node in nodes):
        return "a CPU for trials"
    if gpus and not any(node.cpus and node.gpus for node in nodes):
        return "a GPU, which " + ("search.resources.gpus asks for" if wanted != "auto" else "train.device: cuda needs")
    return None


def lacked_gpus(search: Search, device: str, gpus: float) -> bool:
    """Whether trials with so many GPUs get none only because there was none, and not because it is set so."""
    wanted = search.resources.gpus if isinstance(search.resources, Resources) else "auto"
    return not gpus and device == "auto" and wanted == "auto"


def wait_for_nodes(
    search: Search,
    device: str,
    say: Callable[[str], None],
    look: Callable[[], Sequence[Node]] = live_nodes,
    sleep: Callable[[float], None] = time.sleep,
) -> Sequence[Node]:
    """The nodes of the connected cluster, once one of them has what trials need.

    `say` gets a line when the waiting begins, every ten minutes, and when it is over.
    """
    waited, nodes = 0.0, look()
    while (what := lacking(search, device, nodes)) is not None:
        if waited % SAY_SECONDS < LOOK_SECONDS:
            there = "; ".join(f"{node.name}: {node.cpus:g} CPU, {node.gpus:g} GPU" for node in nodes) or "no nodes"
            so_far = f" ({waited / 60:.0f} minutes so far)" if waited else ""
            say(f"waiting for a node with {what}{so_far}; there are {there}. Ctrl-C ends the waiting")
        sleep(LOOK_SECONDS)
        waited, nodes = waited + LOOK_SECONDS, look()
    if waited:
        say(f"a node has joined after {waited:.0f} s; the search begins")
    return nodes
