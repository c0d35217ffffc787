"""One row per measure: every place that names measures follows from the table."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import bpkd_search
from bpkd_search.config.load import parse
from bpkd_search.config.models import SearchConfig
from bpkd_search.errors import ConfigError
from bpkd_search.experiment.schema import confirm_schema, reports_schema, trials_schema
from bpkd_search.export.claimed_score import claim_of
from bpkd_search.metrics import Scores
from bpkd_search.metrics.table import COSTS, HEADLINE, MEASURES, SCORES
from bpkd_search.results.leaderboard import Leaderboard
from bpkd_search.search.backends import CurveBackend
from bpkd_search.search.simulate import simulate_search
from bpkd_search.show.leaderboard import View, leaderboard_frame
from bpkd_search.show.text_table import cell
from tests.experiments import make

NAMES = [measure.name for measure in MEASURES]


def test_names_are_unique_and_every_score_is_maximised() -> None:
    assert len(set(NAMES)) == len(NAMES)
    assert {m.direction for m in MEASURES if m.role == "score"} == {"max"}
    assert HEADLINE and set(HEADLINE) <= set(SCORES)


def test_scores_computes_exactly_the_scores_of_the_table() -> None:
    numbers = [field.name for field in dataclasses.fields(Scores) if field.type in ("float", "float | None")]
    assert set(numbers) - {"boundary_ratio"} == set(SCORES)
    values = {name: index / 10 for index, name in enumerate(SCORES)}
    assert Scores(**values, iou=(), edge_iou=(), band=3, boundary_ratio=0.02).as_dict() == values


def test_columns_of_the_tables_are_those_of_files_written_before() -> None:
    scores = ["miou", "edge_miou", "body_miou", "boundary_iou", "boundary_f", "accuracy"]
    costs = ["gpu_seconds", "wall_seconds", "images_per_second", "peak_memory_mb", "latency_ms"]
    about = ["experiment", "number"]
    ended = ["state", "reason", "message"]
    trials = [*about, "trial_id", *ended, "feasible", "method", "origin", "loss.edge_width", *scores, "epochs", *costs]
    trials += ["parameters", "seed", "node", "started", "ended", "config", "version"]
    reports = [*about, "epoch", *scores, *costs, "loss", "loss_terms", "class_iou", "time"]
    confirm = [*about, "seed", "run", *ended, "method", "origin", "loss.edge_width", *scores]
    confirm += [*(f"test_{name}" for name in scores), "epochs", "gpu_seconds", "ended", "version"]
    expected = {
        "trials": (trials_schema({"loss.edge_width": "int"}), trials),
        "reports": (reports_schema(), reports),
        "confirm": (confirm_schema({"loss.edge_width": "int"}), confirm),
    }
    for table, (schema, before) in expected.items():
        assert [name for name in schema.names if name in before] == before, table
        assert {*before} <= {*schema.names}
    schema = trials_schema({})
    assert {str(schema.field(name).type) for name in NAMES} == {"double", "int64"}
    assert str(schema.field("parameters").type) == "int64"
    assert all(schema.field(m.name).metadata[b"doc"].decode() == m.meaning for m in MEASURES)


def with_search(tiny: dict[str, Any], **search: Any) -> SearchConfig:
    tiny = tiny | {"data": {**tiny["data"], "eval": {"metric": {"factory": "own:Metric"}}}}
    return parse(SearchConfig, tiny | {"search": {**tiny["search"], **search}}, "test")


@pytest.mark.parametrize("name", SCORES)
def test_every_score_ranks_a_search_from_the_config_to_the_leaderboard(
    tiny: dict[str, Any], tmp_path: Path, name: str
) -> None:
    config = with_search(tiny, metric=name, trials=2, constraints=[f"{name} >= 0.01"])
    assert config.search.ranked_by == name
    assert simulate_search(config, CurveBackend(config)).engine.metric == name
    values = {score: 0.1 for score in SCORES}
    trials = [{**values, "curve": [0.2, value], name: value} for value in (0.3, 0.5, 0.4)]
    folder = make(tmp_path / "e", trials, metric=name, search={"metric": name})
    board = Leaderboard(folder)
    assert board.trials()["number"].tolist() == [1, 2, 0]
    assert board.reports()[name].tolist() == [0.3, 0.3, 0.5, 0.5, 0.4, 0.4]
    assert leaderboard_frame(board)[name].tolist() == [0.5, 0.4, 0.3]
    assert claim_of({"metric": name, name: 0.5, "seed": 1}, "test").metric == name


@pytest.mark.parametrize("name", COSTS)
def test_every_cost_may_be_an_objective_and_a_constraint(tiny: dict[str, Any], name: str) -> None:
    config = with_search(tiny, objectives={"miou": "max", name: "min"}, constraints=[f"{name} <= 30"])
    assert config.search.limits() == [(name, "<=", "30")]
    with pytest.raises(ConfigError, match=rf"search\.metric: got '{name}'"):
        with_search(tiny, metric=name)


@pytest.mark.parametrize("name", [m.name for m in MEASURES if m.role == "record"])
def test_what_is_only_recorded_is_no_objective(tiny: dict[str, Any], name: str) -> None:
    for search in ({"metric": name}, {"objectives": {"miou": "max", name: "min"}}, {"constraints": [f"{name} <= 1"]}):
        with pytest.raises(ConfigError, match=name):
            with_search(tiny, **search)


# What `make` calls a measure of its own.
RECORDED_AS = {"gpu_seconds": "seconds"}


@pytest.mark.parametrize("measure", MEASURES, ids=NAMES)
def test_every_measure_is_recorded_sorted_and_compared_by_its_direction(tmp_path: Path, measure: Any) -> None:
    given = [{"curve": [0.5], RECORDED_AS.get(measure.name, measure.name): value} for value in (2, 3, 1)]
    board = Leaderboard(make(tmp_path / "e", given, metric="accuracy" if measure.name == "miou" else "miou"))
    trials = board.trials([measure.name]).sort_values("number")
    best_first = [1, 0, 2] if measure.direction == "max" else [2, 0, 1]
    if measure.name != board.metric:
        assert trials[measure.name].tolist() == [2, 3, 1]
        view = View(sort=measure.name, columns=f"number,{measure.name}")
        assert leaderboard_frame(board, view)["number"].tolist() == best_first
    assert board.front([measure.name])["number"].tolist() == best_first[:1]


@pytest.mark.parametrize(
    ("column", "value", "text"),
    [
        *((name, 0.123456, "0.1235") for name in SCORES),
        *((f"test_{name}", 0.5, "0.5000") for name in SCORES),
        *((name, 0.123456, "0.1235") for name in ("best", "median", "class_iou", "ped_anova", "fanova")),
        *((name, 1234.5678, "1235") for name in ("seconds", "gpu_seconds", "wall_seconds")),
        *((f"{name}_vs_{other}", 0.01, "+0.0100") for name in ("best", "median") for other in ("paper", "plain")),
        *((name, 1234.5678, "1235") for name in ("latency_ms", "images_per_second", "loss", "loss.kd")),
        ("loss.edge_weight", 0.000123456, "0.0001235"),
        ("miou", float("nan"), ""),
        ("parameters", 12345678, "12345678"),
    ],
)
def test_columns_are_written_as_people_read_them(column: str, value: float, text: str) -> None:
    assert cell(column, value) == text


# What a program with one more score does, in a copy of the package.
WITH_DICE = """
import csv, importlib.util, json, sys
from pathlib import Path

import torch

from bpkd_search.config.load import parse
from bpkd_search.config.models import SearchConfig
from bpkd_search.experiment.schema import SCHEMA_VERSION, confirm_schema
from bpkd_search.metrics import SegmentationMetrics
from bpkd_search.metrics import table
from bpkd_search.pictures.panels import Panels
from bpkd_search.report.page import report_page
from bpkd_search.results.leaderboard import Leaderboard
from bpkd_search.results.loggers import make_loggers
from bpkd_search.search.backends import CurveBackend
from bpkd_search.search.simulate import simulate_search
from bpkd_search.show.leaderboard import leaderboard_frame
from bpkd_search.show.text_table import cell
from tests.experiments import make

copy, old, tree = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])
assert Path(table.__file__).is_relative_to(copy) and SCHEMA_VERSION == 99

metrics = SegmentationMetrics(2)
metrics.update(torch.tensor([[[0, 1], [1, 1]]]), torch.tensor([[[0, 1], [0, 1]]]))
scores = metrics.compute()
assert scores.as_dict()["dice"] == scores.dice == 0.75

tree["search"] = {"trials": 2, "metric": "dice", "constraints": ["dice >= 0.01"]}
config = parse(SearchConfig, tree | {"logging": {"csv": True}}, "test")
(log,) = make_loggers(config, copy)
simulate_search(config, CurveBackend(config), listen=log)
with (copy / "logs/reports.csv").open(newline="") as file:
    assert all(float(row["dice"]) for row in csv.DictReader(file))

trials = [{"curve": [0.2, value], "miou": 1 - value} for value in (0.3, 0.5, 0.4)]
board = Leaderboard(make(copy / "e", trials, metric="dice", search={"metric": "dice"}))
assert board.trials()["number"].tolist() == [1, 2, 0]
assert board.trials()["dice"].tolist() == [0.5, 0.4, 0.3] == leaderboard_frame(board)["dice"].tolist()
assert board.reports()["dice"].tolist() == [0.2, 0.3, 0.2, 0.5, 0.2, 0.4]
assert board.columns().loc["dice"].tolist() == ["double", "Dice coefficient"]
assert board.front(["dice"])["number"].tolist() == [1]
assert {"dice", "test_dice"} <= set(confirm_schema({}).names)
assert cell("dice", 0.123456) == cell("test_dice", 0.123456) == "0.1235"
if importlib.util.find_spec("plotly"):
    column = '{"name":"dice","label":"dice","number":true,"decimals":4,"bestFirst":true}'
    assert column in report_page(board, Panels())

before = Leaderboard(old)
assert before.trials()["dice"].isna().all() and before.trials()["miou"].tolist() == [0.5]
assert before.reports()["dice"].isna().all() and before.metric == "miou"
"""


def test_a_new_score_is_a_row_of_the_table_and_its_computation(tiny: dict[str, Any], tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    package = Path(bpkd_search.__file__).parent
    shutil.copytree(package, copy / "bpkd_search", ignore=shutil.ignore_patterns("__pycache__"))
    rows = {
        "table.py": [(r"(?m)^MEASURES\b.*\n", '    _score("dice", meaning="Dice coefficient", since=99),\n')],
        "scores.py": [
            (r"(?m)^    miou: float\n", "    dice: float\n"),
            (r"(?m)^        return Scores\(\n", "            dice=pixel_accuracy(body + edge),\n"),
        ],
    }
    for name, added in rows.items():
        file = copy / "bpkd_search/metrics" / name
        text = file.read_text()
        for after, line in added:
            text, found = re.subn(after, lambda match, line=line: match[0] + line, text)
            assert found == 1
        file.write_text(text)
    old = make(tmp_path / "old", [{"curve": [0.4, 0.5]}])
    (tmp_path / "script.py").write_text(WITH_DICE)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(copy), str(package.parent)])}
    command = [sys.executable, str(tmp_path / "script.py"), str(copy), str(old), json.dumps(tiny)]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
