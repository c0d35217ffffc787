"""Tables of machines, for tests of placement."""

from __future__ import annotations

from bpkd_search.cluster.nodes import Node


def nodes_of(*machines: tuple[float, float]) -> list[Node]:
    """Nodes `a`, `b`, ... with the given CPUs and GPUs."""
    return [Node(name, name, cpus, gpus) for name, (cpus, gpus) in zip("abcdefgh", machines, strict=False)]
