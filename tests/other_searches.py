"""Searches that others can learn from, in simulated time, for tests of warm starts and memories."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

from bpkd_search.config import SearchConfig
from bpkd_search.config.load import parse
from bpkd_search.experiment import folder as experiment
from bpkd_search.experiment.trial import Trial
from bpkd_search.search.backends import CurveBackend
from bpkd_search.search.engine import Engine
from bpkd_search.search.simulate import simulate_search


class Scaled(CurveBackend):
    """The scores of a search on other data: another scale, or the opposite order."""

    def __init__(self, config: SearchConfig, factor: float) -> None:
        super().__init__(config, noise=0.0)
        self.factor = factor

    def report(self, trial: Trial, epoch: int) -> dict[str, Any]:
        """A report."""
        report = super().report(trial, epoch)
        return report | {"miou": 5.0 + self.factor * report["miou"]}


class Died(Exception):
    """The end of a driver that nothing expects."""


def config_of(
    tiny: dict[str, Any], trials: int = 16, *, grace: int = 1, reduction: int = 3, **search: Any
) -> SearchConfig:
    """A search of 9 epochs by TPE and ASHA, or by what `search` says."""
    tree = deepcopy(tiny)
    tree["train"]["epochs"] = 9
    sampler, scheduler = {"name": "tpe", "startup": 4}, {"name": "asha", "grace": grace, "reduction": reduction}
    tree["search"] = {"trials": trials, "sampler": sampler, "scheduler": scheduler} | search
    return parse(SearchConfig, tree, "test")


def finish(config: SearchConfig, folder: Path, factor: float = 0.1) -> Path:
    """Run a search of other data to its end; gives its folder."""
    experiment.create(folder, config)
    simulate_search(config, Scaled(config, factor), slots=3, directory=folder)
    return folder


def run(config: SearchConfig, folder: Path, slots: int = 1, **options: Any) -> Engine:
    """Run a search, or go on with it, to its end."""
    if not folder.exists():
        experiment.create(folder, config)
    return simulate_search(config, CurveBackend(config), slots=slots, directory=folder, **options).engine


def story(engine: Engine) -> dict[int, Any]:
    """What became of every trial: its run, its state and its scores."""
    return {
        n: (t.run.model_dump(mode="json"), engine.states.get(n), {e: r["miou"] for e, r in t.reports.items()})
        for n, t in engine.trials.items()
    }
