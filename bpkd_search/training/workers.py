"""Who does the work of a preparation: this process, or the machines of a cluster."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from bpkd_search.data.views import Map, thread_map
from bpkd_search.training.inputs import Say

# Calls `function(*arguments, say=say)`, here or elsewhere, and returns its result.
Apart = Callable[..., Any]


def in_this_process(function: Callable[..., Any], *arguments: Any, say: Say) -> Any:
    """Call `function(*arguments, say=say)` and return its result."""
    return function(*arguments, say=say)


@dataclass(frozen=True)
class Workers:
    """`views` and `logits` map over chunks of them; `apart` calls what trains or evaluates a network.

    `device` is the kind on which `logits` and `apart` compute: `cuda`, `cpu`, or None for this process's own.
    """

    views: Map = thread_map
    logits: Map = map
    apart: Apart = in_this_process
    device: str | None = None


HERE = Workers()
