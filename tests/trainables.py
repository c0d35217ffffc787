"""Trials for tests on real Ray whose processes need nothing of the package, so that each starts in a second."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import ray
from ray import tune


class Mortal(tune.Trainable):
    """A trial that gives the `reports` it is told, and kills its own process at the epochs of `dies_at`, once each.

    It starts after `epoch`; `dies_at` gives each of its epochs the file that says that it has been.
    """

    def setup(self, config: dict[str, Any]) -> None:
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.values, self.epoch = dict(new_config), new_config["epoch"]
        return True

    def step(self) -> dict[str, Any]:
        self.epoch += 1
        mark = self.values["dies_at"].get(self.epoch)
        if mark is not None and not Path(mark).exists():
            Path(mark).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        reports = self.values["reports"]
        return {"report": reports[self.epoch - 1], "done": self.epoch == len(reports)}


class Hungry(tune.Trainable):
    """A trial that gives the `reports` it is told, or is out of memory where it has fewer CPUs than it `needs`."""

    def setup(self, config: dict[str, Any]) -> None:
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.values, self.epoch = dict(new_config), 0
        return True

    def step(self) -> dict[str, Any]:
        if ray.get_runtime_context().get_assigned_resources()["CPU"] < self.values["needs"]:
            return {"failure": "oom", "message": "CUDA out of memory. Tried to allocate 2 GiB", "done": True}
        self.epoch += 1
        reports = self.values["reports"]
        return {"report": reports[self.epoch - 1], "done": self.epoch == len(reports)}
