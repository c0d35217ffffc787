"""What importance says when fANOVA cannot be computed; its values are in `test_leaderboard`."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

# Loaded with scikit-learn, so that a test without it changes nothing for later ones.
from optuna.importance import FanovaImportanceEvaluator  # noqa: F401

from bpkd_search import Leaderboard
from tests.experiments import make


def board(folder: Path, scores: list[float]) -> Leaderboard:
    """Trials of the whole budget with these scores."""
    widths, weights = [3, 5, 7, 9], [0.2, 0.5, 2.0, 8.0]
    trials = [
        {"curve": [score] * 4, "point": {"loss.edge_width": width, "loss.edge_weight": weight}}
        for score, width, weight in zip(scores, widths, weights, strict=True)
    ]
    return Leaderboard(make(folder, trials))


def test_without_scikit_learn_fanova_is_empty_and_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    message = r"^fANOVA: needs sklearn, which is not installed; run: pip install 'bpkd-search\[importance\]'$"
    with pytest.warns(UserWarning, match=message):
        table = board(tmp_path / "e", [0.1, 0.2, 0.3, 0.4]).importance()
    assert table["fanova"].isna().all() and table["ped_anova"].notna().all()


def test_equal_scores_leave_fanova_empty_with_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    with pytest.warns(UserWarning, match="^fANOVA cannot be computed: "):
        table = board(tmp_path / "e", [0.3] * 4).importance()
    assert table["fanova"].isna().all()
