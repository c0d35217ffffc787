"""Trials that are lost through no fault of their own: why, on which node, and how often a node may lose them."""

from __future__ import annotations

import os
import time
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from bpkd_search.cluster.nodes import Node
from bpkd_search.errors import ResourceError

# Trials that a node may lose in an hour, each without a single report since it began or was last resumed.
MOST_AN_HOUR = 6
OPTION = "BPKD_SEARCH_LOSSES_PER_HOUR"
UNKNOWN = "an unknown node"


@dataclass(frozen=True)
class Loss:
    """Why a trial was lost (`memory`, `node` or `process`), the same in words, and the node's address if known."""

    cause: str
    message: str
    address: str | None


def loss_of(error: BaseException | None) -> Loss | None:
    """What Ray's error says of a lost trial; None for an error that the trial's own code has raised."""
    from ray.exceptions import NodeDiedError, OutOfMemoryError, RayActorError, RayError, RayTaskError

    if isinstance(error, RayTaskError) or (isinstance(error, RayActorError) and error.actor_init_failed):
        return None
    if error is not None and not isinstance(error, RayError):
        return None
    text = str(error or "")
    lower = text.lower()
    address = next((line.split()[1] for line in text.splitlines() if line.strip().startswith("ip: ")), None)
    where = f" on {address}" if address else ""
    if isinstance(error, OutOfMemoryError) or "running low on memory" in lower or "memory monitor" in lower:
        return Loss("memory", f"Ray ended the trial's process{where}, because the node ran out of memory", address)
    if isinstance(error, NodeDiedError) or "node has died" in lower or "node died" in lower or "node is dead" in lower:
        return Loss("node", f"the trial's node{where} is gone", address)
    return Loss("process", f"the trial's process{where} was killed or crashed (out of memory, or a signal)", address)


@dataclass
class LossLimit:
    """Counts what nodes lose; `say` prints a line for a node that is over the limit."""

    say: Callable[[str], None] = lambda line: None
    most: int = field(default_factory=lambda: int(os.environ.get(OPTION, MOST_AN_HOUR)))
    clock: Callable[[], float] = time.monotonic
    _times: dict[str, deque[float]] = field(default_factory=lambda: defaultdict(deque))

    def lost(self, node: str | None, nodes: Sequence[Node]) -> None:
        """Count a loss on a node (by its name) of those that run trials.

        Raises `ResourceError` when every one of them is over the limit.
        """
        name = node or UNKNOWN
        times = self._times[name]
        times.append(self.clock())
        if self._is_over(name) and len(times) == self.most + 1:
            self.say(f"warning: {name} has lost {len(times)} trials within an hour; look for the cause there")
        if self._is_over(UNKNOWN) or all(self._is_over(each.name) for each in nodes):
            over = ", ".join(each for each in self._times if self._is_over(each))
            raise ResourceError(
                f"{over} lost more than {self.most} trials within an hour, before any of their epochs ended;"
                f" find the cause (memory, a broken node) and resume the search. {OPTION} sets the limit"
            )

    def _is_over(self, name: str) -> bool:
        times = self._times[name]
        while times and self.clock() - times[0] > 3600:
            times.popleft()
        return len(times) > self.most
