"""Ray Tune and simulated time make the same decisions for the same results."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

from bpkd_search.cluster.connection import connect_ray
from bpkd_search.cluster.driver import run_on_ray
from bpkd_search.cluster.slots import Slots
from bpkd_search.config import SearchConfig
from bpkd_search.config.load import parse
from bpkd_search.experiment.trial import Trial
from bpkd_search.search.backends import CurveBackend
from bpkd_search.search.engine import Engine
from bpkd_search.search.simulate import simulate_search
from tests.trainables import Mortal


def test_the_same_results_lead_to_the_same_trials_stops_and_states(tiny: dict[str, Any], tmp_path: Path) -> None:
    tiny["train"]["epochs"] = 9
    tiny["search"] = {"trials": 20, "sampler": {"name": "tpe", "startup": 5}, "scheduler": {"grace": 1, "reduction": 3}}
    tiny["search"]["concurrent"] = 1
    config = parse(SearchConfig, deepcopy(tiny), "test")
    simulated = simulate_search(config, CurveBackend(config), slots=1).engine
    with connect_ray(None, False):
        engine = Engine(config, tmp_path, "test", fixed=())

        def task(trial: Trial) -> dict[str, Any]:
            curve = [CurveBackend(config).report(trial, epoch) for epoch in range(1, 10)]
            return {"epoch": trial.epoch, "reports": list(map(json.dumps, curve)), "dies_at": {}}

        run_on_ray(engine, tmp_path, Slots(1, 1, 0), Mortal, task)
        engine.recorder.close()
    assert engine.states == simulated.states
    assert "PRUNED" in engine.states.values()
    for number, trial in simulated.trials.items():
        assert engine.trials[number].run == trial.run
        assert engine.trials[number].reports.keys() == trial.reports.keys()
