"""Estimates of a folder's trials: against what is true, for trials in every state, and what is said of them."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from bpkd_search import Leaderboard
from bpkd_search.errors import ConfigError
from bpkd_search.experiment.recorder import Recorder
from bpkd_search.results.estimates import ESTIMATES
from tests.experiments import SPACE, make

NOISE = 0.03


def truth(weight: float) -> float:
    return float(0.5 - 0.1 * np.log10(weight) ** 2)


def noisy(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Full trials whose scores are a smooth function of the weight, and the luck of a seed."""
    draw = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        weight, width = float(10 ** draw.uniform(-1, 1)), int(draw.choice([3, 5, 7, 9, 11]))
        score = truth(weight) + NOISE * draw.normal()
        point = {"loss.edge_weight": weight, "loss.edge_width": width}
        found.append({"curve": [score / 2, score], "point": point, "accuracy": score})
    return found


def test_estimates_are_closer_to_the_truth_than_scores_and_their_intervals_hold_it(tmp_path: Path) -> None:
    inside, closer = [], []
    for seed in range(3):
        board = Leaderboard(make(tmp_path / str(seed), noisy(40, seed)))
        rows = board.trials(["loss.edge_weight", *ESTIMATES])
        true = rows["loss.edge_weight"].map(truth)
        inside += ((rows["estimate_low"] <= true) & (true <= rows["estimate_high"])).tolist()
        closer.append(float((rows["estimate"] - true).abs().mean() / (rows["miou"] - true).abs().mean()))
    assert np.mean(inside) > 0.85
    assert max(closer) < 0.7


def test_every_trial_that_the_model_can_say_something_of_has_an_estimate(tmp_path: Path) -> None:
    point = {"loss.edge_weight": 1.0, "loss.edge_width": 5}
    others: list[dict[str, Any]] = [
        {"curve": [0.2], "state": "PRUNED", "point": point},
        {"curve": [0.2], "state": "RUNNING", "point": point},
        {"curve": [], "state": "RUNNING", "point": point},
        {"curve": [], "state": "FAILED", "reason": "oom", "point": point},
        {"curve": [0.2], "state": "FAILED", "reason": "nan", "point": point},
        {"curve": [0.2, 0.4], "origin": "enqueued", "point": point | {"loss.edge_weight": 99.0}},  # outside
        {"curve": [0.2, 0.4], "origin": "enqueued", "point": {"loss.edge_width": 5}},  # a parameter is missing
        {"curve": [0.2, 0.4], "origin": "baseline", "method": "ce"},
        {"curve": [0.2, 0.4], "origin": "baseline", "method": "own"},
    ]
    board = Leaderboard(make(tmp_path / "e", [*noisy(10), *others]))
    known = board.estimates().set_index("number")
    assert known.index.tolist() == [*range(10), 10, 11, 12, 13]
    assert (known["estimate_low"] < known["estimate"]).all() and (known["estimate"] < known["estimate_high"]).all()
    # The running trial that has reported nothing and the failed one are at one point, and equally unknown.
    assert known.loc[12, list(ESTIMATES)].tolist() == pytest.approx(known.loc[13, list(ESTIMATES)].tolist())
    ranked = board.trials(["estimate"]).set_index("number")["estimate"]
    assert ranked.isna().sum() == 5 and ranked.loc[known.index].tolist() == known["estimate"].tolist()
    assert "estimate" not in board.trials() and "estimate_low" not in board.trials(["estimate"])


def test_a_baseline_in_the_space_has_one(tmp_path: Path) -> None:
    """The paper's setting is edge width 7, weights 50 and 20."""
    paper = {"method": "bpkd-paper", "origin": "baseline", "curve": [0.2, 0.4]}
    base = {"loss": {"method": "bpkd", "body_weight": 20.0}}
    wide = {**SPACE, "loss.edge_weight": {"float": [0.1, 100.0], "log": True}}
    inside = Leaderboard(make(tmp_path / "in", [paper, *noisy(10)], space=wide, **base))
    outside = Leaderboard(make(tmp_path / "out", [paper, *noisy(10)], **base))
    assert 0 in inside.estimates()["number"].tolist()
    assert 0 not in outside.estimates()["number"].tolist()


def test_less_is_better_where_the_metric_is_minimised(tmp_path: Path, call: Any) -> None:
    more = Leaderboard(make(tmp_path / "max", noisy(12), search={"objectives": {"miou": "max"}}))
    less = Leaderboard(make(tmp_path / "min", noisy(12), search={"objectives": {"miou": "min"}}))
    pd.testing.assert_frame_equal(more.estimates(), less.estimates(), rtol=1e-4)
    for board, ascending in ((more, False), (less, True)):
        code, printed, _ = call("leaderboard", *board.names, "--sort", "estimate", "--format", "csv")
        shown = pd.read_csv(io.StringIO(printed))["estimate"]
        assert code == 0 and shown.tolist() == sorted(shown, reverse=not ascending)


def test_mixed_choices_and_conditions_are_read_as_they_were_drawn(tmp_path: Path) -> None:
    space = {
        "loss.temperature": {"choice": [1, "auto", 2.5]},
        "loss.edge_weight": {"float": [0.1, 10.0], "log": True, "when": {"loss.temperature": ["auto", 1]}},
    }
    trials: list[dict[str, Any]] = []
    for number in range(12):
        first = [1, "auto", 2.5][number % 3]
        point = {"loss.temperature": first} | ({} if first == 2.5 else {"loss.edge_weight": 0.1 + number / 2})
        # A row of a parameter that is not active may hold the value of the base run.
        row = point if number % 2 else {"loss.edge_weight": 3.0, **point}
        trials.append({"curve": [{1: 0.1, "auto": 0.3, 2.5: 0.2}[first] + 0.001 * number], "point": row})
    known = Leaderboard(make(tmp_path / "e", trials, space=space)).estimates().set_index("number")["estimate"]
    assert len(known) == 12
    means = known.groupby(known.index % 3).mean()
    assert means.tolist() == pytest.approx([0.105, 0.305, 0.205], abs=0.02)


def test_reports_from_before_a_retry_do_not_count(tmp_path: Path) -> None:
    def board(name: str, *, retried: bool) -> Leaderboard:
        folder = make(tmp_path / name, noisy(10))
        kinds = {"loss.edge_width": "int", "loss.edge_weight": "float"}
        recorder = Recorder(folder, "exp", kinds, "0")
        point = {"loss.edge_width": 5, "loss.edge_weight": 1.0}
        ask = {"trial_id": "exp-10", "method": "bpkd", "origin": "sampled", "point": point, "seed": 0, "config": {}}
        recorder.record("ask", 10, **ask)
        if retried:
            for epoch, score in ((1, 0.01), (2, 0.02)):
                recorder.record("report", 10, epoch=epoch, miou=score, accuracy=score)
            recorder.record("end", 10, state="FAILED", reason="oom", message="")
            recorder.record("request", -1, retry=[10], answer="", id="1", request={})
        recorder.record("report", 10, epoch=1, miou=0.25, accuracy=0.5)
        recorder.close()
        return Leaderboard(folder)

    again, once = board("again", retried=True).estimates(), board("once", retried=False).estimates()
    pd.testing.assert_frame_equal(again, once)


def test_before_there_are_enough_trials_it_is_said_and_nothing_ends(tmp_path: Path, call: Any) -> None:
    folder = make(tmp_path / "e", noisy(3))
    assert Leaderboard(folder).estimates().empty
    code, printed, err = call("leaderboard", folder, "--sort", "estimate")
    assert (code, err) == (0, "")
    assert "There are no estimates yet: of the trials of the space that they are learned from, 3 ran" in printed
    _, plain, _ = call("leaderboard", folder)
    assert "estimate" not in plain


def test_undefined_scores_are_passed_over(tmp_path: Path) -> None:
    scores = [0.3, float("nan"), 0.4, 0.35, 0.2, 0.1]
    trials = [{**trial, "curve": [score]} for trial, score in zip(noisy(6), scores, strict=True)]
    known = Leaderboard(make(tmp_path / "e", trials)).estimates()
    assert len(known) == 6 and np.isfinite(known[list(ESTIMATES)].to_numpy()).all()


def test_equal_scores_have_no_model(tmp_path: Path) -> None:
    known = Leaderboard(make(tmp_path / "e", [{**trial, "curve": [0.3]} for trial in noisy(6)])).estimates()
    assert known.empty and known.attrs["notes"] == ["There are no estimates: all full trials have the same score."]


def test_a_space_of_one_point_has_no_model(tmp_path: Path) -> None:
    trials = [{"curve": [0.1 * n], "point": {"loss.edge_width": 5}} for n in range(6)]
    board = Leaderboard(make(tmp_path / "e", trials, space={"loss.edge_width": {"int": [5, 5]}}))
    assert board.estimates().empty
    assert board.estimates().attrs["notes"][0].startswith("There are no estimates: ")


def test_several_experiments_have_a_model_each(tmp_path: Path) -> None:
    folders = [make(tmp_path / name, noisy(8, seed), name) for seed, name in enumerate("ab")]
    both = Leaderboard(folders)
    alone = pd.concat([Leaderboard(folder).estimates() for folder in folders], ignore_index=True)
    pd.testing.assert_frame_equal(both.estimates(), alone)
    assert [note[:3] for note in both.estimates().attrs["notes"]] == ["a: ", "b: "]
    shown = both.trials(["estimate"]).set_index(["experiment", "number"])["estimate"]
    assert shown.loc[("b", 3)] == alone[(alone["experiment"] == "b") & (alone["number"] == 3)]["estimate"].iloc[0]


def test_the_table_shows_them_and_other_formats_when_asked(tmp_path: Path, call: Any) -> None:
    folder = make(tmp_path / "e", noisy(12))
    known = Leaderboard(folder).estimates().set_index("number")
    code, table, _ = call("leaderboard", folder)
    assert code == 0
    assert all(f"{value:.4f}" in table for value in known["estimate"])
    assert "expected mean over seeds at full budget, with its 95 % interval, by a model of 12 full and 0 other" in table
    assert "estimate" not in call("leaderboard", folder, "--format", "csv")[1]
    best = known["estimate"].idxmax()
    _, printed, _ = call("leaderboard", folder, "--where", "estimate > 0.3", "--sort", "estimate", "--format", "csv")
    rows = pd.read_csv(io.StringIO(printed))
    assert rows["number"].iloc[0] == best and len(rows) == (known["estimate"] > 0.3).sum()
    assert rows["estimate"].tolist() == pytest.approx(known["estimate"].loc[rows["number"]].tolist())
    _, printed, _ = call("leaderboard", folder, "--columns", "number,estimate_high", "--top", "2", "--format", "csv")
    assert printed.splitlines()[0] == "rank,number,estimate_high"
    code, _, err = call("leaderboard", folder, "--sort", "estimat")
    assert code == 2 and "got 'estimat'" in err and "estimate_high" in err


def test_of_many_trials_only_who_asks_gets_them(tmp_path: Path, call: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bpkd_search.results.estimates.UNASKED", 11)
    folder = make(tmp_path / "e", noisy(12))
    assert "estimate" not in call("leaderboard", folder)[1]
    assert "estimate" in call("leaderboard", folder, "--sort", "estimate")[1]
    assert "expected" not in call("show", folder, "best")[1]


def test_one_trial_and_the_settings_that_are_exported_name_it(tmp_path: Path, call: Any) -> None:
    folder = make(tmp_path / "e", noisy(12))
    board = Leaderboard(folder)
    row = board.trials([*ESTIMATES]).iloc[0]
    shown = f"{row['estimate']:.4f} [{row['estimate_low']:.4f}, {row['estimate_high']:.4f}]"
    assert shown in call("show", folder, "best")[1]
    assert f'"estimate": {row["estimate"]:.6f}'[:-2] in call("show", folder, "best", "--format", "json")[1]


def test_a_wrong_column_of_a_frame_is_named(tmp_path: Path) -> None:
    from bpkd_search.show.leaderboard import View, leaderboard_frame

    board = Leaderboard(make(tmp_path / "e", noisy(5)))
    with pytest.raises(ConfigError, match=r"got 'estimates', valid: .*estimate_high"):
        leaderboard_frame(board, View(columns="estimates"))
