"""Rounds, learning rates and the end of a run, from the settings alone."""

from __future__ import annotations

from typing import Any

import pytest

from bpkd_search.config.optimisation import Optimisation
from bpkd_search.training.schedule import Schedule


def rates(steps: int, **train: Any) -> list[float]:
    schedule = Schedule(Optimisation(**train), steps)
    return [schedule.learning_rate(k, schedule.progress(k, 0.0)) for k in range(schedule.total)]


def test_the_rate_warms_up_and_decays_to_zero() -> None:
    expected = [0.075, 0.15, 0.225] + [0.3 * (1 - (step - 3) / 9) for step in range(3, 12)]
    assert rates(3, epochs=4, warmup=1.0, power=1.0, lr=0.3) == pytest.approx(expected)
    assert rates(3, epochs=4, warmup_iterations=3, power=1.0, lr=0.3) == pytest.approx(expected)
    assert rates(3, iterations=12, warmup_iterations=3, power=1.0, lr=0.3) == pytest.approx(expected)
    assert rates(3, iterations=12, warmup=1.0, power=1.0, lr=0.3) == pytest.approx(expected)
    assert rates(5, iterations=12, warmup_iterations=3, power=1.0, lr=0.3) == pytest.approx(expected)


def test_the_rate_decays_to_its_minimum() -> None:
    found = rates(7, iterations=100, lr=0.01, min_lr=1e-4, power=0.9)
    assert found == pytest.approx([(0.01 - 1e-4) * (1 - k / 100) ** 0.9 + 1e-4 for k in range(100)])
    assert rates(7, iterations=5, lr=0.01, power=0.0) == [0.01] * 5


def test_a_run_that_is_all_warm_up_never_exceeds_the_peak() -> None:
    assert max(rates(3, iterations=6, warmup=2.0, lr=0.3)) < 0.3


@pytest.mark.parametrize(
    ("steps", "train", "rounds"),
    [
        (3, {"epochs": 2}, [range(0, 3), range(3, 6)]),
        (3, {"iterations": 7}, [range(0, 3), range(3, 6), range(6, 7)]),
        (3, {"iterations": 8, "validate_every": 4}, [range(0, 4), range(4, 8)]),
        (3, {"iterations": 5, "validate_every": 9}, [range(0, 5)]),
        (3, {"iterations": 3, "validate_every": 1}, [range(0, 1), range(1, 2), range(2, 3)]),
    ],
)
def test_rounds_cover_the_run_once(steps: int, train: dict[str, Any], rounds: list[range]) -> None:
    schedule = Schedule(Optimisation(**train), steps)
    assert [schedule.round(number) for number in range(schedule.rounds)] == rounds
    assert [schedule.finished(number, 99.0) for number in range(len(rounds) + 1)] == [False] * len(rounds) + [True]


def test_a_run_of_seconds_ends_at_the_round_that_comes_nearest() -> None:
    schedule = Schedule(Optimisation(gpu_seconds=100.0, validate_every=50, power=1.0, lr=0.3), 3)
    assert schedule.round(400) == range(20_000, 20_050)
    assert not schedule.finished(9, 94.0)  # 10.4 s a round: another one would end at 104.4 s
    assert schedule.finished(10, 96.0)
    assert schedule.learning_rate(999, schedule.progress(999, 75.0)) == pytest.approx(0.3 * 0.25)


def test_a_run_whose_time_decides_has_no_last_round_to_show() -> None:
    assert Schedule(Optimisation(epochs=4), 10).shown(3) == "3/4"
    assert Schedule(Optimisation(gpu_seconds=5), 10).shown(31) == "31"
