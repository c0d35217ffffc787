"""Schedules: their values, and what they may not be."""

from __future__ import annotations

import math

import pytest
from pydantic import ValidationError

from bpkd_search.blocks import PositiveSchedule, Schedule


@pytest.mark.parametrize(("progress", "value"), [(-1, 2), (0, 2), (0.125, 3), (0.25, 4), (0.5, 6), (1, 6)])
def test_linear_schedule(progress: float, value: float) -> None:
    assert Schedule(start=2, end=6, until=0.5).at(progress) == value


def test_cosine_schedule_and_constants() -> None:
    cosine = Schedule(shape="cosine", start=1.0, end=0.0)
    values = [cosine.at(p) for p in (0.0, 0.25, 0.5, 1.0)]
    assert values == pytest.approx([1.0, (1 + math.sqrt(0.5)) / 2, 0.5, 0.0])
    assert Schedule.model_validate({"shape": "constant", "start": 3}).at(0.7) == 3.0
    assert Schedule(shape="constant", start=3, end=5).at(0.7) == 3.0


def test_schedule_faults_come_all_at_once() -> None:
    with pytest.raises(ValidationError) as error:
        Schedule.model_validate({"shape": "step", "start": "x", "until": 0, "ende": 1})
    assert [fault["loc"] for fault in error.value.errors()] == [("shape",), ("start",), ("end",), ("until",), ("ende",)]


def test_temperatures_never_reach_zero() -> None:
    with pytest.raises(ValidationError, match="greater than 0"):
        PositiveSchedule(start=1, end=0)
