"""Weights and temperatures that change over a run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from bpkd_search.errors import ConfigError

SHAPES = ("constant", "linear", "cosine")


def scheduled(value: float | Mapping[str, Any], progress: float) -> float:
    """The value at `progress`, the fraction of the run that is done, from 0 to 1.

    `value` is a number, or `{"shape": "linear" | "cosine", "start": a, "end": b, "until": u}`: from a at the
    beginning to b at fraction u of the run (1 by default) and b from there on; with "constant" it is a
    throughout. Raises ConfigError naming every fault of the mapping.
    """
    if not isinstance(value, Mapping):
        return float(value)
    _check(value)
    start = float(value["start"])
    if value["shape"] == "constant":
        return start
    done = min(max(progress, 0.0) / float(value.get("until", 1.0)), 1.0)
    if value["shape"] == "cosine":
        done = (1 - math.cos(math.pi * done)) / 2
    return start + (float(value["end"]) - start) * done


def _check(value: Mapping[str, Any]) -> None:
    faults = [
        f"{key}: unknown, must be one of shape, start, end, until"
        for key in sorted(set(value) - {"shape", "start", "end", "until"})
    ]
    shape = value.get("shape")
    if shape not in SHAPES:
        faults.append(f"shape: got {shape!r}, must be one of {', '.join(SHAPES)}")
    for key in ("start",) if shape == "constant" else ("start", "end"):
        if not _is_number(value.get(key)):
            faults.append(f"{key}: got {value.get(key)!r}, must be a number")
    until = value.get("until", 1.0)
    if not _is_number(until) or not 0 < until <= 1:
        faults.append(f"until: got {until!r}, must be above 0 and at most 1")
    if faults:
        raise ConfigError(faults, source="schedule")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
