"""Trials that are lost through no fault of their own: why, on which node, and how often a node may lose them."""

from __future__ import annotations

import os
import time
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from bpkd_search.cluster.nodes import Node, node_of_actor
from bpkd_search.errors import ResourceError

# Trials that a node may lose in an hour, each without a single report since it began or was last resumed.
MOST_AN_HOUR = 6
OPTION = "BPKD_SEARCH_LOSSES_PER_HOUR"
UNKNOWN = Node("", "an unknown node", 0, 0)


@dataclass(frozen=True)
class Loss:
    """Why a trial was lost (`memory`, `node` or `process`), the same in words, and the node, `UNKNOWN` at worst."""

    cause: str
    message: str
    node: Node


def loss_of(error: BaseException | None) -> Loss | None:
    """What Ray's error says of a lost trial; None for an error that the trial's own code has raised."""
    from ray.exceptions import NodeDiedError, OutOfMemoryError, RayActorError, RayError, RayTaskError

    if isinstance(error, RayTaskError) or (isinstance(error, RayActorError) and error.actor_init_failed):
        return None
    if error is not None and not isinstance(error, RayError):
        return None
    text = str(error or "")
    lower = text.lower()
    node = node_of_actor(getattr(error, "actor_id", None)) or _named_in(text)
    where = "" if node == UNKNOWN else f" on {node.name}"
    if isinstance(error, OutOfMemoryError) or "running low on memory" in lower or "memory monitor" in lower:
        return Loss("memory", f"Ray ended the trial's process{where}, because the node ran out of memory", node)
    if isinstance(error, NodeDiedError) or "node has died" in lower or "node died" in lower or "node is dead" in lower:
        return Loss("node", f"the trial's node{where.replace(' on ', ' ')} is gone", node)
    return Loss("process", f"the trial's process{where} was killed or crashed (out of memory, or a signal)", node)


def _named_in(text: str) -> Node:
    """The node of which an error tells no more than the IP."""
    address = next((line.split()[1] for line in text.splitlines() if line.strip().startswith("ip: ")), None)
    return Node(address, address, 0, 0, address) if address else UNKNOWN


@dataclass
class LossLimit:
    """Counts what nodes lose; `say` prints a line for a node that is over the limit."""

    say: Callable[[str], None] = lambda line: None
    most: int = field(default_factory=lambda: int(os.environ.get(OPTION, MOST_AN_HOUR)))
    clock: Callable[[], float] = time.monotonic
    _times: dict[Node, deque[float]] = field(default_factory=lambda: defaultdict(deque))

    def lost(self, node: Node) -> None:
        """Count a loss on a node."""
        times = self._times[node]
        times.append(self.clock())
        if len(times) == self.most + 1 and self._is_over(node):
            self.say(
                f"warning: {node.name} has lost {len(times)} trials within an hour and gets no more until the hour is"
                " over; look for the cause there"
            )

    def over(self) -> list[Node]:
        """The nodes that are over the limit now."""
        return [node for node in self._times if self._is_over(node)]

    def check(self, nodes: Sequence[Node]) -> None:
        """Raises `ResourceError` when every one of the nodes that can run trials is over the limit."""
        over = self.over()
        if UNKNOWN in over or (over and nodes and all(node in over for node in nodes)):
            raise ResourceError(
                f"{', '.join(node.name for node in over)} lost more than {self.most} trials within an hour, before any"
                f" of their epochs ended; find the cause (memory, a broken node) and resume the search. {OPTION} sets"
                " the limit"
            )

    def _is_over(self, node: Node) -> bool:
        times = self._times[node]
        while times and self.clock() - times[0] > 3600:
            times.popleft()
        return len(times) > self.most
