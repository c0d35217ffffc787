"""Latencies at the end of a search: measured alone, judged again, and the same after a restart and in a replay."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from bpkd_search import Leaderboard
from bpkd_search.cluster.latency import measure_alone
from bpkd_search.cluster.slots import Slots
from bpkd_search.cluster.trial import TrialTask
from bpkd_search.config import SearchConfig
from bpkd_search.config.load import parse
from bpkd_search.errors import ResourceError
from bpkd_search.experiment import folder as experiment
from bpkd_search.experiment.trial import Trial
from bpkd_search.search.engine import Engine
from bpkd_search.search.replay import replay
from bpkd_search.training.prepare import Prepared, prepare
from bpkd_search.training.workers import in_this_process
from tests.driving import drive

SIDE_BY_SIDE, BUSY = Slots(2, 1, 0.0), 1e4


def config_of(tiny: dict[str, Any], **search: Any) -> SearchConfig:
    tiny["search"] = {"trials": 4, "scheduler": {"name": "none"}, **search}
    tiny["space"] = {"student.channels": {"choice": [8, 16]}}
    return parse(SearchConfig, tiny, "test")


def ended(config: SearchConfig, folder: Path) -> Engine:
    """A search whose trials all had a busy device."""
    experiment.create(folder, config)
    engine = Engine(config, folder, "test")

    def scores(trial: Trial, epoch: int) -> dict[str, Any]:
        return {"latency_ms": BUSY + trial.number}

    drive(engine, scores=scores)
    return engine


def measured(engine: Engine, prepared: Prepared | None, slots: Slots = SIDE_BY_SIDE) -> list[str]:
    said: list[str] = []
    task = TrialTask("", prepared, 1)  # type: ignore[arg-type]
    measure_alone(engine, task, slots, said.append, in_this_process)
    return said


def test_the_table_shows_what_was_measured_alone_and_constraints_are_judged_by_it(
    tiny: dict[str, Any], tmp_path: Path
) -> None:
    config = config_of(tiny, constraints=[f"latency_ms <= {BUSY / 2:g}"])
    prepared = prepare(config.run(), lambda line: None)
    engine = ended(config, tmp_path / "e")
    assert [trial.feasible for trial in engine.trials.values()] == [False] * len(engine.trials)
    torch.manual_seed(7)
    assert measured(engine, prepared) == [
        "latency: measuring 2 kind(s) of student, with nothing else on the device"
    ]  # fmt: skip
    assert measured(engine, prepared) == [], "each is measured once"
    engine.recorder.close()
    rows = Leaderboard(tmp_path / "e").trials(["latency_ms", "feasible", "student.channels", "method"])
    assert rows["feasible"].all() and rows["latency_ms"].between(0.01, BUSY / 2).all()
    # One measurement for all trials with one student: baselines have that of the base run.
    assert rows["latency_ms"].nunique() == 2
    again = Engine(config, tmp_path / "e", "test")
    assert [trial.feasible for trial in again.trials.values()] == [True] * len(again.trials)
    assert measured(again, prepared) == []
    again.recorder.close()
    assert replay(tmp_path / "e")[1] == []


@pytest.mark.parametrize(
    ("search", "slots"),
    [
        ({}, SIDE_BY_SIDE),  # nothing goes by latency
        ({"constraints": ["latency_ms <= 30"]}, Slots(1, 1, 0.0)),  # trials ran alone
    ],
)
def test_it_is_not_measured_where_that_changes_nothing(
    tiny: dict[str, Any], tmp_path: Path, search: dict[str, Any], slots: Slots
) -> None:
    engine = ended(config_of(tiny, **search), tmp_path / "e")
    assert measured(engine, None, slots) == [] and not any(trial.alone for trial in engine.trials.values())
    engine.recorder.close()


def test_where_no_process_can_be_had_the_search_ends_all_the_same(tiny: dict[str, Any], tmp_path: Path) -> None:
    engine, said = ended(config_of(tiny, objectives={"miou": "max", "latency_ms": "min"}), tmp_path / "e"), list[str]()

    def refused(*given: Any, say: Any) -> Any:
        raise ResourceError("other work holds them")

    measure_alone(engine, TrialTask("", None, 1), SIDE_BY_SIDE, said.append, refused)  # type: ignore[arg-type]
    assert said[-1] == "warning: latency_ms is that of trials side by side: other work holds them"
    assert all(trial.last()["latency_ms"] >= BUSY for trial in engine.trials.values())
    engine.recorder.close()
