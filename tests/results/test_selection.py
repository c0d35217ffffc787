"""Tests that are corrected for choosing the leader, against SciPy, loops, and simulation with known truth."""

from __future__ import annotations

import itertools
import statistics

import numpy as np
import pytest
from scipy import stats

from bpkd_search.results.selection import SHARED, critical, leads, paired, probability_best


def test_pairs_use_the_seeds_that_both_have() -> None:
    scores = np.random.default_rng(0).normal(0.5, 0.1, (4, 5))
    scores[1, 3:] = np.nan
    scores[2, 0] = np.nan
    found = paired(scores)
    both = {
        (i, j): [a - b for a, b in zip(scores[i], scores[j], strict=True) if np.isfinite(a - b)]
        for i, j in itertools.permutations(range(4), 2)
    }
    weights = {pair: len(gains) - 1 for pair, gains in both.items()}
    shared = sum(weights[p] * statistics.variance(both[p]) for p in both) / sum(weights.values())
    for (i, j), gains in both.items():
        assert found.seeds[i, j] == len(gains)
        assert found.gain[i, j] == pytest.approx(statistics.mean(gains))
        own = statistics.variance(gains)
        expected = (SHARED * shared + weights[i, j] * own) / (SHARED + weights[i, j])
        assert found.variance[i, j] == pytest.approx(expected)


def test_what_one_seed_shares_changes_nothing() -> None:
    scores = np.random.default_rng(0).normal(0.5, 0.1, (3, 4))
    shifted = paired(scores + np.array([0.0, 5.0, -3.0, 1.0]))
    assert shifted.variance == pytest.approx(paired(scores).variance)
    assert probability_best(scores) == pytest.approx(probability_best(scores + np.array([0, 0.1, 0.2, 0.3])), abs=0.01)


@pytest.mark.parametrize("candidates", [1, 3])
def test_with_many_seeds_it_is_dunnetts_test(candidates: int) -> None:
    found = critical(candidates, candidates + 1, (60,))[60]
    together = stats.multivariate_t(np.zeros(candidates), 0.5 + 0.5 * np.eye(candidates), df=60, seed=0)
    assert together.cdf(np.full(candidates, found)) == pytest.approx(0.975, abs=0.004)


def test_looking_more_often_asks_for_more() -> None:
    once, often = critical(3, 4, (5,)), critical(3, 4, (2, 3, 4, 5))
    assert often[5] > once[5]
    scores = np.random.default_rng(7).normal(size=(6000, 4, 5))
    wrong = [(paired(scores[..., :n]).ratio()[:, :3, 3] > often[n]).any(1) for n in often]
    assert np.any(wrong, axis=0).mean() == pytest.approx(0.025, abs=0.008)


def test_settings_with_fewer_seeds_tell_less_of_the_noise() -> None:
    looks, rng = (3, 4, 5), np.random.default_rng(5)
    scores = rng.normal(size=(5, 5))
    low, _ = leads(scores, [0], looks)
    found = paired(scores)
    assert (found.gain - low)[0, 1] == pytest.approx(critical(1, 5, looks)[5] * np.sqrt(found.variance[0, 1] / 5))
    # 13 scores less 5 settings and 4 differences of seeds leave 4 degrees of freedom, those of two settings.
    scores[2:, 1:] = np.nan
    low, _ = leads(scores, [0], looks)
    found = paired(scores)
    assert (found.gain - low)[0, 1] == pytest.approx(critical(1, 2, looks)[5] * np.sqrt(found.variance[0, 1] / 5))
    assert critical(1, 2, looks)[5] > 1.2 * critical(1, 5, looks)[5]


def test_intervals_of_the_leader_cover_what_is_true() -> None:
    rng, covered = np.random.default_rng(3), 0
    truth = np.array([0.0, 0.3, 0.3, 0.3, 0.1])
    for noise in rng.normal(size=(300, 5, 4)):
        scores = truth[:, None] + noise
        leader = int(scores[:4].mean(1).argmax())
        low, high = (end[leader, 4] for end in leads(scores, range(4)))
        covered += low <= truth[leader] - truth[4] <= high
    assert covered / 300 >= 0.95


def test_intervals_are_missing_where_nothing_can_be_known() -> None:
    low, _ = leads(np.array([[0.4, 0.5], [0.1, np.nan]]), [0])
    assert np.isnan(low[0, 1])


def test_the_probability_of_being_best_is_right_as_often_as_it_says() -> None:
    """Over settings whose means are drawn from a wide range, the stated probabilities add up to the share of hits."""
    rng, stated, hits = np.random.default_rng(2), 0.0, 0
    for _ in range(60):
        means = rng.normal(0, 1, 5)
        scores = means[:, None] + rng.normal(size=(5, 3))
        chances = probability_best(scores)
        leader = int(chances.argmax())
        assert chances.sum() == pytest.approx(1)
        stated, hits = stated + chances[leader], hits + (leader == int(means.argmax()))
    assert stated == pytest.approx(hits, abs=10)


def test_two_seeds_say_nothing_and_a_failed_setting_is_never_the_best() -> None:
    assert np.isnan(probability_best(np.array([[0.4, 0.5], [0.1, 0.2]]))).all()
    assert probability_best(np.array([[0.9, np.nan, 0.9], [0.1, 0.2, 0.3]])).tolist() == [0.0, 1.0]
