"""Analyses of frames against independent computations."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from bpkd_search.results.analysis import rank_agreement, rank_correlation
from bpkd_search.results.leaderboard import Leaderboard
from tests.experiments import make


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=20))
def test_rank_correlation_is_scipys(pairs: list[tuple[int, int]]) -> None:
    a, b = [float(x) for x, _ in pairs], [float(y) for _, y in pairs]
    mine = rank_correlation(a, b)
    if len(set(a)) < 2 or len(set(b)) < 2:
        assert math.isnan(mine)
    else:
        assert mine == pytest.approx(stats.spearmanr(a, b).statistic, abs=1e-12)


def test_rank_agreement_is_spearmans_over_full_trials(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    curves = rng.random((9, 4)).round(1)  # rounded, so that there are ties
    stopped = {"curve": [0.9, 0.1], "state": "PRUNED"}
    board = Leaderboard(make(tmp_path / "e", [*({"curve": list(curve)} for curve in curves), stopped]))
    table = rank_agreement(board.trials(), board.reports(), "miou")
    assert table["epoch"].tolist() == [1, 2, 3, 4] and table["trials"].tolist() == [9] * 4
    expected = [stats.spearmanr(curves[:, epoch], curves[:, 3]).statistic for epoch in range(4)]
    assert table["rho"].tolist() == pytest.approx(expected)


def test_rank_agreement_needs_three_trials_that_differ(tmp_path: Path) -> None:
    trials = [{"curve": [0.5, last]} for last in (0.1, 0.2, 0.3)]
    board = Leaderboard(make(tmp_path / "three", trials))
    assert rank_agreement(board.trials(), board.reports(), "miou")["epoch"].tolist() == [2]
    board = Leaderboard(make(tmp_path / "two", trials[:2]))
    assert rank_agreement(board.trials(), board.reports(), "miou").empty
