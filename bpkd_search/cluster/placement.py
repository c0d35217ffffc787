"""Where Ray puts a trial: how much of a node it gets, and the nodes that it is kept away from."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from inspect import signature
from typing import Any

from ray.tune import PlacementGroupFactory
from ray.util.placement_group import placement_group

from bpkd_search.cluster.losses import LossLimit
from bpkd_search.cluster.nodes import Node, draining_nodes, kinds_of, live_nodes
from bpkd_search.cluster.slots import PLACE, Slots, divide_again, room
from bpkd_search.cluster.waiting import lacked_gpus
from bpkd_search.config.search import Search
from bpkd_search.errors import ResourceError
from bpkd_search.experiment.schema import OOM
from bpkd_search.experiment.trial import Trial

# The label that every node of a Ray cluster has; older versions of Ray place trials without regard to labels.
NODE_ID, SELECTOR = "ray.io/node-id", "bundle_label_selector"
CHECK_SECONDS, SAY_SECONDS = 2.0, 30.0


class Placement:
    """Gives each trial one of the slots, or a roomier one after it ran out of memory, as nodes join and leave.

    `search` says what trials may get of other nodes, `device` is `train.device`, `say` prints a line.
    """

    def __init__(
        self,
        slots: Slots,
        say: Callable[[str], None] = lambda line: None,
        search: Search | None = None,
        device: str = "auto",
    ) -> None:
        self.slots, self.say, self.limit, self._search = slots, say, LossLimit(say), search
        self.draining: list[Node] = []
        self._checked, self._waits = time.monotonic(), False
        self._said, self._said_at = slots.count, time.monotonic()
        self._wants_gpus = search is not None and lacked_gpus(search, device, slots.gpus)

    def of(self, trial: Trial) -> dict[str, Any]:
        """What Ray is to give a trial, as plain values; `request` makes Ray's request of it."""
        slots = (self._roomier() if OOM in trial.losses else None) or self.slots
        return {"cpus": slots.cpus, "gpus": slots.gpus, "avoided": sorted(node.id for node in self.limit.over())}

    @property
    def room(self) -> int:
        """Trials that run at once; one where there is no node, which then waits for one to join."""
        return max(1, self.slots.count)

    def has_more_room(self) -> bool:
        """Whether a trial could run with fewer others beside it."""
        return self._roomier() is not None

    def lost(self, node: Node) -> None:
        """Count a loss on a node. Raises `ResourceError` when no node is left below the limit."""
        nodes = self._nodes()
        # Of some losses, Ray tells only the address.
        self.limit.lost(next((each for each in nodes if node.id in (each.id, each.address)), node))
        self.limit.check(nodes)

    def check_if_due(self) -> bool:
        """Every some seconds, look which nodes there are; gives whether it has. Raises as `lost` does.

        It is said how many trials run at once from now on, once that there is no node to wait for a new one, and once
        that there are GPUs of which trials get none.
        """
        now = time.monotonic()
        if now - self._checked < CHECK_SECONDS:
            return False
        self._checked = now
        nodes, over = live_nodes(), self.limit.over()
        self.limit.check([node for node in nodes if self.slots.on(node)])
        self.follow([node for node in nodes if node not in over])
        self.draining = draining_nodes()
        if not self.slots.count and not self._waits:
            self.say("warning: no node of the cluster can run a trial now; the search waits for one to join")
        elif self.slots.count != self._said and now - self._said_at > SAY_SECONDS:
            kinds = kinds_of(nodes)
            self.say(f"ray: {self.slots.count} trial(s) at once now" + (f"; GPUs: {kinds}" if kinds else ""))
            self._said, self._said_at = self.slots.count, now
        self._waits = not self.slots.count
        if self._wants_gpus and (kinds := kinds_of(nodes)):
            found = f"warning: GPUs have joined ({kinds}), but trials run on CPUs"
            self.say(f"{found}; to use them, stop the search and resume it")
            self._wants_gpus = False
        return True

    def follow(self, nodes: Sequence[Node]) -> None:
        """Give trials the room of these nodes; each gets other resources only where more trials fit with them."""
        self.slots = room(self.slots, nodes)
        if self._search is not None:
            with suppress(ResourceError):  # no trial fits there
                other = divide_again(self._search, self.slots, nodes)
                self.slots = other if other.count > self.slots.count else self.slots

    def _nodes(self) -> list[Node]:
        return [node for node in live_nodes() if self.slots.on(node)]

    def _roomier(self) -> Slots | None:
        over = self.limit.over()
        return self.slots.roomier([node for node in self._nodes() if node not in over])


def request(config: dict[str, Any]) -> PlacementGroupFactory:
    """Ray Tune's request for a trial, from its configuration."""
    at, selector = config[PLACE], dict[str, Any]()
    if at["avoided"] and SELECTOR in signature(placement_group).parameters:
        selector[SELECTOR] = [{NODE_ID: f"!in({','.join(at['avoided'])})"}]
    return PlacementGroupFactory([{"CPU": at["cpus"], "GPU": at["gpus"]}], **selector)
