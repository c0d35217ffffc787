"""The expected best after k trials: against all choices of k, against known distributions, and from a folder."""

from __future__ import annotations

import io
import itertools
import random
import re
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.integrate import quad
from scipy.stats import norm

from bpkd_search import Leaderboard
from bpkd_search.config.load import parse
from bpkd_search.config.models import SearchConfig
from bpkd_search.errors import ConfigError
from bpkd_search.experiment import folder as experiment
from bpkd_search.report.sections import sections
from bpkd_search.results.expected_best import best_of, expected_best, interval
from bpkd_search.search.engine import Engine
from tests.driving import drive


def test_the_curve_is_the_mean_over_all_choices_of_k_trials() -> None:
    scores = np.array([0.31, 0.52, 0.52, 0.1, 0.47, 0.33, 0.9])
    brute = [np.mean([max(chosen) for chosen in itertools.combinations(scores, k)]) for k in range(1, 8)]
    np.testing.assert_allclose(best_of(scores), brute, rtol=1e-12)
    assert best_of(np.array([0.4])) == [0.4]


def _best_normal(k: int) -> float:
    return float(quad(lambda x: x * k * norm.pdf(x) * norm.cdf(x) ** (k - 1), -10, 10)[0])


SHAPES = {
    "normal": (lambda r, size: r.standard_normal(size), lambda k: np.array([_best_normal(i) for i in k])),
    "uniform": (lambda r, size: r.random(size), lambda k: k / (k + 1)),
    "long below": (lambda r, size: -r.exponential(size=size), lambda k: -1 / k),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("n", [3, 8, 25])
def test_intervals_cover_the_truth_of_the_shapes_that_they_are_made_for(shape: str, n: int) -> None:
    drawn, truth = SHAPES[shape]
    generator, best = np.random.default_rng(1), truth(np.arange(1, n + 1))
    ends = [interval(0.3 + 0.02 * scores) for scores in drawn(generator, (4000, n))]
    inside = np.mean([(low <= 0.3 + 0.02 * best) & (0.3 + 0.02 * best <= high) for low, high in ends], axis=0)
    assert inside.min() > 0.938, inside  # 95 % less 3.5 standard errors of 4,000 draws


def rows(**columns: Any) -> pd.DataFrame:
    known = {"origin": "sampled", "state": "COMPLETE", "feasible": None, "seconds": 10.0, "method": "kd"}
    return pd.DataFrame({**known, **columns}).astype({"feasible": "boolean"})


def test_what_did_not_run_in_full_counts_and_wins_nothing() -> None:
    trials = rows(
        miou=[0.5, 0.4, 0.3, 0.6, 0.2, np.nan, 0.9, 0.95, 0.1],
        state=["COMPLETE"] * 3 + ["PRUNED"] * 2 + ["FAILED", "COMPLETE", "COMPLETE", "RUNNING"],
        feasible=[True] * 3 + [None] * 3 + [False, True, None],
        origin=["sampled"] * 7 + ["enqueued", "sampled"],
        seconds=[30.0, 30.0, 30.0, 20.0, 10.0, np.nan, 20.0, 99.0, 99.0],
    )
    table = expected_best(trials, "miou")
    # A stopped trial that led has the lowest full score, one that was behind its own; the failed one no more than that.
    values = [0.5, 0.4, 0.3, 0.3, 0.2, 0.2, 0.3]
    brute = [fmean(max(chosen) for chosen in itertools.combinations(values, k)) for k in range(1, 8)]
    np.testing.assert_allclose(table["expected_best"], brute)
    np.testing.assert_allclose(table["gpu_seconds"], 20.0 * np.arange(1, 8))
    assert table[["trials", "full", "stopped", "failed"]].drop_duplicates().values.tolist() == [[7, 3, 2, 1]]
    assert table[["expected_low", "expected_high"]].isna().all(axis=None)
    # Without the stopped ones there is an interval, of what failed too.
    low, high = interval(np.array([0.5, 0.4, 0.3, 0.3, 0.3]))
    ended = expected_best(trials[trials["state"] != "PRUNED"], "miou")
    np.testing.assert_allclose(ended["expected_low"], low)
    np.testing.assert_allclose(ended["expected_high"], high)


def test_no_interval_leaves_the_range_of_a_score() -> None:
    table = expected_best(rows(miou=[0.02, 0.3, 0.98]), "miou")
    assert table["expected_low"].iloc[0] == 0 and table["expected_high"].iloc[-1] == 1
    low, high = interval(np.array([0.02, 0.3, 0.98]))
    assert low[0] < 0 and high[-1] > 1
    own = expected_best(rows(custom_score=[0.02, 0.3, 0.98]), "custom_score")
    np.testing.assert_allclose(own["expected_low"], low)


def test_few_or_no_full_trials_are_said() -> None:
    trials = rows(
        miou=[0.5, 0.4, 0.3, np.nan],
        state=["COMPLETE", "COMPLETE", "PRUNED", "FAILED"],
        method=["kd", "kd", "cwd", "cwd"],
    )
    table = expected_best(trials, "miou")
    assert table["method"].unique().tolist() == ["kd"] and table["expected_low"].isna().all()
    assert table.attrs["notes"] == ["cwd: none of its 2 trials has a full result"]
    assert expected_best(trials.iloc[2:], "miou").empty


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_search: Any) -> Path:
    """A search of three methods, one of which always fails."""
    folder, tree = tmp_path_factory.mktemp("expected") / "e", tiny_search()
    del tree["space"]
    tree["search"] = {"methods": ["bpkd", "kd", "cwd"], "trials": 24, "sampler": {"name": "tpe"}}
    tree["search"]["scheduler"] = {"name": "none"}
    config = parse(SearchConfig, tree, "test")
    experiment.create(folder, config)
    engine = Engine(config, folder, "test")

    def curve(trial: Any, epoch: int) -> float:
        lead = 0.1 if trial.method == "kd" else 0.0
        return lead + 0.2 + 0.1 * random.Random(trial.number).random()

    drive(engine, curve=curve, scores=lambda t, e: {"miou": None} if t.method == "cwd" else {})
    engine.recorder.close()
    return folder


def test_a_folder_gives_the_curves_of_its_methods(folder: Path, call: Any) -> None:
    board = Leaderboard(folder)
    table, trials = board.expected_best(), board.trials()
    drawn = trials[(trials["origin"] == "sampled") & (trials["method"] == "kd")]
    rows = table[table["method"] == "kd"]
    assert len(rows) == len(drawn) == 8
    np.testing.assert_allclose(rows["expected_best"], best_of(drawn["miou"].to_numpy()))
    np.testing.assert_allclose(rows["gpu_seconds"], 8.0 * rows["k"])
    assert set(table["method"]) == {"bpkd", "kd"}
    code, out, _ = call("compare", folder, "--expected-best", "--format", "csv")
    read = pd.read_csv(io.StringIO(out))
    assert code == 0 and read.columns.tolist()[:3] == ["k", "method", "expected_best"] and len(read) == len(table)
    code, out, _ = call("compare", folder, "--expected-best")
    assert code == 0 and re.findall(r"^ *(\d+) +(\w+)", out, re.MULTILINE) == [
        (str(k), method) for k in (1, 2, 4, 8) for method in ("kd", "bpkd")
    ]
    assert "cwd: none of its 8 trials has a full result" in out and "The sampler (tpe) learns" in out
    assert "not tuned alike" not in out
    code, _, err = call("compare", folder, "--expected-best", "--methods", "cwd")
    assert code == 2 and "got 'cwd', valid: kd, bpkd" in err and "Traceback" not in err


def test_the_page_draws_the_curves_against_trials_and_seconds(folder: Path) -> None:
    board = Leaderboard(folder)
    made = sections(board, board.with_estimates(board.trials()))
    section = {part.title: part for part in made}["Expected best of each method"]
    table = board.expected_best()
    for figure, values in zip(section.figures, (table["k"], table["gpu_seconds"]), strict=True):
        curves = {trace["name"]: trace for trace in figure["data"] if "name" in trace}
        assert set(curves) == {"bpkd", "kd"}
        for method, trace in curves.items():
            rows = table[table["method"] == method]
            assert trace["y"] == rows["expected_best"].tolist()
            assert trace["x"] == pytest.approx(values[rows.index].tolist())
        (band, *_) = [trace for trace in figure["data"] if trace.get("fill")]
        assert band["y"] == [*rows_of(table, band, "expected_high"), *rows_of(table, band, "expected_low")[::-1]]
    assert any("none of its 8 trials" in remark for remark in section.remarks)


def rows_of(table: pd.DataFrame, trace: dict[str, Any], column: str) -> list[float]:
    return table.loc[table["method"] == trace["legendgroup"], column].tolist()


def test_methods_that_are_none_are_said(folder: Path) -> None:
    from bpkd_search.show.analysis import show_expected_best

    with pytest.raises(ConfigError, match="got 'dist', valid: "):
        show_expected_best(Leaderboard(folder), ["dist"])
