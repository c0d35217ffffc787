"""The command line: what people type, what they read, and exit code 2 without a traceback for what they can mend."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image

from bpkd_search import cli
from bpkd_search.config import SearchConfig
from bpkd_search.config.load import parse
from bpkd_search.models import Segmentor, save_weights
from bpkd_search.search import experiment
from bpkd_search.search.engine import Engine

from .search.simulate import drive


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Call the command line in this process: exit code, standard output, standard error."""

    def run(*arguments: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["bpkd-search", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        out, err = capsys.readouterr()
        return int(stop.value.code or 0), out, err

    return run


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
    rows = pd.read_csv(__import__("io").StringIO(text))
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


def test_folders_that_are_no_experiment(call, tmp_path: Path) -> None:
    for command in (["leaderboard"], ["resume"], ["export", "--out", tmp_path / "o"]):
        code, _, err = call(command[0], tmp_path, *command[1:])
        assert (code, f"{tmp_path}: is no experiment folder" in err) == (2, True)


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
    from bpkd_search.distill import Distillation

    assert call("train", space, "--out", tmp_path / "whole")[0] == 0
    original = Distillation.train_epoch

    def cut(self: Distillation) -> dict[str, Any]:
        if self.epoch == 2 and self.settings.epochs == 4:
            raise KeyboardInterrupt
        return original(self)

    with monkeypatch.context() as patch:
        patch.setattr(Distillation, "train_epoch", cut)
        assert call("train", space, "--out", tmp_path / "cut")[0] == 130
    code, _, err = call("train", space, "--out", tmp_path / "cut")
    assert (code, "continues after epoch 2" in err) == (0, True)
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
    (lambda r: shutil.rmtree(r), "no such folder"),
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
    tiny["data"] = {"kind": "camvid", "root": str(root), "height": 32, "width": 48}
    code, _, err = call("train", write(tmp_path / "c.yaml", tiny), "--out", tmp_path / "o")
    assert code == 2
    assert said in err.split("error:")[1]


def test_a_data_root_that_is_not_given_says_how_to_give_it(
    call, tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("BPKD_CAMVID", raising=False)
    tiny["data"] = {"kind": "camvid", "height": 32, "width": 48}
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
    said = {"classes": "classifier.weight is [3, 16, 1, 1]", "head": "keys missing: head.", "pickle": "refused"}[kind]
    code, _, err = call("train", space, "--out", tmp_path / "o", "--set", f"teacher.checkpoint={path}")
    assert code == 2
    assert str(path) in err and said in err


def test_more_gpus_than_there_are(space: Path, tmp_path: Path) -> None:
    # In a process of its own: Ray starts for this.
    if torch.cuda.is_available():
        pytest.skip("needs a machine without GPUs")
    command = [sys.executable, "-m", "bpkd_search", "run", str(space), "--out", str(tmp_path / "o")]
    done = subprocess.run([*command, "--set", "search.resources.gpus=3"], capture_output=True, text=True, timeout=200)
    assert done.returncode == 2
    assert "search.resources.gpus: got 3 a trial, there are 0 GPU(s)" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "o").exists()  # the same line can run again once mended


def test_alpha_for_another_number_of_classes_is_refused(call, space: Path, tmp_path: Path) -> None:
    code, _, err = call("train", space, "--out", tmp_path / "o", "--set", "loss.alpha=[1, 2, 3]")
    assert (code, "loss.alpha: got 3 numbers, must be one, or one for each of 8 classes" in err) == (2, True)
    assert call("train", space, "--out", tmp_path / "o", "--set", "train.epochs=1")[0] == 0


def test_an_unknown_encoder_is_refused_with_what_comes_close(call, space: Path, tmp_path: Path) -> None:
    code, _, err = call("train", space, "--out", tmp_path / "o", "--set", "student.encoder=resnet_18")
    assert code == 2
    assert "got 'resnet_18'" in err and "resnet18" in err


def test_a_disk_without_room_is_refused_before_anything_is_made(
    call, space: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=2**20))
    code, _, err = call("run", space, "--out", tmp_path / "o")
    assert code == 2
    assert "the disk has 1 MiB free" in err


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
