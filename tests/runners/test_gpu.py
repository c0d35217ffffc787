"""The command for a GPU, in a tiny form on a CPU: parts run, failures stay apart, and verdicts are right."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

BENCH = Path(__file__).resolve().parents[2] / "runners" / "bench"


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCH))
    return importlib.import_module("gpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu_it_says_so_and_measures_nothing(
    gpu: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert gpu.main(["--out", str(tmp_path / "figures")]) == 2
    said = capsys.readouterr().err
    assert said.startswith("gpu: this machine has no GPU") or said.startswith("gpu: PyTorch")
    assert said.count("\n") == 1 and "nothing was measured" in said
    assert not (tmp_path / "figures").exists()


def test_steps_and_packing_in_a_tiny_form(gpu: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.main(["--out", str(tmp_path), "--device", "cpu", "--tiny", "--parts", "step", "packing"]) == 0
    step = json.loads((tmp_path / "step-32x48.json").read_text())["rows"]
    assert {"bare", "bpkd", "bpkd, maps", "bpkd, online teacher"} <= set(step)
    packing = json.loads((tmp_path / "packing.json").read_text())
    assert packing and all(each["images_per_second"] > 0 for each in packing)
    verdict = json.loads((tmp_path / "verdict.json").read_text())
    target = verdict["targets"]["step, stored teacher, over the bare step"]
    assert target["reached"] == max(step[name]["ratio"] for name in ("kd", "cwd", "bpkd"))
    assert target["met"] == (target["reached"] <= 1.05)
    assert verdict["targets"]["trials an hour over plain Ray"]["met"] is None
    assert "not measured" in capsys.readouterr().out


@pytest.mark.long
def test_the_search_in_a_tiny_form(gpu: ModuleType, tmp_path: Path) -> None:
    assert gpu.main(["--out", str(tmp_path), "--device", "cpu", "--tiny", "--parts", "search", "tests"]) == 0
    verdict = json.loads((tmp_path / "verdict.json").read_text())["targets"]
    figures = json.loads((tmp_path / "search.json").read_text())
    assert verdict["trials an hour over plain Ray"]["reached"] == figures["ratios"]["trials_an_hour"]


def test_a_part_that_fails_or_hangs_leaves_the_others(
    gpu: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = {
        "step": ["raise SystemExit(3)"],
        "packing": ["import time; time.sleep(60)"],
        "search": ["open('here', 'w').write('done')"],
    }
    monkeypatch.setattr(gpu, "ROOT", tmp_path)
    monkeypatch.setattr(gpu, "LIMITS", {"step": 20, "packing": 2, "search": 20})
    monkeypatch.setattr(gpu, "commands", lambda part, options: [[sys.executable, "-c", code] for code in lines[part]])
    options = argparse.Namespace(out=tmp_path, device="cuda")
    outcomes = [gpu.run_part(part, options)["outcome"] for part in lines]
    assert outcomes == ["failed with exit code 3; see step.log", "stopped after 2 s", "done"]
    assert (tmp_path / "here").read_text() == "done"


def test_verdicts_compare_with_the_targets(gpu: ModuleType, tmp_path: Path) -> None:
    rows = {"bare": {"ratio": 1.0}, "kd": {"ratio": 1.02}, "cwd": {"ratio": 1.01}, "bpkd": {"ratio": 1.09}}
    (tmp_path / "step-120x160.json").write_text(json.dumps({"rows": rows}))
    (tmp_path / "search.json").write_text(json.dumps({"ratios": {"trials_an_hour": 3.4, "share_of_bound": 0.8}}))
    found = gpu.verdicts(tmp_path, 0.0)
    assert [each["met"] for each in found.values()] == [False, True, False, True]
