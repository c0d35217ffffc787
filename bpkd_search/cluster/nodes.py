"""The nodes of a Ray cluster, and asking something of each of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from bpkd_search.errors import ResourceError, UserError

T = TypeVar("T")
SAY_SECONDS = 20.0
# What begins the resource by which Ray names the GPUs of a node.
KIND = "accelerator_type:"


@dataclass(frozen=True)
class Node:
    """A node: Ray's id, which tells nodes apart, a name for people, the CPUs and GPUs that it has for tasks, its IP.

    `kind` is what Ray calls its GPUs, empty without any or where Ray does not know them.
    """

    id: str
    name: str = field(compare=False)
    cpus: float = field(compare=False)
    gpus: float = field(compare=False)
    address: str = field(default="", compare=False)
    kind: str = field(default="", compare=False)


def live_nodes() -> list[Node]:
    """The cluster's nodes that are up and take work; Ray gives none to those that are drained."""
    leaving = _draining_ids()
    return [node for node, alive in known_nodes().items() if alive and node.id not in leaving]


def draining_nodes() -> list[Node]:
    """The nodes that are up but about to leave, as a spot machine that has been given notice."""
    leaving = _draining_ids()
    return [node for node, alive in known_nodes().items() if alive and node.id in leaving] if leaving else []


def kinds_of(nodes: Sequence[Node]) -> str:
    """The GPUs of nodes in words, such as `8 x A100, 4 x T4`; empty without any."""
    counts = Counter[str]()
    for node in nodes:
        if node.gpus:
            counts[node.kind or "GPU"] += int(node.gpus)
    return ", ".join(f"{count} x {kind}" for kind, count in sorted(counts.items()))


def known_nodes() -> dict[Node, bool]:
    """Every node that has joined the cluster, and whether it is up. Those with one IP have their id in their name."""
    import ray

    nodes, known = ray.nodes(), dict[Node, bool]()
    sharing = Counter(node["NodeManagerAddress"] for node in nodes)
    for node in nodes:
        address, resources = node["NodeManagerAddress"], node["Resources"]
        which = f", node {node['NodeID'][:8]}" if sharing[address] > 1 else ""
        name = f"{node['NodeManagerHostname']} ({address}{which})"
        cpus, gpus = resources.get("CPU", 0.0), resources.get("GPU", 0.0)
        kinds = [key.removeprefix(KIND) for key in sorted(resources) if key.startswith(KIND)] if gpus else []
        found = Node(node["NodeID"], name, cpus, gpus, address, "/".join(kinds))
        known[found] = node["Alive"]
    return known


def node_of_actor(actor_id: str | None) -> Node | None:
    """The node on which an actor ran, also when both are gone; None where Ray does not say."""
    node = node_id_of_actor(actor_id)
    return find_node(node) if node is not None else None


def node_id_of_actor(actor_id: str | None) -> str | None:
    """Ray's id of the same node, which is found sooner."""
    import ray

    if actor_id is None or not ray.is_initialized():
        return None
    try:
        # Ray's public state API would need its dashboard, which is seldom there.
        from ray._private.state import actors

        return str(actors(actor_id)["Address"]["NodeID"])
    except Exception:  # a private function may be gone or give something else: then the error's text has to do
        return None


def node_here() -> Node | None:
    """This process's node; None outside of Ray."""
    import ray

    return find_node(ray.get_runtime_context().get_node_id()) if ray.is_initialized() else None


def find_node(node: str) -> Node | None:
    """The node with Ray's id, also when it is gone; None if there was none."""
    return next((each for each in known_nodes() if each.id == node), None)


def _draining_ids() -> set[str]:
    """Ray's ids of the nodes that are drained; none where this version of Ray does not say."""
    try:
        from ray._private.state import state

        return set(state.get_draining_nodes())
    except Exception:  # a private function, as in `node_of_actor`
        return set()


def pinned(node: str | None) -> dict[str, Any]:
    """Ray's options for a task or actor that runs on one node (by Ray's id) and nowhere else; none for any node."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return {"scheduling_strategy": NodeAffinitySchedulingStrategy(node, soft=False)} if node else {}


def on_each(
    nodes: Sequence[Node], function: Callable[[], T], tick: Callable[[int], None] | None = None
) -> dict[Node, T]:
    """What a function gives on each node, all at once; nodes that are lost in between are left out.

    Long work has a `tick`: it is called every `SAY_SECONDS` with how many nodes are done, and the first refusal ends
    the waiting. Raises `ResourceError` with the nodes and what each says, where it is a user's error.
    """
    import ray
    from ray.exceptions import RayError, RayTaskError

    # No CPU is asked for: trials of another driver may hold them all.
    task = ray.remote(num_cpus=0)(_call)
    running = {task.options(**pinned(node.id)).remote(function): node for node in nodes}
    results: dict[Node, T] = {}
    refused: list[str] = []
    while running and not (tick and refused):
        ready, _ = ray.wait(list(running), timeout=SAY_SECONDS if tick else None)
        if tick and not ready:
            tick(len(results))
        for ref in ready:
            node = running.pop(ref)
            try:
                results[node] = ray.get(ref)
            except RayTaskError as e:
                if not isinstance(e.cause, UserError):
                    raise
                refused.append(f"node {node.name}: {e.cause}")
            except RayError:
                pass
    if refused:
        raise ResourceError("\n".join(sorted(refused)))
    return results


def exist(paths: Sequence[str]) -> list[bool]:
    """Whether this process sees each path; defined here, because this module imports quickly on a fresh node."""
    return [Path(path).exists() for path in paths]


def _call(function: Callable[[], T]) -> T:
    return function()
