"""What is expected of settings: against a direct computation, and what further seeds make of it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest

from bpkd_search.results.expectation import Expected, expected_of
from bpkd_search.surrogate.model import Model


def test_further_seeds_are_what_conditioning_a_normal_distribution_gives() -> None:
    rng = np.random.default_rng(0)
    root = rng.normal(size=(3, 3))
    before = Expected(np.array([0.1, 0.4, -0.2]), root @ root.T, 0.7)
    runs = [(0, 1, 0.5), (1, 1, 0.9), (0, 2, -0.3)]
    # Setting, then what seeds 1 and 2 share, deviation 1.4; noise 0.7.
    prior = np.zeros((5, 5))
    prior[:3, :3], prior[3:, 3:] = before.covariance, 1.4**2 * np.eye(2)
    design = np.array([[1, 0, 0, 1, 0], [0, 1, 0, 1, 0], [1, 0, 0, 0, 1]], dtype=float)
    precision = np.linalg.inv(prior) + design.T @ design / 0.7**2
    covariance = np.linalg.inv(precision)
    start = np.concatenate([before.mean, [0, 0]])
    mean = covariance @ (np.linalg.inv(prior) @ start + design.T @ np.array([0.5, 0.9, -0.3]) / 0.7**2)
    found = before.after(runs)
    assert np.allclose(found.mean, mean[:3]) and np.allclose(found.covariance, covariance[:3, :3])
    assert before.after([]) is before


def test_a_lucky_seed_of_all_settings_is_nobodys_merit() -> None:
    before = Expected(np.zeros(4), np.eye(4), 1.0)
    alike = before.after([(i, 1, 3.0) for i in range(4)])
    alone = before.after([(0, 1, 3.0)])
    assert np.ptp(alike.mean) < 1e-9 and alike.mean[0] < 1.5
    assert alone.mean[0] > 0.3 and (alone.mean[1:] == 0).all()


def test_a_run_to_come_makes_it_surer_and_changes_nothing() -> None:
    before = Expected(np.array([0.0, 1.0]), np.eye(2), 1.0).after([(0, 1, 0.4)])
    waiting = before.after([(1, 1, float("nan"))])
    assert (waiting.mean == before.mean).all()
    assert waiting.covariance[1, 1] < before.covariance[1, 1] and waiting.covariance[0, 0] == before.covariance[0, 0]


def test_scores_are_drawn_towards_the_mean_of_their_method_and_baselines_stay() -> None:
    scores = np.array([0.1, 0.5, 0.7, 0.1, 0.3])
    found = expected_of(scores, ["ce", "a", "a", "b", "b"], np.array([False, True, True, True, True]))
    assert found.mean == pytest.approx([0.1, 0.6 - 0.06, 0.6 + 0.06, 0.2 - 0.06, 0.2 + 0.06])
    assert found.noise == pytest.approx(np.sqrt(0.4 * 0.02)), "by what differs within methods, not between them"


def test_what_a_model_does_not_explain_is_in_part_the_settings_own() -> None:
    rng = np.random.default_rng(1)
    root, noise, share = rng.normal(size=(4, 4)), 0.5, 0.6
    smooth, scores = root @ root.T, rng.normal(size=4)
    # The model knows a smooth function and noise; a share of that noise is a term of each setting that stays.
    gain = smooth @ np.linalg.inv(smooth + noise**2 * np.eye(4))
    told = SimpleNamespace(
        ready=True,
        encoding=SimpleNamespace(width=1),
        noise=noise,
        predict_together=lambda points: (gain @ scores, smooth - gain @ smooth),
    )
    own = smooth + share * noise**2 * np.eye(4)
    gain_own = own @ np.linalg.inv(smooth + noise**2 * np.eye(4))
    found = expected_of(scores, ["a"] * 4, np.ones(4, dtype=bool), cast(Model, told), [{"x": i} for i in range(4)])
    assert np.allclose(found.mean, gain_own @ scores)
    assert np.allclose(found.covariance, own - gain_own @ own)
    assert found.noise == pytest.approx(np.sqrt(1 - share) * noise)
