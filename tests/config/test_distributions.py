"""Distributions of a space as Optuna's, and distances between their values, by hand."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from pydantic import TypeAdapter

from bpkd_search.config.distributions import distance, to_optuna
from bpkd_search.config.space import Distribution
from bpkd_search.results.importance import rebuild


def parsed(rule: dict[str, Any]) -> Distribution:
    distribution: Distribution = TypeAdapter(Distribution).validate_python(rule)
    return distribution


CASES: list[tuple[dict[str, Any], BaseDistribution]] = [
    ({"float": [0.5, 2]}, FloatDistribution(0.5, 2)),
    ({"float": [1, 100], "log": True}, FloatDistribution(1, 100, log=True)),
    ({"float": [0, 1], "step": 0.25}, FloatDistribution(0, 1, step=0.25)),
    ({"int": [3, 31], "step": 2}, IntDistribution(3, 31, step=2)),
    ({"int": [1, 64], "log": True}, IntDistribution(1, 64, log=True)),
    ({"choice": ["kl", True, 1]}, CategoricalDistribution(["kl", True, 1])),
]


@pytest.mark.parametrize(("rule", "expected"), CASES)
def test_a_rule_of_the_space_is_optunas_distribution(rule: dict[str, Any], expected: BaseDistribution) -> None:
    assert to_optuna(parsed(rule)) == expected


@pytest.mark.parametrize(("rule", "expected"), CASES)
def test_importance_reads_the_same_rule_alike(rule: dict[str, Any], expected: BaseDistribution) -> None:
    low = rule["choice"][0] if "choice" in rule else next(iter(rule.values()))[0]
    trials = rebuild(pd.DataFrame({"loss.x": [low], "miou": [0.5]}), "miou", {"loss.x": parsed(rule)}).get_trials()
    assert [trial.distributions for trial in trials] == [{"loss.x": expected}]


@pytest.mark.parametrize(
    ("rule", "a", "b", "share"),
    [
        ({"float": [0, 4]}, 1.0, 3.0, 0.5),
        ({"float": [1, 10_000], "log": True}, 10.0, 1000.0, 0.5),
        ({"int": [3, 11], "step": 2}, 11, 3, 1.0),
        ({"int": [5, 5]}, 5, 5, 0.0),
        ({"choice": ["a", "b", "c"]}, "a", "c", 1.0),
        ({"choice": ["a", "b", "c"]}, "b", "b", 0.0),
    ],
)
def test_a_distance_is_a_share_of_the_range(rule: dict[str, Any], a: Any, b: Any, share: float) -> None:
    assert distance(parsed(rule), a, b) == pytest.approx(share)
