"""No point twice with one seed: small spaces are covered, then replicated; Sobol points of conditional spaces."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.storages import InMemoryStorage

from bpkd_search import Leaderboard
from bpkd_search.config import SearchConfig
from bpkd_search.config.distributions import quantile, to_optuna, values
from bpkd_search.config.load import parse
from bpkd_search.config.space import Choice, FloatRange, IntRange
from bpkd_search.experiment import folder as experiment
from bpkd_search.search.distinct import every_point
from bpkd_search.search.engine import Engine
from bpkd_search.search.replay import replay
from bpkd_search.search.study import Study
from tests.driving import drive

SAMPLERS = ["random", "qmc", "tpe", "gp", "nsga2"]
SMALL = {"loss.edge_width": {"int": [3, 11], "step": 2}}
CONDITIONAL = {
    "loss.method": {"choice": ["bpkd", "kd"]},
    "loss.edge_width": {"int": [3, 7], "step": 2, "when": {"loss.method": "bpkd"}},
    "loss.temperature": {"float": [1.0, 2.0], "step": 0.5, "when": {"loss.method": "kd"}},
}


def config_of(tiny: dict[str, Any], space: dict[str, Any], **search: Any) -> SearchConfig:
    tree = deepcopy(tiny)
    tree["space"], tree["search"] = space, {"trials": 16, "scheduler": {"name": "none"}, **search}
    return parse(SearchConfig, tree, "test")


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_small_space_is_covered_and_then_replicated(tiny: dict[str, Any], tmp_path: Path, sampler: str) -> None:
    config, folder = config_of(tiny, SMALL, sampler={"name": sampler}), tmp_path / "e"
    experiment.create(folder, config)
    engine = Engine(config, folder, "t", fixed=())
    assert engine.notes[0].startswith("the space has 5 points for 16 trials")
    drive(engine, slots=3, stop_after=29)
    engine = Engine(config, folder, "t", fixed=())  # killed
    drive(engine, slots=3)
    engine.recorder.close()
    table = Leaderboard(folder).trials().sort_values("number")
    assert sorted(table["loss.edge_width"][:5]) == [3, 5, 7, 9, 11]
    assert not table.duplicated(["loss.edge_width", "seed"]).any() and len(table) == 16
    assert (table["seed"][:5] == config.train.seed).all()
    assert replay(folder, fixed=()) == (16, [])


def test_a_point_enqueued_twice_or_tried_by_a_baseline_is_a_replicate(tiny: dict[str, Any], tmp_path: Path) -> None:
    config = config_of(tiny, {"loss.edge_weight": {"float": [1.0, 90.0]}}, trials=3)
    point = {"loss.edge_weight": 50.0}
    config = config.model_copy(update={"enqueue": (point, point)})
    engine = Engine(config, tmp_path, "t")
    drive(engine)
    assert [engine.trials[n].run.train.seed for n in (4, 5, 6)] == [0, 1, 0]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_conditional_space_of_six_points_is_covered(tiny: dict[str, Any], sampler: str) -> None:
    config = config_of(tiny, CONDITIONAL, sampler={"name": sampler})
    study = Study(InMemoryStorage(), config)
    asked = []
    for number in range(6):
        asked.append(study.ask(number))
        study.tell(number, "COMPLETE", [0.1 * number])
    listed = every_point(config.space, study._base)
    assert listed is not None and len(listed) == 6
    assert all(point in listed for point in asked) and all(point in asked for point in listed)


def test_a_continuous_space_is_not_listed(tiny: dict[str, Any]) -> None:
    space = config_of(tiny, {"loss.edge_weight": {"float": [1, 2]}, **SMALL}).space
    assert every_point(space, {}) is None


def test_qmc_of_a_conditional_space_is_spread_evenly(tiny: dict[str, Any]) -> None:
    space = {
        "loss.method": {"choice": ["bpkd", "kd"]},
        "loss.edge_weight": {"float": [0.1, 10], "log": True, "when": {"loss.method": "bpkd"}},
        "loss.temperature": {"float": [1.0, 5.0], "when": {"loss.method": "kd"}},
    }
    config = config_of(tiny, space, sampler={"name": "qmc"})
    study = Study(InMemoryStorage(), config)
    points = [study.ask(number) for number in range(32)]
    assert sum(point["loss.method"] == "kd" for point in points) == 16
    for path, low, high in (("loss.edge_weight", 0.1, 1.0), ("loss.temperature", 1.0, 3.0)):
        drawn = [point[path] for point in points if path in point]
        assert len(set(drawn)) == 16
        assert 6 <= sum(low <= value < high for value in drawn) <= 10


@pytest.mark.parametrize(
    "distribution",
    [
        Choice(choice=["a", "b", "c"]),
        IntRange(int=(3, 11), step=2),
        IntRange(int=(1, 30), log=True),
        FloatRange(float=(0.5, 3.0), step=0.25),
        FloatRange(float=(0.1, 10.0), log=True),
        FloatRange(float=(-1.0, 4.0)),
    ],
)
def test_quantiles_are_in_order_and_in_optunas_distribution(distribution: Any) -> None:
    theirs: BaseDistribution = to_optuna(distribution)
    drawn = [quantile(distribution, i / 1000) for i in range(1000)]
    inner = [theirs.to_internal_repr(value) for value in drawn]
    assert inner == sorted(inner)
    assert all(theirs.to_external_repr(value) == got for value, got in zip(inner, drawn, strict=True))
    listed = values(distribution)
    if listed is not None:
        assert set(drawn) == set(listed)
        if isinstance(theirs, CategoricalDistribution):
            assert list(theirs.choices) == list(listed)
