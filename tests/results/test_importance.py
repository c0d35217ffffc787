"""Importance of parameters: the model's shares of functions that are known, and what cannot be computed."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bpkd_search import Leaderboard
from bpkd_search.results.importance import scope
from tests.experiments import make

SPACE = {name: {"float": [0.0, 1.0]} for name in ("loss.a", "loss.b", "loss.c")}


def made_up(count: int, *, stopped: bool = False) -> list[dict[str, Any]]:
    """Scores a + b / 2 + 2 (a - 1/2) (c - 1/2) and little noise; where a < 1/4, only one report if `stopped`."""
    draw = np.random.default_rng(0)
    trials = []
    for a, b, c in draw.random((count, 3)):
        score = float(a + b / 2 + 2 * (a - 0.5) * (c - 0.5) + 0.01 * draw.normal())
        trial = {"curve": [score / 2, score], "point": {"loss.a": a, "loss.b": b, "loss.c": c}}
        if stopped and a < 0.25:
            trial |= {"curve": [score / 2], "state": "PRUNED"}
        trials.append(trial)
    return trials


# Variances: of a 1/12, of b / 2 1/48, of what a and c do together 4/144; c does nothing alone.
VARIANCE = 1 / 12 + 1 / 48 + 4 / 144
ALONE = {"loss.a": 1 / 12 / VARIANCE, "loss.b": 1 / 48 / VARIANCE, "loss.c": 0.0}
TOTAL = ALONE | {"loss.a": (1 / 12 + 4 / 144) / VARIANCE, "loss.c": 4 / 144 / VARIANCE}


@pytest.mark.parametrize("stopped", [False, True])
def test_shares_are_those_of_the_function_also_if_bad_trials_were_stopped(tmp_path: Path, stopped: bool) -> None:
    table = Leaderboard(make(tmp_path / "e", made_up(60, stopped=stopped), space=SPACE)).importance()
    assert table.index.tolist() == ["loss.a", "loss.c", "loss.b"]
    assert table["fanova"].to_dict() == pytest.approx(ALONE, abs=0.05)
    assert table["fanova_total"].to_dict() == pytest.approx(TOTAL, abs=0.05)
    assert table.attrs["deviation"] == pytest.approx(math.sqrt(VARIANCE), rel=0.05)
    assert table.attrs["known"] == 60 and table["trials"].nunique() == 1
    assert "by the model of 60 trials" in scope(table, "miou")[0]


def test_several_experiments_of_one_space_are_one_for_importance(tmp_path: Path) -> None:
    trials = made_up(60)
    parts = [make(tmp_path / name, part, name, space=SPACE) for name, part in (("a", trials[:30]), ("b", trials[30:]))]
    table = Leaderboard(parts).importance()
    assert table.attrs["known"] == 60
    assert table["fanova"].to_dict() == pytest.approx(ALONE, abs=0.05)


def test_a_conditional_parameter_has_shares(tmp_path: Path) -> None:
    """Half of the points have x, which is worth from -0.2 to 0.2 there: V = (0.4^2 / 12) / 2, of which alone half."""
    space = {
        "loss.method": {"choice": ["bpkd", "kd"]},
        "loss.x": {"float": [0.0, 1.0], "when": {"loss.method": "bpkd"}},
    }
    draw = np.random.default_rng(0)
    trials: list[dict[str, Any]] = []
    for number in range(60):
        x = float(draw.random())
        point = {"loss.method": "kd"} if number % 2 else {"loss.method": "bpkd", "loss.x": x}
        score = 0.5 + (0.0 if number % 2 else 0.4 * (x - 0.5)) + 0.003 * float(draw.normal())
        trials.append({"curve": [score], "point": point})
    table = Leaderboard(make(tmp_path / "e", trials, space=space)).importance()
    assert table["trials"].to_dict() == {"loss.x": 30, "loss.method": 60}
    assert table["fanova"].to_dict() == pytest.approx({"loss.x": 0.5, "loss.method": 0.0}, abs=0.07)
    assert table["fanova_total"].to_dict() == pytest.approx({"loss.x": 1.0, "loss.method": 0.5}, abs=0.07)


def test_equal_scores_leave_fanova_empty_with_a_warning(tmp_path: Path) -> None:
    trials = [{**trial, "curve": [0.3]} for trial in made_up(6)]
    with pytest.warns(UserWarning, match="^fANOVA cannot be computed: "):
        table = Leaderboard(make(tmp_path / "e", trials, space=SPACE)).importance()
    assert table["fanova"].isna().all() and table["fanova_total"].isna().all()
