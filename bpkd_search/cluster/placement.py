"""Where Ray puts a trial: how much of a node it gets, and the nodes that it is kept away from."""

from __future__ import annotations

import time
from collections.abc import Callable
from inspect import signature
from typing import Any

from ray.tune import PlacementGroupFactory
from ray.util.placement_group import placement_group

from bpkd_search.cluster.losses import LossLimit
from bpkd_search.cluster.nodes import Node, live_nodes
from bpkd_search.cluster.slots import PLACE, Slots
from bpkd_search.experiment.schema import OOM
from bpkd_search.experiment.trial import Trial

# The label that every node of a Ray cluster has; older versions of Ray place trials without regard to labels.
NODE_ID, SELECTOR = "ray.io/node-id", "bundle_label_selector"
CHECK_SECONDS = 10.0


class Placement:
    """Gives each trial one of the slots, or a roomier one after it ran out of memory; `say` prints a line."""

    def __init__(self, slots: Slots, say: Callable[[str], None] = lambda line: None) -> None:
        self.slots, self.say, self.limit = slots, say, LossLimit(say)
        self._checked, self._waits = time.monotonic(), False

    def of(self, trial: Trial) -> dict[str, Any]:
        """What Ray is to give a trial, as plain values; `request` makes Ray's request of it."""
        slots = (self._roomier() if OOM in trial.losses else None) or self.slots
        return {"cpus": slots.cpus, "gpus": slots.gpus, "avoided": sorted(node.id for node in self.limit.over())}

    def has_more_room(self) -> bool:
        """Whether a trial could run with fewer others beside it."""
        return self._roomier() is not None

    def lost(self, node: Node) -> None:
        """Count a loss on a node. Raises `ResourceError` when no node is left below the limit."""
        nodes = self._nodes()
        # Of some losses, Ray tells only the address.
        self.limit.lost(next((each for each in nodes if node.id in (each.id, each.address)), node))
        self.limit.check(nodes)

    def check_if_due(self) -> None:
        """Every some seconds: raise as `lost` does, and say once that there is no node to wait for a new one."""
        if time.monotonic() - self._checked < CHECK_SECONDS:
            return
        self._checked = time.monotonic()
        nodes = self._nodes()
        self.limit.check(nodes)
        if not nodes and not self._waits:
            self.say("warning: no node of the cluster can run a trial now; the search waits for one to join")
        self._waits = not nodes

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
