"""When a search ends: hours over several sessions, baselines whatever the budget, patience with constraints."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from bpkd_search.config import SearchConfig
from bpkd_search.config.load import parse
from bpkd_search.experiment import folder as experiment
from bpkd_search.experiment.events import read_events
from bpkd_search.experiment.recorder import Recorder
from bpkd_search.search.engine import Engine, parameter_kinds
from bpkd_search.search.replay import replay
from bpkd_search.search.stopping import Values, dominates, since_improvement
from tests.driving import drive, report_of


def config_of(tiny: dict[str, Any], folder: Path, **search: Any) -> SearchConfig:
    tree = deepcopy(tiny)
    tree["search"] = {"trials": 20, "scheduler": {"name": "none"}, **search}
    config = parse(SearchConfig, tree, "test")
    experiment.create(folder, config)
    return config


def test_hours_are_counted_after_a_warm_start_too(tiny: dict[str, Any], tmp_path: Path) -> None:
    """The warm start was the first event of older logs, before there was a time to count from."""
    folder = tmp_path / "e"
    config = config_of(tiny, folder, budget={"hours": 0.5})
    now = [1000.0]
    recorder = Recorder(folder, config.name, parameter_kinds(config), "t", lambda: now[0])
    recorder.record("warm_start", -1, trials=[])
    recorder.close()
    first = Engine(config, folder, "t", fixed=(), clock=lambda: now[0])
    assert first.ask() is not None
    now[0] += 1200
    assert first.ask() is not None
    first.recorder.close()
    now[0] += 86_400
    second = Engine(config, folder, "t", fixed=(), clock=lambda: now[0])
    assert all(second.ask() is not None for _ in range(3))
    now[0] += 660
    assert second.ask() is None and second.closed == "0.5 hours are over"


def test_the_pause_before_an_end_that_a_resume_makes_up_for_is_not_counted(
    tiny: dict[str, Any], tmp_path: Path
) -> None:
    """Killed between the last report and the end: the resumed engine logs the end before anything is asked."""
    folder = tmp_path / "e"
    config = config_of(tiny, folder, budget={"hours": 0.5})
    now = [1000.0]

    def start() -> Engine:
        return Engine(config, folder, "t", fixed=(), clock=lambda: now[0])

    first = start()
    trial = first.ask()
    assert trial is not None
    now[0] += 600
    for epoch in range(1, 5):
        first.report(trial.number, report_of(trial, epoch, 0.2))
    now[0] += 86_400  # killed before the end, resumed a day later
    second = start()
    assert second.states == {0: "COMPLETE"}
    second.recorder.close()
    kinds = [event["event"] for event in read_events(folder)]
    assert kinds[-2:] == ["session", "end"]
    now[0] += 86_400
    third = start()
    assert third.ask() is not None  # ten minutes of thirty are used
    now[0] += 1210
    assert third.ask() is None


def test_a_search_with_a_budget_of_hours_replays(tiny: dict[str, Any], tmp_path: Path) -> None:
    folder = tmp_path / "e"
    config = config_of(tiny, folder, budget={"hours": 0.03})
    now = [1e9]

    def tick() -> float:
        now[0] += 1.0
        return now[0]

    engine = Engine(config, folder, "t", clock=tick)
    drive(engine)
    engine.recorder.close()
    assert engine.closed == "0.03 hours are over"
    assert replay(folder) == (len(engine.trials), [])


@pytest.mark.parametrize("budget", [{"hours": 1e-9}, {"gpu_hours": 1e-9}])
def test_killed_after_one_baseline_with_the_budget_spent_the_others_still_run(
    tiny: dict[str, Any], tmp_path: Path, budget: dict[str, Any]
) -> None:
    config = config_of(tiny, tmp_path / "e", budget=budget)
    first = Engine(config, tmp_path / "e", "t")
    trial = first.ask()
    assert trial is not None
    for epoch in range(1, 5):
        first.report(trial.number, report_of(trial, epoch, 0.2))
    first.end(trial.number)
    first.recorder.close()
    second = Engine(config, tmp_path / "e", "t")
    assert not second.done
    drive(second)
    assert second.done
    assert second.states == dict.fromkeys(range(4), "COMPLETE")


def test_patience_counts_neither_as_better_nor_as_worse_what_breaks_a_constraint(
    tiny: dict[str, Any], tmp_path: Path
) -> None:
    """Odd trials break the constraint, with ever better scores; the first of the even ones stays the best."""
    config = config_of(tiny, tmp_path / "e", trials=40, budget={"patience": 3}, constraints=["gpu_seconds <= 100"])
    engine = Engine(config, tmp_path / "e", "t", fixed=())
    drive(
        engine,
        slots=1,
        curve=lambda trial, epoch: 0.01 * trial.number if trial.number % 2 else 0.5 - 0.01 * trial.number,
        scores=lambda trial, epoch: {"gpu_seconds": 200.0 if trial.number % 2 else 10.0},
    )
    assert engine.closed == "3 trials in a row were no improvement"
    assert list(engine.states) == list(range(7))  # 0 is best; 2, 4 and 6 are worse


def test_ends_since_an_improvement_agree_with_a_slow_restatement() -> None:
    ends: list[Values | None] = [(0.1, 5.0), None, (0.2, 4.0), (0.1, 4.0), (0.1, 5.0), (0.15, 4.5), None, (0.2, 4.0)]
    for count in range(len(ends) + 1):
        seen: list[Values] = []
        newest = -1
        for index, values in enumerate(ends[:count]):
            if values is not None and not any(other == values or dominates(other, values) for other in seen):
                newest = index
            seen += [] if values is None else [values]
        assert since_improvement(ends[:count]) == count - 1 - newest
