"""Any space: what is asked lies in it, step by step and condition by condition, and is found again in the run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
from hypothesis import example, given, settings
from hypothesis import strategies as st
from optuna.storages import InMemoryStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from bpkd_search.config import SearchConfig
from bpkd_search.config.load import parse
from bpkd_search.config.points import coordinates, holds, run_at
from bpkd_search.experiment import folder as experiment
from bpkd_search.search.engine import Engine
from bpkd_search.search.study import Study
from tests.driving import drive


@settings(max_examples=30)
@given(
    low=st.integers(1, 20).map(lambda n: 2 * n + 1),
    widths=st.integers(0, 9),
    weight=st.floats(0.001, 100),
    spread=st.floats(1.0, 1000),
    log=st.booleans(),
    step=st.sampled_from([None, 0.25, 0.5]),
    sampler=st.sampled_from(["random", "tpe"]),
)
@example(low=3, widths=0, weight=5.0, spread=1.0000000000000002, log=True, step=None, sampler="tpe")
def test_every_point_asked_lies_in_the_space_and_is_found_again(
    low: int, widths: int, weight: float, spread: float, log: bool, step: float | None, sampler: str
) -> None:
    space: dict[str, Any] = {
        "loss.method": {"choice": ["bpkd", "kd"]},
        "loss.edge_width": {"int": [low, low + 2 * widths], "step": 2, "when": {"loss.method": "bpkd"}},
        "loss.edge_weight": {"float": [weight, weight * spread], "log": log, "when": {"loss.method": "bpkd"}},
        "loss.temperature": {"float": [0.5, 3.0], "step": step, "when": {"loss.method": ["kd"]}},
    }
    search = {"sampler": {"name": sampler, "startup": 2} if sampler == "tpe" else {"name": sampler}}
    config = parse(SearchConfig, {"space": space, "search": search}, "test")
    study = Study(InMemoryStorage(), config)
    for number in range(5):
        point = study.ask(number)
        expected = {"bpkd": {"loss.edge_width", "loss.edge_weight"}, "kd": {"loss.temperature"}}
        assert set(point) == {"loss.method"} | expected[point["loss.method"]]
        assert all(holds(config.space[path], value) for path, value in point.items())
        assert coordinates(config.space, config.run(), run_at(config.run(), point)) == point
        study.report(number, 1, [0.1 * number])
        study.tell(number, "COMPLETE", [0.1 * number])


def test_plain_optuna_opens_the_study_of_a_running_search(tiny: dict[str, Any], tmp_path: Path) -> None:
    tiny["search"]["trials"] = 6
    config = parse(SearchConfig, tiny, "test")
    experiment.create(tmp_path / "e", config)
    engine = Engine(config, tmp_path / "e", "test")
    drive(engine, slots=2, stop_after=21)
    storage = JournalStorage(JournalFileBackend(str(tmp_path / "e" / "study.journal")))
    seen = {t.user_attrs["number"]: t.state for t in optuna.load_study(study_name=None, storage=storage).trials}
    running = [n for n, state in seen.items() if state == TrialState.RUNNING]
    assert running == [n for n in engine.trials if n not in engine.states and n in seen]
    assert running
    engine.recorder.close()
