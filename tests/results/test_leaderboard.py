"""What a leaderboard says, against numbers worked out by hand."""

from __future__ import annotations

import math
import random
import subprocess
import sys
from pathlib import Path

import optuna
import pandas as pd
import pytest
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

from bpkd_search import Leaderboard
from bpkd_search.errors import ConfigError, ExperimentError
from bpkd_search.results.importance import scope
from bpkd_search.show.analysis import show_comparison
from tests.experiments import SPACE, make

BASELINES = [
    {"method": "ce", "origin": "baseline", "curve": [0.1, 0.2, 0.3, 0.30], "seconds": 5.0},
    {"method": "kd", "origin": "baseline", "curve": [0.1, 0.2, 0.3, 0.40], "seconds": 10.0},
    {"method": "cwd", "origin": "baseline", "curve": [0.1, 0.3, 0.3, 0.38], "seconds": 10.0},
    {"method": "bpkd-paper", "origin": "baseline", "curve": [0.1, 0.2, 0.25, 0.35], "seconds": 20.0},
]
SEARCHED = [
    {"curve": [0.2, 0.3, 0.4, 0.50], "seconds": 8.0, "point": {"loss.edge_width": 3, "loss.edge_weight": 1.0}},
    {"curve": [0.9], "state": "PRUNED", "point": {"loss.edge_width": 5, "loss.edge_weight": 2.0}},
    {"curve": [0.2, 0.3, 0.4, 0.44], "seconds": 16.0, "point": {"loss.edge_width": 7, "loss.edge_weight": 3.0}},
    {"curve": [0.1, 0.1], "state": "RUNNING"},
    {"curve": [], "state": "FAILED", "reason": "oom"},
]


@pytest.fixture
def board(tmp_path: Path) -> Leaderboard:
    return Leaderboard(make(tmp_path / "exp", [*BASELINES, *SEARCHED]))


def test_ranks_are_those_of_full_budget_trials_then_the_rest(board: Leaderboard) -> None:
    trials = board.trials()
    assert trials["number"].tolist() == [4, 6, 1, 2, 3, 0, 7, 5, 8]
    assert trials.index.tolist() == list(range(1, 10))
    assert board.best(2)["miou"].tolist() == [0.5, 0.44]
    few = board.trials(["method"])
    always = {"experiment", "number", "state", "origin", "miou", "epochs", "feasible"}
    assert set(few.columns) == {*always, "method"}
    assert few["number"].tolist() == trials["number"].tolist()


def test_whole_numbers_stay_whole_where_some_are_missing(board: Leaderboard) -> None:
    widths = board.trials().set_index("number")["loss.edge_width"]
    assert str(widths.dtype) == "Int64"
    assert widths.isna().tolist() == [False, False, True, True, True, True, True, False, True]
    assert widths[[4, 5, 6]].tolist() == [3, 5, 7]


def test_comparison_at_equal_epochs_and_at_equal_seconds(board: Leaderboard) -> None:
    table = board.compare()
    # The cheapest full run is ce: 4 epochs of 5 seconds.
    assert table.attrs == {"epochs": 4, "gpu_seconds": 20.0, "plain": ["ce", "kd", "cwd"]}
    full = table[table["at"] == "equal epochs"].set_index("method")
    assert full.index.tolist() == ["bpkd", "kd", "cwd", "bpkd-paper", "ce"]
    row = full.loc["bpkd"]
    assert (row["trials"], row["number"], row["best"], row["median"]) == (2, 4, 0.5, pytest.approx(0.47))
    assert row[["best_vs_paper", "best_vs_plain"]].tolist() == pytest.approx([0.15, 0.1])
    assert row[["median_vs_paper", "median_vs_plain"]].tolist() == pytest.approx([0.12, 0.07])
    assert full.loc["cwd", "best_vs_plain"] == pytest.approx(-0.02)
    assert full.loc["bpkd-paper", "best_vs_paper"] == 0
    assert full.loc["kd", "note"] == "one run: its spread is unknown"
    assert row["note"].startswith("best of 2: chosen by its score")
    cheap = table[table["at"] == "equal GPU-seconds"].set_index("method")
    # 20 seconds are 4 epochs of ce, 2 of kd, cwd and the first bpkd trial, 1 of the paper's and the other's.
    assert cheap["best"].to_dict() == {"bpkd": 0.3, "ce": 0.3, "cwd": 0.3, "kd": 0.2, "bpkd-paper": 0.1}
    assert cheap["epochs"].to_dict() == {"bpkd": 2, "ce": 4, "cwd": 2, "kd": 2, "bpkd-paper": 1}
    assert cheap.loc["bpkd", ["median", "best_vs_paper", "best_vs_plain"]].tolist() == pytest.approx([0.25, 0.2, 0.0])
    # Only ce has come to the end of its schedule by then.
    assert full["finished"].all() and cheap.index[cheap["finished"]].tolist() == ["ce"]


def test_what_is_compared_before_its_end_is_named(board: Leaderboard, capsys: pytest.CaptureFixture[str]) -> None:
    show_comparison(board, None)
    said = " ".join(capsys.readouterr().out.split())
    assert "At equal GPU-seconds, these are compared before the end of their schedule" in said
    assert "has decayed: bpkd, cwd, kd, bpkd-paper." in said and "At equal epochs, these" not in said


def test_where_ce_leads_it_is_the_plain_baseline_to_beat(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ahead = {"method": "ce", "origin": "baseline", "curve": [0.1, 0.2, 0.3, 0.45], "seconds": 5.0}
    # A sampled trial of a plain method is no baseline.
    sampled = {"method": "ce", "curve": [0.1, 0.2, 0.3, 0.48], "seconds": 5.0}
    board = Leaderboard(make(tmp_path / "exp", [ahead, *BASELINES[1:], *SEARCHED, sampled]))
    table = board.compare()
    full = table[table["at"] == "equal epochs"].set_index("method")
    assert full["best_vs_plain"].to_dict() == pytest.approx(
        {"bpkd": 0.05, "ce": 0.03, "kd": -0.05, "cwd": -0.07, "bpkd-paper": -0.1}
    )
    show_comparison(board, None)
    assert "vs plain: minus the best plain baseline (ce, kd, cwd)." in " ".join(capsys.readouterr().out.split())


def test_comparison_of_chosen_methods_and_of_unknown_ones(board: Leaderboard) -> None:
    table = board.compare(["kd", "bpkd"])
    # Without ce the cheapest run is the first bpkd trial; the references stay.
    assert table.attrs["gpu_seconds"] == 32.0
    assert set(table["method"]) == {"kd", "bpkd"}
    assert table["best_vs_paper"].notna().all()
    with pytest.raises(ConfigError, match=r"got 'skd', valid: bpkd, kd, cwd, bpkd-paper, ce"):
        board.compare(["skd"])


def on_two_kinds(slow: float, fast: float) -> list[dict[str, object]]:
    """The same run on a reference and on a GPU four times as fast, with the GPU-seconds of each."""
    curve = [0.1, 0.2, 0.3, 0.4]
    return [
        {"method": "kd", "curve": curve, "seconds": slow, "device": "T4"},
        {"method": "cwd", "curve": curve, "seconds": fast, "device": "A100"},
    ]


def test_runs_on_kinds_of_gpus_compare_by_calibrated_seconds(tmp_path: Path) -> None:
    folder = make(tmp_path / "plain", on_two_kinds(40.0, 10.0))
    plain = Leaderboard(folder).compare()
    assert plain.attrs["gpu_seconds"] == 40.0  # of a folder that knows no better: the fast one is the cheapest
    assert plain[plain["at"] == "equal GPU-seconds"].set_index("method")["best"].to_dict() == {"cwd": 0.4, "kd": 0.1}

    folder = make(tmp_path / "kinds", on_two_kinds(40.0, 10.0), calibrated=(40.0, 40.0))
    table = Leaderboard(folder).compare()
    assert table.attrs["gpu_seconds"] == 160.0
    assert table[table["at"] == "equal GPU-seconds"].set_index("method")["best"].to_dict() == {"cwd": 0.4, "kd": 0.4}
    assert Leaderboard(folder).trials().set_index("method")["device"].to_dict() == {"kd": "T4", "cwd": "A100"}


def test_experiments_with_other_references_compare_where_a_kind_is_common(tmp_path: Path) -> None:
    one, other = ({"curve": [0.1, 0.2, 0.3, 0.4], "seconds": each, "method": "kd"} for each in (40.0, 10.0))
    folders = [make(tmp_path / name, [trial], name=name) for name, trial in (("a", one), ("b", other))]
    (folders[0] / "calibration.json").write_text('{"T4": 0.4}')
    (folders[1] / "calibration.json").write_text('{"A100": 0.1}')
    apart = Leaderboard(folders)
    assert apart.caveats == ["kinds of devices differ (a: T4; b: A100): seconds are not comparable"]
    (folders[0] / "calibration.json").write_text('{"T4": 0.4, "A100": 0.1}')
    board = Leaderboard(folders)
    assert board.caveats == []
    assert board.compare().attrs["gpu_seconds"] == 160.0  # of both
    assert board.comparable_seconds(board.trials()).tolist() == [160.0, 160.0]


def test_a_trial_without_a_report_within_the_limit_does_not_count(tmp_path: Path) -> None:
    slow = {"method": "cirkd", "curve": [0.6, 0.7, 0.8, 0.9], "seconds": 100.0}
    table = Leaderboard(make(tmp_path / "exp", [*BASELINES, slow])).compare()
    assert table[table["method"] == "cirkd"]["at"].tolist() == ["equal epochs"]


def test_the_front_holds_what_nothing_dominates(tmp_path: Path) -> None:
    random.seed(1)
    points = [(round(random.random(), 2), round(random.random(), 2)) for _ in range(40)] + [(0.99, 0.0), (0.99, 0.0)]
    trials = [{"curve": [edge], "edge_miou": edge, "gpu": 0, "seconds": cost} for edge, cost in points]
    board = Leaderboard(make(tmp_path / "exp", trials))
    kept = {
        n for n, (edge, cost) in enumerate(points)
        if not any(e >= edge and c <= cost and (e, c) != (edge, cost) for e, c in points)
    }  # fmt: skip
    assert set(board.front(["edge_miou", "gpu_seconds"])["number"]) == kept
    assert {40, 41} <= kept
    with pytest.raises(ConfigError, match="got 'method', valid: miou, "):
        board.front(["method"])


def test_the_front_is_by_the_objectives_of_a_search_that_has_some(tmp_path: Path) -> None:
    trials = [
        {"curve": [0.5], "latency_ms": 9.0},
        {"curve": [0.4], "latency_ms": 5.0},
        {"curve": [0.3], "latency_ms": 7.0},
    ]
    search = {"metric": "miou", "objectives": {"boundary_iou": "max", "latency_ms": "min"}}
    for trial, value in zip(trials, (0.1, 0.2, 0.9), strict=True):
        trial["boundary_iou"] = value
    board = Leaderboard(make(tmp_path / "exp", trials, search=search))
    assert board.metric == "boundary_iou"
    assert board.front()["number"].tolist() == [2, 1]


def test_curves_count_every_trials_seconds(tmp_path: Path) -> None:
    trials = [
        {"curve": [0.1, 0.2], "seconds": 10.0},
        {"curve": [0.9], "state": "PRUNED", "seconds": 7.0},
        {"curve": [0.1, 0.15], "seconds": 3.0},
        {"curve": [], "state": "FAILED", "reason": "oom"},
        {"curve": [0.1, 0.3], "seconds": 4.0},
    ]
    curve = Leaderboard(make(tmp_path / "exp", trials)).curves()
    assert curve["number"].tolist() == [0, 2, 4]
    assert curve["gpu_seconds"].tolist() == [20.0, 33.0, 41.0]
    assert curve["best"].tolist() == [0.2, 0.2, 0.3]


LIMITED = [
    {**BASELINES[1], "latency_ms": 5.0, "feasible": True},
    {**BASELINES[2], "curve": [0.1, 0.2, 0.3, 0.45], "latency_ms": 9.0, "feasible": False},
    {"curve": [0.2, 0.3, 0.4, 0.90], "latency_ms": 9.0, "feasible": False},
    {"curve": [0.2, 0.3, 0.4, 0.50], "latency_ms": 5.0, "feasible": True},
    {"curve": [0.2, 0.3, 0.4, 0.95], "latency_ms": 8.0, "feasible": False},
    {"curve": [0.2, 0.3, 0.4, 0.44], "latency_ms": 4.0, "feasible": True},
]
CONSTRAINED = {"metric": "miou", "constraints": ["latency_ms <= 6"]}


def test_a_trial_that_breaks_a_constraint_is_not_the_best_of_its_method(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    board = Leaderboard(make(tmp_path / "exp", LIMITED, search=CONSTRAINED))
    table = board.compare()
    full = table[table["at"] == "equal epochs"].set_index("method")
    # cwd has no trial that meets the constraint, and is last in spite of its score.
    assert full["number"].to_dict() == {"bpkd": 3, "kd": 0, "cwd": 1}
    assert full.index.tolist() == ["bpkd", "kd", "cwd"]
    assert full["best"].tolist() == [0.5, 0.4, 0.45] and full["feasible"].tolist() == [True, True, False]
    # A reference is the best baseline whether or not it meets the constraint.
    assert full.loc["bpkd", "best_vs_plain"] == pytest.approx(0.05)
    show_comparison(board, None)
    printed = capsys.readouterr().out
    assert "feasible" in printed and "one that meets the constraints" in printed
    show_comparison(Leaderboard(make(tmp_path / "free", BASELINES)), None)
    printed = capsys.readouterr().out
    assert "feasible" not in printed and "constraints" not in printed


def test_the_best_so_far_and_the_front_pass_over_trials_that_break_a_constraint(tmp_path: Path) -> None:
    board = Leaderboard(make(tmp_path / "exp", LIMITED[1:], search=CONSTRAINED))
    curve = board.curves()
    assert curve["number"].tolist() == [0, 1, 2, 3, 4]
    assert curve["best"].isna().tolist() == [True, True, False, False, False]
    assert curve["best"].dropna().tolist() == [0.5, 0.5, 0.5]
    assert board.front(["miou", "latency_ms"])["number"].tolist() == [2, 4]


def test_a_short_view_has_what_the_search_decides_by(tmp_path: Path) -> None:
    search = {"objectives": {"miou": "max", "parameters": "min"}, "constraints": ["latency_ms <= 6"]}
    space = {"loss.method": {"choice": ["bpkd", "kd"]}, **SPACE}
    board = Leaderboard(make(tmp_path / "exp", LIMITED, search=search, space=space))
    assert board.summary_columns == [
        "number", "state", "feasible", "method", "loss.edge_width", "loss.edge_weight", "miou", "edge_miou",
        "body_miou", "parameters", "latency_ms", "epochs", "gpu_seconds", "reason",
    ]  # fmt: skip
    assert all(f"<th>{name}</th>" in board._repr_html_() for name in board.summary_columns[:-1])
    assert not {"feasible", "latency_ms", "parameters"} & set(
        Leaderboard(make(tmp_path / "free", LIMITED)).summary_columns
    )


@pytest.mark.parametrize("source", ["experiment.json", "config", None])
def test_classes_of_the_best_of_each_method(tmp_path: Path, source: str | None) -> None:
    trials = [
        {"method": "kd", "curve": [0.1, 0.4], "class_iou": [0.5, None]},
        {"curve": [0.1, 0.3], "class_iou": [0.1, 0.2]},
        {"curve": [0.1, 0.5], "class_iou": [0.6, 0.7]},
    ]
    config = {"data": {"folder": {"class_names": ["sky", "road"]}}} if source == "config" else {}
    folder = make(tmp_path / "exp", trials, **config)
    if source == "experiment.json":
        (folder / source).write_text('{"class_names": ["sky", "road"]}')
    table = Leaderboard(folder).per_class()
    assert table.index.tolist() == (["sky", "road"] if source else ["class 0", "class 1"])
    assert table.columns.tolist() == ["bpkd", "kd"]
    assert table["bpkd"].tolist() == [0.6, 0.7]
    assert table["kd"].iloc[0] == 0.5 and math.isnan(table["kd"].iloc[1])


def searched(folder: Path, trials: int, space: dict[str, object] = SPACE) -> tuple[Path, optuna.Study]:
    """Random trials in which the edge weight decides, and the same ones in a study."""
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0))
    rows = []
    for _ in range(trials):
        trial = study.ask()
        width = trial.suggest_int("loss.edge_width", 3, 11, step=2)
        weight = trial.suggest_float("loss.edge_weight", 0.1, 10.0, log=True)
        value = 0.5 - 0.1 * math.log10(weight) ** 2 + 0.001 * width
        study.tell(trial, value)
        rows.append({"curve": [value], "point": {"loss.edge_width": width, "loss.edge_weight": weight}})
    return make(folder, [*rows, {"method": "kd", "origin": "baseline", "curve": [0.4]}], space=space), study


@pytest.mark.filterwarnings("ignore")
def test_ped_anova_is_optunas_on_the_same_trials(tmp_path: Path) -> None:
    folder, study = searched(tmp_path / "exp", 60)
    table = Leaderboard(folder).importance(seed=3)
    assert table.index.tolist() == ["loss.edge_weight", "loss.edge_width"]
    assert table["ped_anova"].to_dict() == pytest.approx(
        get_param_importances(study, evaluator=PedAnovaImportanceEvaluator())
    )
    assert table["trials"].tolist() == [60, 60] and table.attrs["trials"] == 60
    assert table.loc["loss.edge_weight", "fanova"] > 0.9
    assert "rest of 60 searched trials that ran their full budget." in scope(table, "miou")[1]


@pytest.mark.filterwarnings("ignore")
def test_importance_of_conditional_parameters_and_choices(tmp_path: Path) -> None:
    random.seed(0)
    space = {
        "loss.method": {"choice": ["bpkd", "kd"]},
        "loss.edge_weight": {"float": [0.1, 10.0], "log": True, "when": {"loss.method": "bpkd"}},
    }
    trials = []
    for n in range(40):
        point = {"loss.method": "kd"} if n % 2 else {"loss.method": "bpkd", "loss.edge_weight": random.uniform(0.1, 10)}
        trials.append({"curve": [0.1 * (n % 2) + 0.001 * random.random()], "point": point})
    # Enqueued outside the range: Optuna could not take it, so it is left out.
    trials.append({"curve": [0.9], "origin": "enqueued", "point": {"loss.method": "bpkd", "loss.edge_weight": 99.0}})
    table = Leaderboard(make(tmp_path / "exp", trials, space=space)).importance()
    assert table["trials"].to_dict() == {"loss.method": 40, "loss.edge_weight": 20}
    assert table.index[0] == "loss.method" and table.loc["loss.method", "fanova"] > 0.9


def test_importance_needs_trials(board: Leaderboard) -> None:
    with pytest.raises(ExperimentError, match=r"2 trial.s. of the space ran their full budget, importance needs 4"):
        board.importance()


def test_several_experiments_are_one_table(tmp_path: Path) -> None:
    narrow = {"train.lr": {"float": [0.001, 0.1]}, "loss.edge_width": {"float": [3.0, 9.0]}}
    first = make(tmp_path / "a", [*BASELINES, *SEARCHED[:1]], name="one")
    second = make(
        tmp_path / "b", [{"curve": [0.6], "point": {"train.lr": 0.01, "loss.edge_width": 4.5}}], "two", space=narrow
    )
    board = Leaderboard([first, str(second)])
    trials = board.trials()
    assert board.parameters == ["loss.edge_width", "loss.edge_weight", "train.lr"]
    assert trials[["experiment", "number"]].head(3).to_numpy().tolist() == [["two", 0], ["one", 4], ["one", 1]]
    assert trials["loss.edge_width"].head(2).tolist() == [4.5, 3.0]  # whole here, real there: real
    assert pd.isna(trials.loc[1, "loss.edge_weight"]) and pd.isna(trials.loc[2, "train.lr"])
    table = board.compare()
    assert set(zip(table["experiment"], table["method"], strict=True)) >= {("one", "bpkd"), ("two", "bpkd")}
    # Every experiment has its own references; the second one has none.
    assert table[table["experiment"] == "two"]["best_vs_paper"].isna().all()
    assert table.attrs["epochs"] == 1
    assert list(board.curves()["experiment"].unique()) == ["two", "one"]
    with pytest.raises(ExperimentError, match="search different spaces"):
        board.importance()
    with pytest.raises(ExperimentError, match="must be one experiment directory on this machine"):
        _ = board.directory


def test_experiments_of_one_name_go_by_their_folders(tmp_path: Path) -> None:
    folders = [make(tmp_path / name, [{"curve": [score]}]) for name, score in (("a", 0.1), ("b", 0.2))]
    trials = Leaderboard(folders).trials()
    assert trials["experiment"].tolist() == [str(folders[1]), str(folders[0])]
    assert len(Leaderboard(folders).reports()) == 2
    with pytest.raises(ExperimentError, match="is given twice"):
        Leaderboard([folders[0], folders[0]])


def test_experiments_of_different_metrics_are_refused_and_of_different_sizes_remarked(tmp_path: Path) -> None:
    one = make(tmp_path / "a", [{"curve": [0.1]}], "a", data={"crop": [96, 128]})
    other = make(tmp_path / "b", [{"curve": [0.1]}], "b", metric="edge_miou")
    third = make(tmp_path / "c", [{"curve": [0.1]}], "c", data={"crop": [120, 160]})
    with pytest.raises(ExperimentError, match=f"{one} maximised miou, {other} maximised edge_miou"):
        Leaderboard([one, other])
    assert Leaderboard([one, third]).caveats == [
        "data.crop differs (a: [96, 128]; c: [120, 160]): scores are not comparable"
    ]
    assert Leaderboard(one).caveats == []


def test_columns_say_what_they_hold(board: Leaderboard) -> None:
    columns = board.columns()
    assert columns.loc["miou", "type"] == "double"
    assert columns.loc["loss.edge_width"].tolist() == ["int64", "searched parameter; empty where the trial has none"]
    assert columns.loc["gpu_seconds", "meaning"].startswith("seconds inside training")
    assert columns["meaning"].str.len().min() > 10
    assert "class_iou" in board.columns("reports").index


def test_reports_of_chosen_trials(board: Leaderboard) -> None:
    reports = board.reports(["miou"], numbers=[0, 5])
    assert reports[["number", "epoch", "miou"]].to_numpy().tolist() == [
        [0, 1, 0.1], [0, 2, 0.2], [0, 3, 0.3], [0, 4, 0.3], [5, 1, 0.9]
    ]  # fmt: skip


def test_a_notebook_sees_a_table_and_no_markup_of_others(tmp_path: Path) -> None:
    folder = make(tmp_path / "exp", [{"curve": [0.1], "method": "<script>alert(1)</script>"}])
    board = Leaderboard(folder)
    page = board._repr_html_()
    assert "<table" in page and "1 COMPLETE; ranked by miou" in page
    assert "<script>" not in page and "&lt;script&gt;" in page
    assert repr(board) == f"Leaderboard({str(folder)!r}: 1 COMPLETE; by miou)"


def test_nothing_complete_is_said(tmp_path: Path) -> None:
    board = Leaderboard(make(tmp_path / "exp", [{"curve": [0.1], "state": "RUNNING"}]))
    assert board.best().empty and board.front().empty and board.curves().empty
    for call in (board.compare, board.per_class):
        with pytest.raises(ExperimentError, match="no trial has run its full budget yet"):
            call()


def test_an_experiment_whose_search_has_only_just_begun(tmp_path: Path) -> None:
    board = Leaderboard(make(tmp_path / "exp", []))
    assert board.trials().empty and board.reports().empty
    assert {"state", "miou", "loss.edge_width"} <= set(board.trials().columns)
    assert "no trials" in repr(board)


def test_neither_torch_nor_ray_is_imported_whatever_is_asked(tmp_path: Path) -> None:
    folder, _ = searched(tmp_path / "exp", 12)
    code = f"""
import sys, warnings
warnings.simplefilter("ignore")
from bpkd_search import Leaderboard
board = Leaderboard({str(folder)!r})
for call in ("trials", "reports", "best", "front", "compare", "curves", "per_class", "columns", "_repr_html_"):
    getattr(board, call)()
assert not {{"torch", "ray", "optuna"}} & set(sys.modules), "before importance"
board.importance()
assert not {{"torch", "ray"}} & set(sys.modules), "in importance"
"""
    subprocess.run([sys.executable, "-c", code], check=True)
