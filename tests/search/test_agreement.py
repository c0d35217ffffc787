"""Whether another search orders points alike: against direct sums, Kendall's tau, and hand-made cases."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from bpkd_search.config.distributions import apart
from bpkd_search.config.space import Choice, FloatRange, IntRange
from bpkd_search.search.agreement import agreement, on_scale, predict, squared_distances

SPACE = {
    "lr": FloatRange.model_validate({"float": [0.01, 1.0], "log": True}),
    "width": IntRange.model_validate({"int": [1, 5]}),
    "kind": Choice.model_validate({"choice": ["a", "b"]}),
}


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ({"lr": 0.01, "width": 1, "kind": "a"}, {"lr": 0.01, "width": 1, "kind": "a"}, 0.0),
        ({"lr": 0.01, "width": 1, "kind": "a"}, {"lr": 0.1, "width": 3, "kind": "a"}, math.sqrt(0.5 / 3)),
        ({"lr": 0.01, "width": 1, "kind": "a"}, {"lr": 1.0, "width": 5, "kind": "b"}, 1.0),
        ({"lr": 0.01, "width": 1}, {"lr": 0.01, "width": 1, "kind": "b"}, math.sqrt(1 / 3)),
        ({"lr": 0.01, "width": 1}, {"lr": 0.01, "width": 5}, math.sqrt(1 / 3)),
    ],
)
def test_points_are_apart_by_shares_of_their_ranges(a: dict, b: dict, expected: float) -> None:
    assert [apart(SPACE, a, b), apart(SPACE, b, a)] == pytest.approx([expected, expected])


def test_distances_of_many_pairs_are_those_of_each() -> None:
    draws = np.random.default_rng(1)
    points = [
        {"lr": float(10 ** draws.uniform(-2, 0)), "width": int(draws.integers(1, 6))}
        | ({"kind": str(draws.choice(["a", "b"]))} if draws.random() < 0.7 else {})
        for _ in range(12)
    ]
    expected = [[apart(SPACE, a, b) ** 2 for b in points[4:]] for a in points[:5]]
    np.testing.assert_allclose(squared_distances(SPACE, points[:5], points[4:]), expected, atol=1e-12)


def test_predictions_are_kernel_means() -> None:
    draws = np.random.default_rng(0)
    points = [
        {"lr": float(10 ** draws.uniform(-2, 0)), "width": int(draws.integers(1, 6)), "kind": "a"} for _ in range(9)
    ]
    scores = draws.normal(size=9).tolist()
    for here in points[:3]:
        weights = [
            math.exp(
                -((math.log(here["lr"] / p["lr"]) / math.log(100)) ** 2 + ((here["width"] - p["width"]) / 4) ** 2)
                / 3 / (2 * 0.15**2)
            )
            for p in points
        ]  # fmt: skip
        expected = sum(w * s for w, s in zip(weights, scores, strict=True)) / sum(weights)
        assert predict(SPACE, points, scores, [here]) == [pytest.approx(expected)]


def test_far_from_everything_the_nearest_speaks() -> None:
    points = [{"lr": 0.01, "width": 1, "kind": "a"}, {"lr": 0.011, "width": 1, "kind": "a"}]
    (value,) = predict(SPACE, points, [0.0, 1.0], [{"lr": 1.0, "width": 5, "kind": "b"}])
    assert 0.5 < value < 1.0


def test_agreement_of_full_trials_is_that_of_kendalls_tau() -> None:
    draws = np.random.default_rng(1)
    for _ in range(20):
        predicted, scores = draws.normal(size=8).tolist(), draws.normal(size=8).tolist()
        tau = stats.kendalltau(predicted, scores).statistic
        assert agreement(predicted, [{3: score} for score in scores]) == pytest.approx((1 + tau) / 2)


def test_trials_are_compared_at_the_newest_epoch_that_both_reached() -> None:
    # At epoch 1 the first is ahead, at epoch 2 the second; the third stopped after epoch 1.
    own = [{1: 0.3, 2: 0.4}, {1: 0.2, 2: 0.5}, {1: 0.25}]
    assert agreement([1, 2, 1.5], own) == pytest.approx(1 / 3)  # right about the first pair alone
    assert agreement([3, 1, 2], own) == pytest.approx(2 / 3)


def test_ties() -> None:
    assert agreement([1.0, 1.0], [{1: 0.1}, {1: 0.2}]) == 0.5
    assert agreement([1.0, 2.0], [{1: 0.1}, {1: 0.1}]) is None
    assert agreement([1.0, 2.0], [{1: 0.1}, {2: 0.2}]) is None


def test_on_the_own_scale_ranks_stay_within_what_was_measured() -> None:
    own = [0.2, 0.5, 0.3]
    assert on_scale([0, 0.25, 0.5, 1], own) == pytest.approx([0.2, 0.25, 0.3, 0.5])
