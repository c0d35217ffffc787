"""Points of a space: laid over a run, and found again in one."""

from __future__ import annotations

from typing import Any

import pytest

from bpkd_search.blocks import Schedule
from bpkd_search.config import SearchConfig
from bpkd_search.config.load import parse
from bpkd_search.config.points import baseline_run, coordinates, is_active, run_at
from bpkd_search.losses.methods import Aicsd

SPACE: dict[str, Any] = {
    "loss.method": {"choice": ["bpkd", "kd"]},
    "loss.edge_width": {"int": [3, 11], "step": 2, "when": {"loss.method": "bpkd"}},
    "loss.weight": {"float": [0.1, 10], "log": True, "when": {"loss.method": "kd"}},
}


@pytest.fixture
def config() -> SearchConfig:
    return parse(SearchConfig, {"space": SPACE}, "test")


def test_another_method_starts_the_loss_anew(config: SearchConfig) -> None:
    run = run_at(config.run(), {"loss.method": "kd", "loss.weight": 3.0})
    assert run.loss.model_dump() == {"method": "kd", "weight": 3.0, "temperature": 1.0, "standardise": False}


def test_another_method_starts_from_its_defaults() -> None:
    start = {"float": [0.5, 2.0], "when": {"loss.method": "aicsd"}}
    space = {"loss.method": {"choice": ["bpkd", "aicsd"]}, "loss.ics_weight.start": start}
    config = parse(SearchConfig, {"space": space}, "test")
    run = run_at(config.run(), {"loss.method": "aicsd", "loss.ics_weight.start": 2.0})
    assert run.loss == Aicsd(ics_weight=Schedule(start=2.0, end=0.0))
    assert coordinates(config.space, config.run(), run) == {"loss.method": "aicsd", "loss.ics_weight.start": 2.0}


def test_the_papers_setting_and_kd_lie_in_this_space_and_ce_and_cwd_do_not(config: SearchConfig) -> None:
    found = {
        name: coordinates(config.space, config.run(), baseline_run(config.run(), name))
        for name in ("ce", "kd", "cwd", "bpkd-paper")
    }
    assert found == {
        "ce": None,
        "cwd": None,
        "kd": {"loss.method": "kd", "loss.weight": 1.0},
        "bpkd-paper": {"loss.method": "bpkd", "loss.edge_width": 7},
    }


def test_a_run_that_differs_elsewhere_lies_outside(config: SearchConfig) -> None:
    base = config.run()
    other = run_at(base, {"train.lr": 0.5})
    assert coordinates(config.space, base, other) is None


def test_conditions_look_at_the_point_first_and_then_at_the_base(config: SearchConfig) -> None:
    width = config.space["loss.edge_width"]
    assert is_active(width, {"loss": {"method": "kd"}}, {"loss.method": "bpkd"})
    assert not is_active(width, {"loss": {"method": "kd"}}, {})
    assert is_active(width, {"loss": {"method": "bpkd"}}, {})
