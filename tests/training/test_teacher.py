"""The cache of trained teachers: two processes, killed ones, and damaged files."""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from bpkd_search.config import SearchConfig
from bpkd_search.config.load import parse
from bpkd_search.config.models import RunConfig
from bpkd_search.config.points import run_at
from bpkd_search.data.views import ViewStore
from bpkd_search.errors import CheckpointError
from bpkd_search.losses.methods import Ce
from bpkd_search.models import save_weights
from bpkd_search.models.build import build_model
from bpkd_search.training import teacher
from bpkd_search.training.distill import Distillation
from bpkd_search.training.evaluation import evaluate
from bpkd_search.training.forms import Form
from bpkd_search.training.inputs import prepare_views
from bpkd_search.training.teacher import FrozenTeacher, open_teacher, prepare_teacher
from tests.test_files import ROOT, wait_for

# Prints what it is told; stops after the first epoch until the file `go` exists.
PROCESS = """
import json, sys, time
from pathlib import Path
import torch
from bpkd_search.config.load import parse
from bpkd_search.config.models import RunConfig
from bpkd_search.training.forms import Form
from bpkd_search.training.inputs import prepare_views
from bpkd_search.training.teacher import prepare_teacher

torch.set_num_threads(1)
folder = Path(sys.argv[1])
run = parse(RunConfig, json.loads((folder / "run.json").read_text()), "test")

def say(line):
    print(line, flush=True)
    if "epoch 1/" in line:
        (folder / "trains").touch()
        while not (folder / "go").exists():
            time.sleep(0.02)
    if "another process" in line:
        (folder / "waits").touch()

path, scores = prepare_teacher(run, prepare_views(run.data, Form(2, "stored"), lambda line: None), say)
print(json.dumps([str(path), scores]))
"""


@pytest.fixture
def run(tiny: dict[str, Any], tmp_path: Path) -> RunConfig:
    """A run with a cache of its own, and its configuration in `run.json`."""
    tiny["data"]["views_dir"] = str(tmp_path / "cache")
    tiny["train"]["device"] = tiny["teacher"]["train"]["device"] = "cpu"
    config = parse(SearchConfig, tiny, "test").run()
    (tmp_path / "run.json").write_text(config.model_dump_json())
    return config


@pytest.fixture
def store(run: RunConfig) -> ViewStore:
    return prepare_views(run.data, Form(2, "stored"), lambda line: None)


def scores_file(teacher: Path) -> Path:
    (file,) = teacher.parent.glob(f"{teacher.stem}-*.json")
    return file


def process(folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PROCESS, str(folder)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)


def test_two_processes_train_a_teacher_once_and_agree(run: RunConfig, store: ViewStore, tmp_path: Path) -> None:
    first = process(tmp_path)
    wait_for((tmp_path / "trains").exists)
    second = process(tmp_path)
    try:
        wait_for((tmp_path / "waits").exists)
    finally:
        (tmp_path / "go").touch()
    lines = [p.communicate(timeout=120)[0].splitlines() for p in (first, second)]
    assert (first.returncode, second.returncode) == (0, 0)
    assert [line for line in lines[1] if "epoch 1" in line] == []
    assert lines[1][0] == "teacher: another process is training it; waiting for it"
    assert sum("another process" in line for line in lines[1]) == 1
    assert lines[0][-1] == lines[1][-1]
    path = Path(json.loads(lines[0][-1])[0])
    assert sorted(p.suffix for p in path.parent.iterdir()) == [".json", ".lock", ".safetensors"]


def test_a_killed_process_blocks_nobody_and_its_teacher_is_continued(
    run: RunConfig, store: ViewStore, tmp_path: Path
) -> None:
    first = process(tmp_path)
    wait_for((tmp_path / "trains").exists)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    lines: list[str] = []
    prepare_teacher(run, store, lines.append)
    assert lines[0] == "teacher: resumes after epoch 1"
    assert [line.partition(",")[0] for line in lines[1:2]] == ["teacher: epoch 2/2"]


def test_damaged_scores_are_computed_again_and_weights_are_kept(
    run: RunConfig, store: ViewStore, tmp_path: Path
) -> None:
    path, scores = prepare_teacher(run, store, lambda line: None)
    file, before = scores_file(path), path.stat().st_mtime_ns
    whole = file.read_text()
    for damaged in (whole[: len(whole) // 2], "", "7", "{}", "\x00" * 40):
        file.write_text(damaged)
        again = prepare_teacher(run, store, lambda line: None)[1]
        assert again.keys() == scores.keys()
        for name, value in scores.items():
            assert again[name] == value or (math.isnan(again[name]) and math.isnan(value))
        assert file.read_text() == whole
    file.write_bytes(b"\xff\xfe")
    prepare_teacher(run, store, lambda line: None)
    assert file.read_text() == whole
    assert path.stat().st_mtime_ns == before


def test_each_way_of_evaluation_has_its_own_scores_of_one_teacher(run: RunConfig, store: ViewStore) -> None:
    path, scores = prepare_teacher(run, store, lambda line: None)
    slide = run_at(run, {"data.eval": {"mode": "slide", "crop": [32, 32]}})
    lines: list[str] = []
    found, other = prepare_teacher(slide, store, lines.append)
    assert found == path and len(lines) == 1 and other["accuracy"] != scores["accuracy"]
    teacher = open_teacher(slide, store.class_names, path, torch.device("cpu"))
    assert other == pytest.approx(
        evaluate(teacher, store, torch.device("cpu"), slide.data.evaluation).as_dict(), nan_ok=True
    )
    assert prepare_teacher(run, store, lambda line: None)[1] == pytest.approx(scores, nan_ok=True)


def test_a_finished_teacher_is_found_in_a_cache_that_cannot_be_locked(
    run: RunConfig, store: ViewStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, _ = prepare_teacher(run, store, lambda line: None)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("locked")

    monkeypatch.setattr("bpkd_search.training.teacher.cache_lock", refuse)
    assert prepare_teacher(run, store, lambda line: None)[0] == path


@pytest.mark.parametrize("kept", [0.0, 0.5, 0.99])
def test_a_truncated_checkpoint_of_the_teacher_starts_its_training_again(
    run: RunConfig, store: ViewStore, kept: float
) -> None:
    path, scores = prepare_teacher(run, store, lambda line: None)
    whole = path.read_bytes()
    path.unlink(), scores_file(path).unlink()
    training = Distillation(run.teacher, Ce(), run.teacher.train, store)
    checkpoint = path.with_suffix(".checkpoint.pt")
    training.save(checkpoint)
    data = checkpoint.read_bytes()
    checkpoint.write_bytes(data[: int(kept * len(data))])
    lines: list[str] = []
    assert prepare_teacher(run, store, lines.append)[1]["miou"] == scores["miou"]
    assert "is trained from the start" in lines[0]
    assert path.read_bytes() == whole


@pytest.mark.parametrize(
    ("amp", "size", "dtype"),
    [("auto", 1.0, torch.float16), ("off", 1.0, torch.float32), ("auto", 1e8, torch.float32)],
)
def test_logits_are_computed_in_float16_where_that_is_asked_for_and_enough(
    run: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, amp: str, size: float, dtype: torch.dtype
) -> None:
    run = run.model_copy(update={"train": run.train.model_copy(update={"amp": amp})})
    net = build_model(run.teacher, 3, 0).eval()
    with torch.no_grad():
        net.classifier.weight *= size
    save_weights(tmp_path / "net.safetensors", net, {})

    def autocast(device: torch.device, enabled: bool, *, dtype: torch.dtype) -> torch.autocast:
        return torch.autocast("cpu", dtype=dtype, enabled=enabled)  # as on a GPU

    monkeypatch.setattr(teacher, "autocast", autocast)
    images = torch.randint(0, 256, (2, 3, 32, 48), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    logits = FrozenTeacher(run, ("a", "b", "c"), tmp_path / "net.safetensors")(images)
    assert logits.dtype == dtype
    with torch.inference_mode():
        expected = net(images)
    torch.testing.assert_close(logits.float(), expected, rtol=0.02, atol=0.02 * expected.abs().max().item())
    assert torch.equal(logits, expected) == (dtype == torch.float32)


def test_a_damaged_file_of_the_cache_says_how_to_go_on(tiny: dict[str, Any], tmp_path: Path) -> None:
    run, path = parse(SearchConfig, tiny, "test").run(), tmp_path / "teacher.safetensors"
    path.write_bytes(b"no weights")
    with pytest.raises(CheckpointError, match=r"teacher\.safetensors: .*: delete it, and the next start trains") as e:
        teacher.open_teacher(run, [str(number) for number in range(8)], path, torch.device("cpu"))
    given = run.model_copy(update={"teacher": run.teacher.model_copy(update={"checkpoint": path})})
    with pytest.raises(CheckpointError) as own:
        teacher.open_teacher(given, [str(number) for number in range(8)], path, torch.device("cpu"))
    assert str(e.value).startswith(str(own.value)) and "delete" not in str(own.value)
