"""The speeds of kinds of devices in an experiment: measured once each, by one process, and what follows from them."""

from __future__ import annotations

import json
import multiprocessing
import time
from pathlib import Path

import pytest

from bpkd_search.errors import ExperimentError
from bpkd_search.experiment.calibration import calibrate, scale, step_seconds


def test_the_first_kind_is_the_reference_and_each_is_timed_once(tmp_path: Path) -> None:
    timed = list[str]()

    def factor(kind: str, seconds: float) -> float:
        return calibrate(tmp_path, kind, lambda: timed.append(kind) or seconds)

    assert factor("T4", 0.4) == 1.0
    assert factor("A100", 0.1) == 4.0  # a second of it does as much as four of the reference
    assert factor("K80", 0.8) == 0.5
    assert factor("A100", 99.0) == 4.0
    assert timed == ["T4", "A100", "K80"]
    assert step_seconds(tmp_path) == {"T4": 0.4, "A100": 0.1, "K80": 0.8}


def slowly(folder: str, number: int) -> None:
    def measure() -> float:
        (Path(folder) / f"measured-{number}").touch()
        time.sleep(0.3)
        return 1.0 + number

    calibrate(Path(folder), "T4", measure)


def test_of_several_processes_one_measures_while_the_others_wait(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=slowly, args=(str(tmp_path), number)) for number in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    (measured,) = tmp_path.glob("measured-*")
    assert step_seconds(tmp_path) == {"T4": 1.0 + int(measured.name[-1])}


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "calibration.json").write_text(json.dumps({"T4": "fast"}))
    with pytest.raises(
        ExperimentError, match=r"calibration\.json: is damaged: .*remove it to have the steps timed again"
    ):
        calibrate(tmp_path, "A100", lambda: 1.0)


@pytest.mark.parametrize(
    ("steps", "first", "factor"),
    [
        ({"T4": 0.4}, {"T4": 0.4}, 1.0),
        ({"A100": 0.1, "T4": 0.4}, {"T4": 0.8}, 4.0),  # by the own times of both
        ({"A100": 0.1}, {"T4": 0.8, "A100": 0.2}, 4.0),  # by those of the first
        ({"A100": 0.1}, {"T4": 0.8}, None),
        ({}, {"T4": 0.8}, 1.0),
        ({"T4": 0.4}, {}, 1.0),
    ],
)
def test_seconds_of_two_experiments_compare_where_both_references_were_timed_on_one_step(
    steps: dict[str, float], first: dict[str, float], factor: float | None
) -> None:
    assert scale(steps, first) == (None if factor is None else pytest.approx(factor))
