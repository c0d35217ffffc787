"""The trial actor in this process: reports, failures with reasons, and the way back from a checkpoint."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml

from bpkd_search import Leaderboard
from bpkd_search.cluster import node_start
from bpkd_search.cluster.connection import connect_ray
from bpkd_search.cluster.driver import run_on_ray
from bpkd_search.cluster.slots import PLACE, Slots
from bpkd_search.cluster.trial import DistillationTrial, TrialTask
from bpkd_search.config import RunConfig, SearchConfig
from bpkd_search.config.load import parse
from bpkd_search.config.points import run_at
from bpkd_search.experiment import folder as experiment
from bpkd_search.experiment.trial import Trial
from bpkd_search.machine import cpu_model
from bpkd_search.search.engine import Engine
from bpkd_search.training.distill import Distillation
from bpkd_search.training.prepare import Prepared, prepare
from bpkd_search.training.process_cache import ProcessCache
from bpkd_search.training.speed import step_seconds
from tests.driving import report_of


@pytest.fixture
def task(tiny: dict[str, Any], tmp_path: Path) -> TrialTask:
    run = parse(SearchConfig, tiny, "test").run()
    surroundings = TrialTask(str(tmp_path), prepare(run, lambda line: None), threads=1)
    return surroundings.at(Trial(7, "bpkd", "sampled", run))


def begin(task: TrialTask) -> DistillationTrial:
    # Through JSON and back, as it travels.
    return DistillationTrial(config=json.loads(json.dumps(task.to_dict())))


def report(result: dict[str, Any]) -> dict[str, Any]:
    return json.loads(result["report"])


def test_every_epoch_is_reported_and_the_last_one_is_done(task: TrialTask) -> None:
    trial = begin(task)
    results = [trial.step() for _ in range(4)]
    reports = [report(r) for r in results]
    assert [r["done"] for r in results] == [False, False, False, True]
    assert [r["epoch"] for r in reports] == [1, 2, 3, 4]
    seconds = [r["gpu_seconds"] for r in reports]
    assert seconds == sorted(seconds) and seconds[0] > 0
    assert all(r["wall_seconds"] >= r["gpu_seconds"] for r in reports)
    assert reports[-1]["parameters"] == trial.run.parameters
    iou = [v for v in reports[-1]["class_iou"] if v is not None]
    assert sum(iou) / len(iou) == pytest.approx(reports[-1]["miou"])
    assert task.student.is_file()


def test_a_second_trial_in_a_warm_actor_is_that_of_a_fresh_one(task: TrialTask, tmp_path: Path) -> None:
    warm = begin(task)
    warm.step()
    other = TrialTask.from_dict({**task.to_dict(), "number": 8})
    other.run["loss"]["edge_weight"] = 0.5
    assert warm.reset_config(other.to_dict())
    fresh = begin(TrialTask.from_dict({**other.to_dict(), "directory": str(tmp_path / "fresh")}))
    assert report(warm.step())["miou"] == report(fresh.step())["miou"]
    assert all(
        torch.equal(a, b)
        for a, b in zip(warm.run.student.state_dict().values(), fresh.run.student.state_dict().values(), strict=True)
    )


def test_a_trial_continues_from_its_checkpoint_and_counts_its_seconds(task: TrialTask) -> None:
    first = begin(task)
    one, two = report(first.step()), report(first.step())
    # The driver has both reports on record.
    values = {**task.to_dict(), "reported": 2, "wall_seconds": 50.0}
    second = begin(TrialTask.from_dict(values))
    three = report(second.step())
    assert three["epoch"] == 3
    assert three["gpu_seconds"] > two["gpu_seconds"] > one["gpu_seconds"]
    assert three["wall_seconds"] >= 50.0


def test_a_trial_tells_its_kind_of_device_and_its_share_and_times_a_new_kind_once(
    task: TrialTask, tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(tiny))
    timed = list[int]()

    def seconds(run: RunConfig, classes: int) -> float:
        timed.append(classes)
        return step_seconds(run, classes)

    monkeypatch.setattr(node_start, "step_seconds", seconds)
    values = json.loads(json.dumps(TrialTask.from_dict({**task.to_dict(), "experiment": str(tmp_path)}).to_dict()))
    first = report(DistillationTrial(config={**values, PLACE: {"gpus": 0.25}}).step())
    assert first["device"] == cpu_model() != ""
    # On the reference, seconds are those of the share of the device.
    assert 0 < first["gpu_seconds"] == first["calibrated_seconds"]
    steps = json.loads((tmp_path / "calibration.json").read_text())
    assert list(steps) == [cpu_model()] and timed == [open_classes(task)] and 0 < steps[cpu_model()] < 10

    # An experiment that has begun on a kind four times as slow.
    (tmp_path / "calibration.json").write_text(json.dumps({"T4": 4.0, cpu_model(): 1.0}))
    again = DistillationTrial(config={**values, "number": 8, PLACE: {"gpus": 0.25}})
    second, third = report(again.step()), report(again.step())
    assert second["calibrated_seconds"] == pytest.approx(4 * second["gpu_seconds"])
    assert third["calibrated_seconds"] == pytest.approx(4 * third["gpu_seconds"])
    images = sum(task.prepared.open().num_images / each["images_per_second"] for each in (second, third))
    assert third["gpu_seconds"] == pytest.approx(0.25 * images)
    assert len(timed) == 1


def open_classes(task: TrialTask) -> int:
    return task.prepared.open().num_classes


def test_on_a_node_without_the_experiments_folder_the_trial_is_not_over(task: TrialTask, tmp_path: Path) -> None:
    blind = TrialTask.from_dict({**task.to_dict(), "experiment": str(tmp_path / "elsewhere")})
    result = begin(blind).step()
    assert (result["failure"], result["done"]) == ("node", True)
    assert result["message"].startswith(f"{tmp_path}/elsewhere: the experiment folder is not seen by the node")


def test_a_report_that_was_lost_is_given_again_without_training(task: TrialTask) -> None:
    lost = report(begin(task).step())  # trained and saved, and the driver never heard
    again = report(begin(task).step())
    assert again == lost


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.7, 0.999, "zeros"])
def test_a_truncated_checkpoint_restarts_the_trial(task: TrialTask, tmp_path: Path, kept: float | str) -> None:
    first = begin(task)
    whole = [report(first.step()) for _ in range(4)]
    cut = TrialTask.from_dict({**task.to_dict(), "directory": str(tmp_path / "cut")})
    one = begin(cut)
    one.step(), one.step()
    data = cut.checkpoint.read_bytes()
    middle = len(data) // 2
    cut.checkpoint.write_bytes(
        data[: int(kept * len(data))] if isinstance(kept, float) else data[:middle] + bytes(len(data) - middle)
    )
    # The driver has both reports on record; those epochs come again, and end as they did.
    again = begin(TrialTask.from_dict({**cut.to_dict(), "reported": 2}))
    with pytest.warns(RuntimeWarning, match=r"is not a checkpoint of this configuration.*trial 7 starts again"):
        results = [again.step() for _ in range(4)]
    assert [r["done"] for r in results] == [False, False, False, True]
    assert [report(r)["epoch"] for r in results] == [1, 2, 3, 4]
    assert [report(r)["miou"] for r in results] == [r["miou"] for r in whole]
    assert all(
        torch.equal(a, b)
        for a, b in zip(again.run.student.state_dict().values(), first.run.student.state_dict().values(), strict=True)
    )


@pytest.mark.parametrize(
    ("error", "reason", "said"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nmore"), "oom", "Tried to allocate 2 GiB"),
        (MemoryError(), "oom", "out of memory"),
        (RuntimeError("shapes differ"), "error", "RuntimeError: shapes differ"),
    ],
)
def test_failures_are_reported_with_their_reason_and_the_actor_lives_on(
    task: TrialTask, monkeypatch: pytest.MonkeyPatch, error: Exception, reason: str, said: str
) -> None:
    def fail(self: Distillation, *_: Any) -> dict[str, Any]:
        raise error

    trial = begin(task)
    with monkeypatch.context() as patch:
        patch.setattr(Distillation, "train_epoch", fail)
        result = trial.step()
    assert (result["done"], result["failure"]) == (True, reason)
    assert said in result["message"]
    log = task.log.read_text()
    assert log.startswith("20") and f" trial 7 on {socket.gethostname()}, process {os.getpid()}\n" in log
    # The whole traceback, from the step down to the place of the error.
    assert "Traceback" in log and "in step" in log and "in fail" in log and type(error).__name__ in log
    trial.reset_config({**task.to_dict(), "number": 9})
    assert report(trial.step())["epoch"] == 1


def test_a_process_that_cuda_has_failed_in_is_left(task: TrialTask, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Distillation, *_: Any) -> dict[str, Any]:
        raise RuntimeError("CUDA error: device-side assert triggered\nmore")

    def never(self: ProcessCache) -> int:
        raise AssertionError("every call of CUDA fails now")

    trial = begin(task)
    monkeypatch.setattr(Distillation, "train_epoch", fail)
    # Ray Tune ends the actor of a trial that raises, and starts another one for the next.
    with pytest.raises(RuntimeError, match="device-side assert"):
        trial.step()
    assert "device-side assert" in task.log.read_text() and "in fail" in task.log.read_text()
    monkeypatch.setattr(ProcessCache, "release", never)
    trial.cleanup()


class Poisoned(DistillationTrial):
    """A trial that trains nothing; CUDA fails in trial 1. Its report names its process."""

    def _epoch(self) -> dict[str, Any]:
        if self.task.number == 1:
            raise RuntimeError("CUDA error: device-side assert triggered")
        self.run = SimpleNamespace(finished=True)  # type: ignore[assignment]
        return {**report_of(Trial(self.task.number, "x", "x", None), 1, 0.5), "node": str(os.getpid()), "final": True}

    def _save(self, report: dict[str, Any]) -> dict[str, Any]:
        return report


@pytest.mark.long
def test_ray_replaces_a_process_that_cuda_has_failed_in(tiny: dict[str, Any], tmp_path: Path) -> None:
    tiny["train"]["epochs"] = 1
    tiny["search"] = {"trials": 1, "scheduler": {"name": "none"}, "concurrent": 1}
    config = parse(SearchConfig, tiny, "test")
    experiment.create(tmp_path / "e", config)
    engine = Engine(config, tmp_path / "e", "test")
    surroundings = TrialTask(str(tmp_path / "e"), Prepared("", 1, "stored", 1, {}, None, None), threads=1)
    with connect_ray(None, False):
        run_on_ray(engine, tmp_path / "e", Slots(1, 1, 0), Poisoned, surroundings.values_for, lambda line: None)
    engine.recorder.close()
    table = Leaderboard(tmp_path / "e").trials().set_index("number").sort_index()
    assert table["state"].tolist() == ["COMPLETE", "FAILED", "COMPLETE", "COMPLETE", "COMPLETE"]
    assert table.loc[1, "reason"] == "error" and "device-side assert" in table.loc[1, "message"]
    assert table["retries"].tolist() == [0] * 5
    processes = table["node"].tolist()
    assert processes[0] != processes[2] == processes[3] == processes[4]


def test_a_trial_continues_in_the_middle_of_a_round(task: TrialTask, monkeypatch: pytest.MonkeyPatch) -> None:
    train = {**task.run["train"], "epochs": None, "iterations": 12, "validate_every": 6, "checkpoint_seconds": 1e-9}
    task = TrialTask.from_dict({**task.to_dict(), "run": {**task.run, "train": train}})
    original, taken = Distillation.step, []

    def stop(self: Distillation, *batch: Any, **settings: Any) -> dict[str, torch.Tensor]:
        taken.append(1)
        if len(taken) == 10:
            raise KeyboardInterrupt
        return original(self, *batch, **settings)

    first = begin(task)
    with monkeypatch.context() as patch:
        patch.setattr(Distillation, "step", stop)
        one = report(first.step())
        with pytest.raises(KeyboardInterrupt):
            first.step()
    # The driver has not heard of the first report: it comes again, and then the rest of the second round.
    again = begin(TrialTask.from_dict(json.loads(json.dumps(task.to_dict()))))
    assert report(again.step()) == one
    taken.clear()
    monkeypatch.setattr(Distillation, "step", stop)
    result = again.step()
    assert len(taken) == 3 and result["done"]
    assert (one["iteration"], report(result)["iteration"], report(result)["epoch"]) == (6, 12, 2)


def test_divergence_is_reported_as_nan_with_the_term(task: TrialTask) -> None:
    from bpkd_search.config import RunConfig
    from bpkd_search.config.points import to_tree

    hot = to_tree(run_at(RunConfig.model_validate(task.run), {"train.lr": 1e20}))
    result = begin(TrialTask.from_dict({**task.to_dict(), "run": hot})).step()
    assert result["failure"] == "nan"
    assert "loss term" in result["message"]
