"""Constraints on the baseline: the same verdicts whoever ends first, in the table, the study and after a resume."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from bpkd_search import Leaderboard
from bpkd_search.config import SearchConfig
from bpkd_search.config.load import parse
from bpkd_search.errors import ConfigError
from bpkd_search.experiment import folder as experiment
from bpkd_search.search.engine import Engine
from bpkd_search.search.ranking import require_measured
from bpkd_search.search.replay import replay
from tests.driving import report_of

FINAL = {0: 0.30, 1: 0.42, 2: 0.35, 3: 0.50, 4: 0.40, 5: 0.44, 6: 0.32}


def config_of(tiny: dict[str, Any], **search: Any) -> SearchConfig:
    tree = deepcopy(tiny)
    tree["search"] = {"trials": 3, "scheduler": {"name": "none"}, "constraints": ["miou >= baseline"], **search}
    return parse(SearchConfig, tree, "test")


def finish(engine: Engine, number: int) -> None:
    for epoch in range(1, 5):
        engine.report(number, report_of(engine.trials[number], epoch, FINAL[number]))
    engine.end(number)


@pytest.mark.parametrize("order", [range(7), [6, 5, 4, 3, 2, 1, 0], [0, 4, 5, 6, 2, 3, 1], [3, 0, 4, 1, 5, 2, 6]])
@pytest.mark.parametrize("killed", [False, True])
def test_feasibility_does_not_depend_on_who_ends_first(
    tiny: dict[str, Any], tmp_path: Path, order: Any, killed: bool
) -> None:
    config, folder = config_of(tiny), tmp_path / "e"
    experiment.create(folder, config)
    engine = Engine(config, folder, "t")
    for _ in range(7):
        assert engine.ask() is not None
    for count, number in enumerate(order):
        finish(engine, number)
        if killed and count == 3:
            engine = Engine(config, folder, "t")  # nothing was flushed or closed
    engine.recorder.close()
    limit = max(FINAL[n] for n in range(3))
    expected = {number: value >= limit for number, value in FINAL.items()}
    assert Leaderboard(folder).trials().set_index("number")["feasible"].to_dict() == expected
    told = {t.user_attrs["number"]: t.constraints for t in engine.study.study.trials}
    assert {n: c["miou >= baseline"] for n, c in told.items()} == {
        n: pytest.approx(limit - FINAL[n]) for n in (3, 4, 5, 6)
    }
    again = Engine(config, folder, "t")
    assert {n: t.feasible for n, t in again.trials.items()} == expected
    assert replay(folder) == (7, [])


@pytest.mark.parametrize(
    ("search", "path"),
    [
        ({"objectives": {"miou": "max", "peak_memory_mb": "min"}}, "search.objectives.peak_memory_mb"),
        ({"constraints": ["miou >= 0.1", "peak_memory_mb <= 9000"]}, "search.constraints.1"),
    ],
)
def test_gpu_memory_on_a_cpu_is_refused(tiny: dict[str, Any], search: dict[str, Any], path: str) -> None:
    config = config_of(tiny, **search)
    require_measured(config.search, on_gpu=True)
    with pytest.raises(ConfigError, match=f"{path}: peak_memory_mb is measured on a GPU only; valid on a CPU: miou"):
        require_measured(config.search, on_gpu=False)


def test_a_search_for_gpu_memory_on_a_cpu_builds_nothing(tiny: dict[str, Any], tmp_path: Path) -> None:
    from bpkd_search import run_search

    tiny["train"]["device"] = "cpu"
    tiny["search"]["constraints"] = ["peak_memory_mb <= 9000"]
    tiny["data"]["views_dir"] = str(tmp_path / "views")
    with pytest.raises(ConfigError, match="peak_memory_mb is measured on a GPU only"):
        run_search(parse(SearchConfig, tiny, "test"), tmp_path / "e")
    assert not (tmp_path / "views").exists() and not (tmp_path / "e").exists()
