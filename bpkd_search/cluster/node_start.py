"""What a trial's process does on its node before its first run, also where the node has joined after the others."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from bpkd_search.cluster.nodes import node_here
from bpkd_search.cluster.sharing import copy_here
from bpkd_search.errors import DataError, ResourceError, UserError
from bpkd_search.experiment.calibration import calibrate
from bpkd_search.experiment.folder import read_config
from bpkd_search.experiment.paths import CONFIG
from bpkd_search.stores.home import home_of
from bpkd_search.training.prepare import Prepared
from bpkd_search.training.runtime import device_kind
from bpkd_search.training.speed import step_seconds


class UnfitError(Exception):
    """No trial can run on this node; the message says why."""


@dataclass(frozen=True)
class DeviceSpeed:
    """The kind of device that a process trains on, and how many of the reference's seconds one of its is worth."""

    kind: str
    speed: float


def open_node(directory: Path, prepared: Prepared, source: str | None, store: str | None = None) -> None:
    """See that this node has what trials read and write, and copy what is missing.

    `directory` is the experiment folder, or this node's copy of it where it is on a `store`; `source` as in
    `copy_here`. Raises `UnfitError`.
    """
    if store is not None:
        try:
            home_of(store)
        except UserError as e:
            raise UnfitError(str(e)) from e
    if not (directory / CONFIG).is_file():
        raise UnfitError(f"{directory}: the experiment folder is not seen by the node; give --out a path that all see")
    try:
        copy_here(prepared, source)
    except (ResourceError, DataError) as e:
        raise UnfitError(str(e)) from e


def device_speed(directory: Path, device: torch.device, classes: int, gpus: float) -> DeviceSpeed:
    """Tell the kind of this process's device, and how fast it is; a kind that is new to the experiment is timed.

    `gpus` are those that Ray has given to the process.
    """
    node = node_here() if gpus else None
    kind = device_kind(device, node.kind if node else "")
    return DeviceSpeed(kind, calibrate(directory, kind, lambda: step_seconds(read_config(directory).run(), classes)))
