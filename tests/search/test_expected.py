"""What a scheduler is expected to leave of a search, against the probabilities of one rung."""

from __future__ import annotations

import math
from typing import Any

import pytest

from bpkd_search.config import SearchConfig
from bpkd_search.config.load import parse
from bpkd_search.search.expected import expected_shares


def shares(tiny: dict[str, Any], *overrides: str, rounds: int = 10) -> tuple[float, float]:
    return expected_shares(parse(SearchConfig, tiny, "test", ["train.epochs=10", *overrides]), rounds)


@pytest.mark.parametrize("name", ["none", "model"])
def test_without_a_rule_that_is_known_before_every_trial_runs_in_full(tiny: dict[str, Any], name: str) -> None:
    assert shares(tiny, f"search.scheduler={{name: {name}}}") == (1.0, 1.0)


@pytest.mark.parametrize("trials", [6, 40])
def test_one_rung_lets_through_the_best_third_so_far(tiny: dict[str, Any], trials: int) -> None:
    share, ended = shares(
        tiny, f"search.trials={trials}", "search.scheduler={name: asha, grace: 4, reduction: 3}", rounds=10
    )
    # The k-th trial is among the best max(1, k // 3) of k with that probability.
    passes = sum(max(1, k // 3) / k for k in range(1, trials + 1)) / trials
    assert ended == pytest.approx(passes, abs=0.08)
    assert share == pytest.approx(passes + (1 - passes) * 0.4, abs=0.05)


def test_seconds_stop_trials_only_where_a_run_has_a_known_time(tiny: dict[str, Any]) -> None:
    scheduler = "search.scheduler={name: asha, axis: gpu_seconds, grace: 40, reduction: 3}"
    assert shares(tiny, "search.trials=20", scheduler) == (1.0, 1.0)
    timed = shares(tiny, "search.trials=20", scheduler, "train.gpu_seconds=100")
    assert timed == shares(tiny, "search.trials=20", "search.scheduler={name: asha, grace: 4, reduction: 3}")
    assert math.isclose(timed[0], 0.6, abs_tol=0.12)
