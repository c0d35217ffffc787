"""Which trials are best, and which constraints they break: by hand, against a slow restatement, and in the tables."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpkd_search import Leaderboard
from bpkd_search.config import RunConfig, SearchConfig
from bpkd_search.config.load import parse
from bpkd_search.config.search import Search
from bpkd_search.experiment import folder as experiment
from bpkd_search.experiment.trial import Trial
from bpkd_search.search.engine import Engine
from bpkd_search.search.ranking import best_plain_baseline, ranked, violations
from tests.driving import drive


def ended(number: int, state: str = "COMPLETE", feasible: bool | None = None, **report: float) -> Trial:
    trial = Trial(number, "bpkd", "sampled", RunConfig(), {1: report})
    trial.state, trial.feasible = state, feasible
    return trial


def baseline(number: int, method: str, state: str = "COMPLETE", **report: float) -> Trial:
    trial = ended(number, state, **report)
    trial.method, trial.origin = method, "baseline"
    return trial


def test_the_order_is_feasible_then_score_then_number_of_full_budget_trials() -> None:
    trials = [
        ended(0, miou=0.3, edge_miou=0.9),
        ended(1, miou=0.9, edge_miou=0.1, feasible=False),
        ended(2, miou=0.4, edge_miou=0.2, feasible=True),
        ended(3, "PRUNED", miou=0.99, edge_miou=0.99),
        ended(4, "FAILED", miou=0.98, edge_miou=0.98),
        ended(5, miou=0.4, edge_miou=0.3),
    ]
    trials[3].stop = True
    running = Trial(6, "bpkd", "sampled", RunConfig(), {1: {"miou": 0.97, "edge_miou": 0.97}})
    assert [t.number for t in ranked([*reversed(trials), running], "miou")] == [2, 5, 0, 1]
    assert [t.number for t in ranked([*trials, running], "edge_miou")] == [0, 5, 2, 1]


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from([True, False, None])), max_size=12))
def test_nobody_stands_behind_a_worse_one(drawn: list[tuple[int, bool | None]]) -> None:
    order = ranked([ended(n, feasible=f, miou=float(score)) for n, (score, f) in enumerate(drawn)], "miou")
    for i, first in enumerate(order):
        for second in order[i + 1 :]:
            if (first.feasible is False) != (second.feasible is False):
                assert second.feasible is False
            elif first.last()["miou"] == second.last()["miou"]:
                assert first.number < second.number
            else:
                assert first.last()["miou"] > second.last()["miou"]
    assert len(order) == len(drawn)


@pytest.mark.parametrize("leader", ["ce", "kd", "cwd"])
def test_the_plain_baseline_is_the_best_of_all_but_the_papers(leader: str) -> None:
    trials = [baseline(n, name, miou=0.5 if name == leader else 0.4) for n, name in enumerate(("ce", "kd", "cwd"))]
    trials += [baseline(3, "bpkd-paper", miou=0.9), baseline(4, "kd", "FAILED", miou=0.8), ended(5, miou=0.95)]
    assert best_plain_baseline(trials, "miou") == 0.5
    assert best_plain_baseline(trials[3:], "miou") is None


def test_violations_are_those_worked_out_by_hand() -> None:
    search = Search(constraints=("latency_ms <= 30", "miou >= baseline", "edge_miou >= 0.25"))
    report = {"latency_ms": 32.5, "miou": 0.5, "edge_miou": 0.5}
    plain = [baseline(0, "ce", miou=0.75), baseline(1, "cwd", miou=0.25)]
    assert violations(search, report, plain) == {
        "latency_ms <= 30": 2.5,
        "miou >= baseline": 0.25,
        "edge_miou >= 0.25": -0.25,
    }
    # Neither a baseline that has not ended nor a figure that was not measured can be judged.
    assert violations(search, {**report, "latency_ms": None}, []) == {"edge_miou >= 0.25": -0.25}


def searched(tiny: dict[str, Any], folder: Path, **search: Any) -> Engine:
    """A search whose edge mIoU grows as its mIoU falls, in steps, so that trials tie."""
    tree = deepcopy(tiny)
    tree["search"] |= {"trials": 16, **search}
    config = parse(SearchConfig, tree, "test")
    experiment.create(folder, config)
    engine = Engine(config, folder, "test")
    drive(engine, scores=opposed)
    engine.recorder.close()
    return engine


def opposed(trial: Trial, epoch: int) -> dict[str, Any]:
    miou = 0.1 * (trial.number % 5) + 0.05 * epoch
    return {"miou": miou, "edge_miou": 0.9 - miou, "latency_ms": 10.0 + trial.number % 3}


@pytest.mark.parametrize(
    "search",
    [
        {},
        {"objectives": {"edge_miou": "max", "miou": "max"}},
        {"constraints": ["latency_ms <= 11"]},
        {"objectives": {"edge_miou": "max", "miou": "max"}, "constraints": ["miou >= baseline", "latency_ms <= 11"]},
    ],
)
def test_engine_and_leaderboard_agree_on_the_order_also_after_a_restart(
    tiny: dict[str, Any], tmp_path: Path, search: dict[str, Any]
) -> None:
    engine = searched(tiny, tmp_path / "e", **search)
    best = Leaderboard(tmp_path / "e").best(99)
    order = [trial.number for trial in engine.ranked()]
    assert order == best["number"].tolist()
    assert len(set(best[engine.metric].round(9))) < len(best)  # some tie
    again = Engine(engine.config, tmp_path / "e", "test")
    assert [trial.number for trial in again.ranked()] == order
    again.recorder.close()
    if "constraints" in search:
        assert not best["feasible"].all()
