"""A search and the folder that it left tell the same of its trials."""

from __future__ import annotations

import math
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bpkd_search import Leaderboard
from bpkd_search.config.load import parse
from bpkd_search.config.models import SearchConfig
from bpkd_search.experiment import folder as experiment
from bpkd_search.experiment.trial import Trial
from bpkd_search.search.engine import Engine
from bpkd_search.surrogate.tried import estimates
from tests.driving import drive

SPACE = {
    "loss.method": {"choice": ["bpkd", "kd"]},
    "loss.edge_weight": {"float": [0.05, 50], "log": True, "when": {"loss.method": "bpkd"}},
    "loss.edge_width": {"int": [3, 7], "step": 2, "when": {"loss.method": "bpkd"}},
    "loss.weight": {"float": [0.1, 10], "log": True, "when": {"loss.method": "kd"}},
}


def luck(trial: Trial, epoch: int, diverging: int | None) -> dict[str, Any]:
    """Scores with the luck of a seed; one trial diverges."""
    draw = np.random.default_rng([trial.number, epoch])
    value = 0.3 + 0.02 * draw.normal() - 0.1 * 0.5**epoch
    value = math.nan if trial.number == diverging and epoch == 4 else value
    return {"miou": value, "accuracy": value + 0.1 * draw.random()}


@pytest.mark.parametrize("sampler", ["random", "model"])
@pytest.mark.parametrize("stop_after", [None, 40])
def test_the_folder_has_the_estimates_of_the_search(
    tiny: dict[str, Any], tmp_path: Path, sampler: str, stop_after: int | None
) -> None:
    tree = deepcopy(tiny) | {"space": SPACE, "enqueue": [{"loss.method": "bpkd", "loss.edge_weight": 1.0}]}
    tree["search"] = {**tree["search"], "trials": 14, "sampler": {"name": sampler}}
    config = parse(SearchConfig, tree, "test")
    experiment.create(tmp_path / "e", config)
    engine = Engine(config, tmp_path / "e", "test")
    drive(
        engine, stop_after=stop_after, scores=lambda trial, epoch: luck(trial, epoch, 1 if stop_after is None else None)
    )
    engine.recorder.flush()
    states = set(engine.states.values()) | ({"RUNNING"} if len(engine.states) < len(engine.trials) else set())
    assert states >= ({"COMPLETE", "PRUNED"} | ({"FAILED"} if stop_after is None else {"RUNNING"}))

    tried = engine.tried()
    found = estimates(engine.model(), tried)
    known = Leaderboard(tmp_path / "e").estimates()
    assert known["number"].tolist() == [trial.number for trial in tried]
    assert stop_after or 1 not in known["number"].tolist()
    np.testing.assert_allclose(known["estimate"], found.mean, rtol=1e-10)
    half = (known["estimate_high"] - known["estimate_low"]) / 2
    np.testing.assert_allclose(half, 1.96 * found.deviation, rtol=1e-6)
    if sampler == "random":  # what a resumed search would tell
        engine.recorder.close()
        again = Engine(config, tmp_path / "e", "test")
        np.testing.assert_array_equal(estimates(again.model(), again.tried()).mean, found.mean)
