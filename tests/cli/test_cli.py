"""The command line: what people type, what they read, and exit code 2 without a traceback for what they can mend."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image

from bpkd_search.config import SearchConfig
from bpkd_search.config.load import parse
from bpkd_search.experiment import folder as experiment
from bpkd_search.experiment.recorder import Recorder
from bpkd_search.models import Segmentor, save_weights
from bpkd_search.search.engine import Engine
from tests.driving import drive
from tests.experiments import make


def write(path: Path, tree: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(tree))
    return path


@pytest.fixture
def space(tiny: dict[str, Any], tmp_path: Path) -> Path:
    return write(tmp_path / "tiny.yaml", tiny)


@pytest.fixture
def folder(tiny: dict[str, Any], tmp_path: Path) -> Path:
    """A finished experiment, made without Ray."""
    tiny["search"]["trials"] = 6
    config = parse(SearchConfig, tiny, "test")
    experiment.create(tmp_path / "exp", config)
    engine = Engine(config, tmp_path / "exp", "test")
    drive(engine)
    engine.recorder.close()
    return tmp_path / "exp"


def test_help_is_quick_and_lists_every_command(call) -> None:
    code, out, _ = call("--help")
    assert code == 0
    for command in ("run", "resume", "validate", "train", "teacher", "leaderboard", "export", "losses", "show-edges"):
        assert f"\n  {command} " in out


@pytest.mark.parametrize("command", ["run", "train"])
def test_a_bad_configuration_says_all_faults(call, tiny: dict[str, Any], tmp_path: Path, command: str) -> None:
    tiny["loss"]["edge_width"] = 6
    tiny["serch"] = {}
    bad = write(tmp_path / "bad.yaml", tiny)
    code, out, err = call(command, bad, "--out", tmp_path / "o", "--set", "train.epochs=none")
    assert (code, out) == (2, "")
    assert err.startswith(f"error: {bad}: 3 error(s)\n")
    for said in ("loss.edge_width: got 6", "serch: unknown key; did you mean search?", "train.epochs: got 'none'"):
        assert said in err
    assert not (tmp_path / "o").exists()


def test_validate_checks_every_file_and_says_ok(call, space: Path, tmp_path: Path) -> None:
    assert call("validate", space) == (0, f"{space}: ok\n", "")
    bad = write(tmp_path / "bad.yaml", {"space": {}, "search": {"trials": 0}})
    code, out, err = call("validate", bad, space)
    assert code == 2
    assert out == f"{space}: ok\n"
    assert "space: got an empty space" in err and "search.trials: got 0" in err


@pytest.mark.parametrize(
    ("option", "value", "said"), [("--trials", "0", "search.trials: got 0"), ("--name", "a/b", "name: got 'a/b'")]
)
def test_options_are_checked_as_keys_are(call, space: Path, option: str, value: str, said: str) -> None:
    code, _, err = call("run", space, option, value)
    assert code == 2
    assert said in err


def test_the_leaderboard_in_every_format(call, folder: Path) -> None:
    code, table, _ = call("leaderboard", folder)
    assert code == 0
    for said in ("ce", "kd", "cwd", "bpkd-paper", "COMPLETE", "PRUNED", "one seed"):
        assert said in table
    code, text, _ = call("leaderboard", folder, "--format", "csv")
    rows = pd.read_csv(StringIO(text))
    assert list(rows.columns) == [
        "rank", "number", "state", "method", "loss.edge_weight", "loss.edge_width", "miou", "edge_miou", "body_miou",
        "epochs", "seconds", "reason",
    ]  # fmt: skip
    assert len(rows) == 10
    code, text, _ = call("leaderboard", folder, "--format", "json", "--top", "3")
    first = json.loads(text)
    assert [row["rank"] for row in first] == [1, 2, 3]
    assert first[0]["miou"] == pytest.approx(rows["miou"][0])
    code, _, err = call("leaderboard", folder, "--format", "xml")
    assert (code, "valid: table, csv, json" in err) == (2, True)


def test_rows_and_columns_of_a_leaderboard(call, folder: Path) -> None:
    asked = ["leaderboard", folder, "--where", "loss.edge_weight > 0 and state == 'COMPLETE'", "--format", "json"]
    code, text, _ = call(*asked, "--sort", "-miou,number", "--columns", "number,miou,seconds,loss.edge_weight")
    rows = json.loads(text)
    assert code == 0
    assert list(rows[0]) == ["rank", "number", "miou", "gpu_seconds", "loss.edge_weight"]
    # Scores sort from high to low, and the other way round after a minus; ranks stay those of the search.
    assert [row["miou"] for row in rows] == sorted(row["miou"] for row in rows)
    assert rows[-1]["rank"] == min(row["rank"] for row in rows)
    assert 3 in {row["number"] for row in rows}  # the paper's setting has a weight, the other baselines do not
    assert not {row["number"] for row in rows} & {0, 1, 2}
    cheap = json.loads(call("leaderboard", folder, "--format", "json", "--sort", "gpu_seconds")[1])
    assert [row["seconds"] for row in cheap] == sorted(row["seconds"] for row in cheap)


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--columns", "number,miuo", "--columns: 1 error(s)\n  got 'miuo', valid: experiment, number, "),
        ("--sort", "-nothing", "got 'nothing', valid: "),
        ("--where", "miuo > 0.5", "got 'miuo > 0.5': name 'miuo' is not defined; a condition is like"),
        ("--where", "miou >", "got 'miou >': "),
        ("--where", "miou + 1", "got 'miou + 1': "),
        ("--format", "parquet", "parquet is not text: give a file with --out"),
        ("--out", "x.csv", "table is for the terminal, valid with --out: csv, json, parquet, markdown, latex"),
    ],
)
def test_options_of_a_leaderboard_that_cannot_be_met(call, folder: Path, option: str, value: str, said: str) -> None:
    code, out, err = call("leaderboard", folder, option, value)
    assert (code, out) == (2, "")
    assert said in err


def test_a_leaderboard_shows_constraints_and_one_column_per_heading(call, tmp_path: Path) -> None:
    trials = [
        {"curve": [0.9], "latency_ms": 9.0, "feasible": False, "point": {"loss.method": "bpkd"}},
        {"curve": [0.5], "latency_ms": 5.0, "feasible": True, "method": "kd", "point": {"loss.method": "kd"}},
    ]
    space = {"loss.method": {"choice": ["bpkd", "kd"]}}
    exp = make(tmp_path / "exp", trials, search={"constraints": ["latency_ms <= 6"]}, space=space)
    code, text, _ = call("leaderboard", exp)
    head, _, *rows = [line.split() for line in text.splitlines() if line][1:5]
    assert (code, " ".join(head)) == (0, "rank number state feasible method miou miou miou ms epochs seconds")
    assert [row[:5] + row[-3:-2] for row in rows] == [
        ["1", "1", "COMPLETE", "True", "kd", "5"],
        ["2", "0", "COMPLETE", "False", "bpkd", "9"],
    ]
    header = call("leaderboard", exp, "--format", "csv")[1].splitlines()[0]
    assert header.startswith("rank,number,state,feasible,method,loss.method,miou,")
    both = call("leaderboard", exp, "--columns", "number,method,loss.method")[1].splitlines()[0]
    assert both.split() == ["rank", "number", "method", "loss.method"]


def test_a_leaderboard_as_a_file(call, folder: Path, tmp_path: Path) -> None:
    for format in ("parquet", "csv", "json", "markdown", "latex"):
        out = tmp_path / f"board.{format}"
        assert call("leaderboard", folder, "--format", format, "--out", out) == (0, "", "")
    frame = pd.read_parquet(tmp_path / "board.parquet")
    assert frame["miou"].tolist() == pytest.approx(pd.read_csv(tmp_path / "board.csv")["miou"].tolist())
    code, _, err = call("leaderboard", folder, "--format", "csv", "--out", tmp_path / "board.csv")
    assert (code, "exists already; choose another --out" in err) == (2, True)


def test_markdown_and_latex_escape_what_they_must(call, tmp_path: Path) -> None:
    failed = {"curve": [], "state": "FAILED", "reason": "oom"}
    exp = make(tmp_path / "exp", [{"curve": [0.25], "method": "a|b_<c>"}, failed])
    shown = ["leaderboard", exp, "--columns", "number,method,miou,message", "--format"]
    assert call(*shown, "markdown")[1].splitlines()[:3] == [
        "| rank | number | method | miou | message |",
        "| ---: | ---: | --- | ---: | --- |",
        "| 1 | 0 | a\\|b_&lt;c> | 0.2500 |  |",
    ]
    assert call(*shown, "latex")[1].splitlines()[:5] == [
        r"\begin{tabular}{rrlrl}",
        r"\toprule",
        r"rank & number & method & miou & message \\",
        r"\midrule",
        r"1 & 0 & a|b\_<c> & 0.2500 &  \\",
    ]
    # No codes of a terminal come through from an error message.
    for format in ("table", "markdown", "latex"):
        assert "\x1b" not in call(*shown, format)[1]
    assert "\x1b" not in call("show", exp, "1")[1]


def test_several_experiments_on_the_command_line(call, folder: Path, tmp_path: Path) -> None:
    other = make(tmp_path / "other", [{"curve": [0.1, 0.9]}], "other")
    code, text, _ = call("leaderboard", folder, other, "--format", "json", "--top", "1")
    assert (code, json.loads(text)[0]["experiment"]) == (0, "other")
    code, text, _ = call("compare", folder, other)
    assert code == 0
    for said in ("experiment", "tiny", "other", "equal epochs: 2 epochs", "scores are not comparable"):
        assert said in text
    edge = make(tmp_path / "edge", [{"curve": [0.1]}], "edge", metric="edge_miou")
    code, _, err = call("compare", folder, edge)
    assert (code, f"{folder} maximised miou, {edge} maximised edge_miou" in err) == (2, True)


def test_compare_says_what_may_be_read_into_it(call, folder: Path) -> None:
    code, text, _ = call("compare", folder)
    assert code == 0
    for said in ("equal epochs: 4 epochs", "equal GPU-seconds: 8 GPU-seconds", "spread of a single run"):
        assert said in text
    code, text, _ = call("compare", folder, "--methods", "bpkd,kd", "--format", "csv")
    assert set(pd.read_csv(StringIO(text))["method"]) == {"bpkd", "kd"}
    code, _, err = call("compare", folder, "--methods", "kd, skd")
    assert (code, "got 'skd', valid: " in err) == (2, True)


def test_show_tells_everything_about_a_trial(call, folder: Path) -> None:
    code, text, _ = call("show", folder)
    assert code == 0
    for said in ("rank 1 of 10 by miou", "state", "loss.edge_weight", "epochs", "edge_weight: "):
        assert said in text
    record = json.loads(call("show", folder, "tiny-00002", "--format", "json")[1])
    assert (record["number"], record["method"], record["config"]["loss"]["method"]) == (2, "cwd", "cwd")
    assert [report["epoch"] for report in record["reports"]] == [1, 2, 3, 4]
    assert record["reports"][0]["loss_terms"] == {"ce": 1.0}
    assert json.loads(call("show", folder, "2", "--format", "json")[1]) == record
    for wrong in ("99", "../x", "²"):
        code, _, err = call("show", folder, wrong)
        assert (code, f"has no trial {wrong!r}; valid: best, a trial_id, or a number (0 to 9)" in err) == (2, True)


def test_importance_on_the_command_line(call, tmp_path: Path) -> None:
    points = [{"loss.edge_width": 3 + 2 * (n % 5), "loss.edge_weight": 1.0} for n in range(30)]
    exp = make(tmp_path / "exp", [{"curve": [0.01 * point["loss.edge_width"]], "point": point} for point in points])
    code, text, _ = call("importance", exp)
    assert code == 0
    for said in ("by the model of 30 trials", "rest of 30 searched trials", "below 50 trials it means little"):
        assert said in text
    code, text, _ = call("importance", exp, "--format", "csv")
    assert pd.read_csv(StringIO(text))["parameter"].tolist() == ["loss.edge_width", "loss.edge_weight"]


def test_a_damaged_part_is_a_line_and_no_end(call, folder: Path) -> None:
    (folder / "trials" / "part-000001.parquet").write_bytes(b"nothing")
    code, text, err = call("leaderboard", folder, "--format", "csv")
    assert (code, len(text.splitlines())) == (0, 11)
    assert err.startswith(f"warning: {folder}/trials/part-000001.parquet: is damaged and skipped: ")
    assert len(err.splitlines()) == 1


def test_watch_ends_when_no_trial_runs(call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exp = make(tmp_path / "exp", [{"curve": [0.1], "state": "RUNNING"}])
    looks = []

    def look(seconds: float) -> None:
        looks.append(seconds)
        if len(looks) == 2:
            recorder = Recorder(exp, "exp", {"loss.edge_width": "int", "loss.edge_weight": "float"}, "0")
            recorder.record("end", 0, state="COMPLETE")
            recorder.close()

    monkeypatch.setattr("bpkd_search.show.leaderboard.time.sleep", look)
    code, text, _ = call("leaderboard", exp, "--watch")
    assert (code, len(looks)) == (0, 3)
    assert "COMPLETE" in text
    code, _, err = call("leaderboard", exp, "--watch", "--format", "csv")
    assert (code, "--watch: draws a table" in err) == (2, True)


def test_exported_settings_are_valid_runs_and_are_not_overwritten(call, folder: Path, tmp_path: Path) -> None:
    code, out, _ = call("export", folder, "--top", "3", "--out", tmp_path / "best")
    assert code == 0
    files = [Path(line) for line in out.splitlines()]
    assert len(files) == 3
    assert call("validate", *files)[0] == 0
    assert yaml.safe_load(files[0].read_text())["provenance"]["rank"] == 1
    before = files[0].read_text()
    code, _, err = call("export", folder, "--top", "3", "--out", tmp_path / "best")
    assert (code, "exists already" in err, files[0].read_text()) == (2, True, before)


def test_a_trained_student_is_exported_and_put_to_work(call, space: Path, tmp_path: Path) -> None:
    assert call("train", space, "--out", tmp_path / "run", "--set", "train.epochs=1")[0] == 0
    formats = ["--format", "safetensors", "--format", "card"]
    code, out, _ = call("export", tmp_path / "run", "--out", tmp_path / "best", *formats)
    assert (code, out) == (0, f"{tmp_path}/best/trained.md\n{tmp_path}/best/trained.safetensors\n")
    Image.new("RGB", (50, 40), (90, 120, 200)).save(tmp_path / "photo.jpg")
    asked = ["predict", tmp_path / "best" / "trained.safetensors", tmp_path / "photo.jpg", "--out", tmp_path / "masks"]
    code, out, _ = call(*asked)
    assert (code, [Path(line).name for line in out.splitlines()]) == (0, ["photo_mask.png", "photo_overlay.png"])
    assert Image.open(tmp_path / "masks" / "photo_mask.png").size == (50, 40)
    code, _, err = call(*asked)
    assert (code, "photo_mask.png: exists already" in err) == (2, True)
    code, _, err = call("export", tmp_path / "run", "--out", tmp_path / "best", "--format", "xml")
    assert (code, "got 'xml', valid: yaml, json" in err) == (2, True)


def test_a_student_that_a_search_did_not_keep(call, folder: Path, tmp_path: Path) -> None:
    code, _, err = call("export", folder, "--out", tmp_path / "best", "--format", "torch", "--format", "yaml")
    assert (code, "was not kept" in err, (tmp_path / "best").exists()) == (2, True, False)


def test_folders_that_are_no_experiment(call, tmp_path: Path) -> None:
    for command in (["leaderboard"], ["resume"], ["export", "--out", tmp_path / "o"]):
        code, _, err = call(command[0], tmp_path, *command[1:])
        assert (code, f"{tmp_path}: is not an experiment directory" in err) == (2, True)


def test_train_writes_a_run_and_refuses_to_overwrite_it(call, space: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    code, said, _ = call("train", space, "--out", out, "--set", "train.epochs=2")
    assert code == 0
    assert sorted(p.name for p in out.iterdir()) == [
        "config.yaml",
        "history.csv",
        "metrics.json",
        "student.safetensors",
    ]
    metrics = json.loads((out / "metrics.json").read_text())
    history = pd.read_csv(out / "history.csv")
    assert history["epoch"].tolist() == [1, 2]
    assert metrics["miou"] == pytest.approx(history["miou"].iloc[-1])
    assert f"miou {metrics['miou']:.4f}" in said
    code, _, err = call("train", space, "--out", out)
    assert (code, "holds a finished run" in err) == (2, True)


def test_a_training_that_was_cut_continues_to_the_same_weights(
    call, space: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bpkd_search.training.distill import Distillation

    assert call("train", space, "--out", tmp_path / "whole")[0] == 0
    original = Distillation.train_epoch

    def cut(self: Distillation, *arguments: Any) -> dict[str, Any]:
        if self.epoch == 2 and self.settings.epochs == 4:
            raise KeyboardInterrupt
        return original(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Distillation, "train_epoch", cut)
        assert call("train", space, "--out", tmp_path / "cut")[0] == 130
    code, _, err = call("train", space, "--out", tmp_path / "cut")
    assert (code, "resumes after epoch 2" in err) == (0, True)
    files = [(tmp_path / name / "student.safetensors").read_bytes() for name in ("whole", "cut")]
    assert files[0] == files[1]


def test_the_teacher_is_trained_once_and_then_only_shown(call, space: Path) -> None:
    code, first, err = call("teacher", space, "--set", "teacher.train.seed=9")
    assert (code, "teacher: epoch 2/2" in err) == (0, True)
    code, second, err = call("teacher", space, "--set", "teacher.train.seed=9")
    assert (code, second, "epoch 2/2" in err) == (0, first, False)
    assert "val mIoU" in err


def camvid(root: Path) -> Path:
    for split in ("train", "val"):
        (root / split).mkdir(parents=True)
        (root / f"{split}annot").mkdir()
        for index in range(4):
            image = np.random.default_rng(index).integers(0, 255, (48, 64, 3), dtype=np.uint8)
            Image.fromarray(image).save(root / split / f"f{index}.png")
            Image.fromarray(np.full((48, 64), index, np.uint8)).save(root / f"{split}annot" / f"f{index}.png")
    return root


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:120])


DAMAGE = [
    (lambda r: shutil.rmtree(r), "no such directory"),
    (lambda r: (r / "trainannot" / "f2.png").unlink(), "f2"),
    (lambda r: (r / "train" / "f1.png").unlink(), "f1"),
    (lambda r: Image.new("L", (10, 10)).save(r / "valannot" / "f0.png"), "f0.png"),
    (lambda r: Image.new("L", (64, 48), 77).save(r / "trainannot" / "f3.png"), "77"),
    (lambda r: truncate(r / "train" / "f2.png"), "f2.png"),
]


@pytest.mark.parametrize(("damage", "said"), DAMAGE, ids=["no folder", "no mask", "no image", "size", "id", "cut"])
def test_damaged_data_is_named(call, tiny: dict[str, Any], tmp_path: Path, damage, said: str) -> None:
    root = camvid(tmp_path / "data")
    damage(root)
    tiny["data"] = {"kind": "camvid", "root": str(root), "crop": [32, 48], "resize": [32, 48], "views": 8}
    code, _, err = call("train", write(tmp_path / "c.yaml", tiny), "--out", tmp_path / "o")
    assert code == 2
    assert said in err.split("error:")[1]


def test_a_data_root_that_is_not_given_says_how_to_give_it(
    call, tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("BPKD_CAMVID", raising=False)
    tiny["data"] = {"kind": "camvid", "crop": [32, 48], "resize": [32, 48], "views": 8}
    code, _, err = call("train", write(tmp_path / "c.yaml", tiny), "--out", tmp_path / "o")
    assert code == 2
    assert "--set data.root=DIR or in the environment variable BPKD_CAMVID" in err


@pytest.mark.parametrize("kind", ["classes", "head", "pickle"])
def test_a_teacher_that_cannot_be_loaded_completely_is_refused(call, space: Path, tmp_path: Path, kind: str) -> None:
    path = tmp_path / ("t.pt" if kind == "pickle" else "t.safetensors")
    if kind == "pickle":
        torch.save({"state_dict": shutil.rmtree}, path)
    else:
        save_weights(
            path,
            Segmentor(
                "mobilenetv3_small_050",
                3 if kind == "classes" else 8,
                head="fcn" if kind == "head" else "fpn",
                channels=16,
            ),
        )
    said = {"classes": "classifier.weight is [3, 16, 1, 1]", "head": "keys missing: head.", "pickle": "rejected"}[kind]
    code, _, err = call("train", space, "--out", tmp_path / "o", "--set", f"teacher.checkpoint={path}")
    assert code == 2
    assert str(path) in err and said in err


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without GPUs")
def test_more_gpus_than_there_are(call, space: Path, tmp_path: Path) -> None:
    code, _, err = call("run", space, "--out", tmp_path / "o", "--set", "search.resources.gpus=3")
    assert code == 2
    assert "search.resources.gpus: got 3 a trial, there are 0 GPU(s)" in err
    assert not (tmp_path / "o").exists()  # the same line can run again once mended


def test_alpha_for_another_number_of_classes_is_refused(call, space: Path, tmp_path: Path) -> None:
    code, _, err = call("train", space, "--out", tmp_path / "o", "--set", "loss.alpha=[1, 2, 3]")
    assert (code, "loss.alpha: got 3 numbers, must be one, or one for each of 8 classes" in err) == (2, True)
    assert call("train", space, "--out", tmp_path / "o", "--set", "train.epochs=1")[0] == 0


def test_an_unknown_encoder_is_refused_with_what_comes_close(call, space: Path, tmp_path: Path) -> None:
    code, _, err = call("train", space, "--out", tmp_path / "o", "--set", "student.encoder=resnet_18")
    assert code == 2
    assert "got 'resnet_18'" in err and "resnet18" in err


@pytest.mark.parametrize("command", ["validate", "run", "teacher", "views", "train"])
def test_a_misspelt_encoder_is_refused_before_anything_is_made(call, space: Path, tmp_path: Path, command: str) -> None:
    out = tmp_path / "o"
    folder = ["--out", out] if command in ("run", "train") else []
    views = ["--set", f"data.views_dir={tmp_path}/views"]
    code, printed, err = call(command, space, *folder, *views, "--set", "student.encoder=mobilenetv3_smal_050")
    assert (code, printed) == (2, "")
    assert "student.encoder: got 'mobilenetv3_smal_050'" in err and "did you mean mobilenetv3_small_050" in err
    assert not (out / "events.jsonl").exists() and not (tmp_path / "views").exists()


@pytest.mark.parametrize("name", ["2026", "no", "1e3", "12.30"])
def test_a_name_is_text_whatever_it_looks_like(call, space: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    names = []

    def search(config: SearchConfig, *_: Any, **__: Any) -> SimpleNamespace:
        names.append(config.name)
        return SimpleNamespace(raced=False)

    monkeypatch.setattr("bpkd_search.cluster.driver.run_search", search)
    monkeypatch.setattr("bpkd_search.show.leaderboard.show_leaderboard", lambda *_: None)
    assert call("run", space, "--name", name)[0] == 0
    assert names == [name]


def test_a_disk_without_room_is_refused_before_anything_is_made(
    call, space: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=2**20))
    code, _, err = call("run", space, "--out", tmp_path / "o")
    assert code == 2
    assert "the disk has 1 MiB free" in err


@pytest.fixture(params=["a file", "read-only"])
def unwritable(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A place where nothing can be created: a file, and a read-only file system where one can be mounted."""
    path = tmp_path / "place"
    if request.param == "a file":
        path.write_text("")
        yield path
        return
    path.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(path)], capture_output=True).returncode:
        pytest.skip("needs the right to mount a read-only tmpfs")
    yield path
    subprocess.run(["umount", str(path)], check=True)


@pytest.mark.parametrize(
    "command",
    [
        "show-edges SPACE --out PLACE/edges.png",
        "leaderboard FOLDER --format csv --out PLACE/board.csv",
        "leaderboard FOLDER --format parquet --out PLACE/board.parquet",
        "compare FOLDER --format json --out PLACE/compared.json",
        "report FOLDER --panels 0 --out PLACE/report.html",
        "export FOLDER --out PLACE/best",
        "export FOLDER --format card --out PLACE/best",
        "simulate SPACE --table FOLDER --seeds 1 --picture PLACE/x.png",
        "train SPACE --out PLACE/run",
        "run SPACE --out PLACE/exp",
        "teacher SPACE --set data.views_dir=PLACE/views",
        "views SPACE --set data.views_dir=PLACE/views",
        "spaces copy camvid --out PLACE/mine.yaml",
    ],
)
def test_a_place_that_cannot_be_written_is_one_line_with_its_path(
    call, space: Path, folder: Path, unwritable: Path, command: str
) -> None:
    for name, extra in (("report", "plotly"), ("simulate", "matplotlib")):
        if command.startswith(name):
            pytest.importorskip(extra)
    known = {"SPACE": str(space), "FOLDER": str(folder), "PLACE": str(unwritable)}
    words = [re.sub("SPACE|FOLDER|PLACE", lambda found: known[found[0]], word) for word in command.split()]
    code, _, err = call(*words)
    error = err[err.index("error: ") :]
    assert code == 2
    assert str(unwritable) in error and len(error.splitlines()) == 1 and ".partial" not in error
    assert re.search("Not a directory|File exists|Read-only file system", error)


def test_losses_lists_every_method_with_defaults_and_sources(call) -> None:
    code, out, _ = call("losses")
    assert code == 0
    for said in ("bpkd: ", "edge_width=7", "arXiv 2306.08075", "cirkd: ", "teacher features", "published: "):
        assert said in out


def test_show_edges_draws_a_space_and_keeps_what_is_there(call, space: Path, tmp_path: Path) -> None:
    out = tmp_path / "edges.png"
    assert call("show-edges", space, "--out", out, "--images", "2", "--width", "3,5") == (0, f"{out}\n", "")
    # Three columns of 320 pixels, more than two rows of images of 32x48 drawn at that width.
    assert Image.open(out).size[0] > 3 * 288
    code, _, err = call("show-edges", space, "--out", out)
    assert (code, "exists already" in err) == (2, True)
    code, _, err = call("show-edges", space, "--out", tmp_path / "e.png", "--width", "4")
    assert (code, "width: got 4, must be an odd integer" in err) == (2, True)
    code, _, err = call("show-edges", tmp_path, "--out", tmp_path / "e.png")
    assert (code, "known layout" in err) == (2, True)
