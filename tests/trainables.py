"""Trials for tests on real Ray whose processes need nothing of the package, so that each starts in a second."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

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
