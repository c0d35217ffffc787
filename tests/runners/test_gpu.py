"""The command for a GPU, in a tiny form on a CPU: parts run, failures stay apart, and verdicts are right."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from xml.etree import ElementTree

import pyarrow.parquet as pq
import pytest
import torch
from torch.autograd import DeviceType

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
    losses = [*("ce", "kd", "cwd", "bpkd", "bpkd, online teacher")]
    modes = [f"{name}{mode}" for mode in ("", ", compiled", ", graphs") for name in losses]
    assert set(step) == {"bare", "bare, new crops", "bpkd, maps", *modes}
    packing = json.loads((tmp_path / "packing.json").read_text())
    assert packing and all(each["images_per_second"] > 0 for each in packing)
    verdict = json.loads((tmp_path / "verdict.json").read_text())
    target = verdict["targets"]["step, stored teacher, over the bare step"]
    assert target["reached"] == max(step[name]["ratio"] for name in ("kd", "cwd", "bpkd"))
    assert target["met"] == (target["reached"] <= 1.05)
    assert verdict["targets"]["trials an hour over plain Ray with --reuse"]["met"] is None
    shown = capsys.readouterr().out
    row = next(line.split() for line in shown.splitlines() if line.startswith("bpkd  "))
    assert row[1:] == [f"{step[f'bpkd{mode}']['ms_a_step']:.2f}" for mode in ("", ", compiled", ", graphs")]
    assert "images a second: 1 at once" in shown or "images a second: 2 at once" in shown
    assert "not measured" in shown


@pytest.mark.long  # three searches on Ray, with a process for each trial of one of them
def test_tests_and_search_in_a_tiny_form(gpu: ModuleType, tmp_path: Path) -> None:
    assert gpu.main(["--out", str(tmp_path), "--device", "cpu", "--tiny", "--parts", "tests", "search"]) == 0
    found = json.loads((tmp_path / "verdict.json").read_text())
    figures = json.loads((tmp_path / "search.json").read_text())
    ours, plain, reused = (figures[side] for side in ("this_tool", "plain_ray", "plain_ray_reused"))
    assert ours["trials"] == plain["trials"] == reused["trials"] == 5, "four baselines and one setting"
    assert reused["best_miou"] == plain["best_miou"], "what is kept changes nothing"
    assert ours["epochs"] == plain["epochs"] == reused["epochs"] == 10, "nothing is stopped"
    ratios = figures["ratios"]
    assert ratios["trials_an_hour"] == pytest.approx(plain["seconds"] / ours["seconds"])
    assert ratios["share_of_bound"] == pytest.approx(ratios["epochs_an_hour_between"] / ratios["bound"])
    assert ratios["bound"] > 1
    over_reused = found["targets"]["trials an hour over plain Ray with --reuse"]["reached"]
    assert over_reused == figures["ratios"]["trials_an_hour_over_reused"]
    assert over_reused == pytest.approx(reused["seconds"] / ours["seconds"])
    assert {each["outcome"] for each in found["parts"].values()} == {"done"}
    assert json.loads((tmp_path / "left.json").read_text()) == {"mib": None}
    suite = ElementTree.parse(tmp_path / "tests.xml").getroot().find("testsuite")
    assert suite is not None and int(suite.get("tests", 0)) > 20, "those of a GPU"


@pytest.mark.long
def test_a_table_is_recorded_until_the_time_is_up_and_goes_on(
    gpu: ModuleType, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    line = ["--out", str(tmp_path), "--device", "cpu", "--tiny", "--hours"]
    assert gpu.main([*line, "0.002"]) == 0
    assert "the time is up; the same command goes on" in capfd.readouterr().out
    assert not (tmp_path / "camvid-360x480.parquet").exists()
    assert gpu.main([*line, "1"]) == 0
    table = pq.read_table(tmp_path / "camvid-360x480.parquet").to_pandas()
    assert table.groupby("seed")["setting"].nunique().to_dict() == {0: 2, 1: 2, 2: 2}
    assert len(table) == 3 * 2 * 2 and table["miou"].between(0, 1).all()


def test_a_table_needs_camvid(
    gpu: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("BPKD_CAMVID", raising=False)
    with pytest.raises(SystemExit):
        gpu.main(["--out", str(tmp_path), "--device", "cpu", "--hours", "1"])
    assert "--hours: needs CamVid" in capsys.readouterr().err


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
    (tmp_path / "search.json").write_text(json.dumps({"this_tool": {}}))
    assert [each["met"] for each in gpu.verdicts(tmp_path, 0.0).values()] == [False, None, None, True]
    ratios = {"trials_an_hour": 5.0, "trials_an_hour_over_reused": 3.4, "share_of_bound": 0.8}
    (tmp_path / "search.json").write_text(json.dumps({"ratios": ratios}))
    found = gpu.verdicts(tmp_path, 0.0)
    assert [each["met"] for each in found.values()] == [False, True, False, True]


def test_launches_are_calls_of_the_host_and_operations_work_of_the_gpu(gpu: ModuleType) -> None:
    step = importlib.import_module("step")
    host = ["cudaLaunchKernel", "cuLaunchKernelEx", "cudaGraphLaunch_v10000", "cudaMemcpyAsync", "cudaMemsetAsync",
            "cudaStreamSynchronize", "cudaEventRecord", "aten::launch"]  # fmt: skip
    events = [SimpleNamespace(name=name, device_type=DeviceType.CPU) for name in host]
    events += [SimpleNamespace(name="sgemm", device_type=DeviceType.CUDA)] * 40
    assert step.counted(events) == {"launches_a_step": 5, "operations_a_step": 40}
