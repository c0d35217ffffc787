"""Variance shares of functions whose shares are known."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter

from bpkd_search.config.points import Point
from bpkd_search.config.space import Distribution
from bpkd_search.surrogate.shares import variance_shares

Function = Callable[[Point], float]


def shares_of(function: Function, space: dict[str, Any], base: dict[str, Any] | None = None) -> Any:
    parsed = TypeAdapter(dict[str, Distribution]).validate_python(space)

    def predict(points: Sequence[Point]) -> np.ndarray[Any, Any]:
        return np.array([function(point) for point in points])

    return variance_shares(predict, parsed, base or {})


def test_the_shares_of_ishigamis_function_are_the_published_ones() -> None:
    """Analytic values for a = 7, b = 0.1 (Ishigami and Homma 1990)."""

    def ishigami(point: Point) -> float:
        return math.sin(point["a"]) + 7 * math.sin(point["b"]) ** 2 + 0.1 * point["c"] ** 4 * math.sin(point["a"])

    found = shares_of(ishigami, {name: {"float": [-math.pi, math.pi]} for name in "abc"})
    assert found.alone == pytest.approx({"a": 0.3139, "b": 0.4424, "c": 0.0}, abs=0.015)
    assert found.total == pytest.approx({"a": 0.5576, "b": 0.4424, "c": 0.2437}, abs=0.015)
    assert found.deviation == pytest.approx(math.sqrt(13.8446), rel=0.01)


def test_a_log_range_counts_by_its_logarithm_and_a_step_by_its_values() -> None:
    """log10 w is uniform on [-1, 1], of variance 1/3; the odd widths 3, 5, 7 have a variance of 8/3."""
    space = {"w": {"float": [0.1, 10.0], "log": True}, "width": {"int": [3, 7], "step": 2}, "idle": {"float": [0, 1]}}
    found = shares_of(lambda point: math.log10(point["w"]) + 0.25 * point["width"], space)
    variances = {"w": 1 / 3, "width": 0.25**2 * 8 / 3, "idle": 0.0}
    expected = {name: variance / sum(variances.values()) for name, variance in variances.items()}
    assert found.alone == pytest.approx(expected, abs=0.01)
    assert found.total == pytest.approx(expected, abs=0.01)


def test_a_conditional_parameter_counts_where_it_is() -> None:
    """Half of the points have x, of variance k^2 / 3 there; the other half is h higher.

    V = h^2 / 4 + k^2 / 6. Alone, the method explains h^2 / 4 and x k^2 / 12; with what they do together, x explains
    k^2 / 6 and the method all that x does not explain alone.
    """
    k, h = 0.6, 0.5
    space = {
        "loss.method": {"choice": ["with", "without"]},
        "x": {"float": [0.0, 1.0], "when": {"loss.method": "with"}},
        "never": {"float": [0.0, 1.0], "when": {"train.other": 1}},
    }

    def function(point: Point) -> float:
        assert ("x" in point) == (point["loss.method"] == "with") and "never" not in point
        return 2 * k * (point["x"] - 0.5) if "x" in point else h

    found, variance = shares_of(function, space, {"train": {"other": 2}}), h**2 / 4 + k**2 / 6
    alone = {"loss.method": h**2 / 4 / variance, "x": k**2 / 12 / variance, "never": 0.0}
    total = {"loss.method": 1 - alone["x"], "x": k**2 / 6 / variance, "never": 0.0}
    assert found.alone == pytest.approx(alone, abs=0.015)
    assert found.total == pytest.approx(total, abs=0.015)
    assert found.deviation == pytest.approx(math.sqrt(variance), rel=0.01)


def test_where_nothing_varies_there_are_no_shares_and_the_same_is_computed_twice() -> None:
    space = {"x": {"float": [0.0, 1.0]}, "y": {"float": [0.0, 1.0]}}
    assert all(math.isnan(share) for share in shares_of(lambda point: 0.3, space).total.values())
    assert shares_of(lambda point: point["x"] * point["y"], space) == shares_of(lambda p: p["x"] * p["y"], space)
