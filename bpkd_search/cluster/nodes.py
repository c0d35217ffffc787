"""The nodes of a Ray cluster, and asking something of each of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from bpkd_search.errors import ResourceError, UserError

T = TypeVar("T")
SAY_SECONDS = 20.0


@dataclass(frozen=True)
class Node:
    """A node that is up: Ray's id, a name for people, the CPUs and GPUs that it has for tasks, its IP."""

    id: str
    name: str
    cpus: float
    gpus: float
    address: str = ""


def live_nodes() -> list[Node]:
    """The cluster's nodes that are up."""
    import ray

    return [
        Node(
            node["NodeID"],
            f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})",
            node["Resources"].get("CPU", 0.0),
            node["Resources"].get("GPU", 0.0),
            node["NodeManagerAddress"],
        )
        for node in ray.nodes()
        if node["Alive"]
    ]


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
