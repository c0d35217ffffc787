"""Trials for tests on real Ray whose processes need nothing of the package, so that each starts in a second."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import ray
from ray import tune


class Scripted(tune.Trainable):
    """A trial that gives the `reports` it is told, from after `epoch` on, which is 0 by default."""

    def setup(self, config: dict[str, Any]) -> None:
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.values, self.epoch = dict(new_config), new_config.get("epoch", 0)
        return True

    def step(self) -> dict[str, Any]:
        self.epoch += 1
        reports = self.values["reports"]
        return {"report": reports[self.epoch - 1], "done": self.epoch == len(reports)}


class Mortal(Scripted):
    """A scripted trial that kills its own process at the epochs of `dies_at`, once each.

    `dies_at` gives each of its epochs the file that says that it has been.
    """

    def step(self) -> dict[str, Any]:
        mark = self.values["dies_at"].get(self.epoch + 1)
        if mark is not None and not Path(mark).exists():
            Path(mark).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().step()


class Hungry(Scripted):
    """A scripted trial that is out of memory where it has fewer CPUs than it `needs`."""

    def step(self) -> dict[str, Any]:
        if ray.get_runtime_context().get_assigned_resources()["CPU"] < self.values["needs"]:
            return {"failure": "oom", "message": "CUDA out of memory. Tried to allocate 2 GiB", "done": True}
        return super().step()
