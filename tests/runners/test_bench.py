"""The benchmarks' own arithmetic, and that both sides of `search.py` do the same work."""

from __future__ import annotations

import argparse
import importlib
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from bpkd_search import Leaderboard
from bpkd_search.config.data import Data
from bpkd_search.config.models import RunConfig
from bpkd_search.config.optimisation import Optimisation
from bpkd_search.config.points import baseline_run
from bpkd_search.data import EvalTransform, open_split
from bpkd_search.experiment.events import EventLog
from bpkd_search.models import save_weights
from bpkd_search.models.build import build_model
from bpkd_search.search.replay import replay
from bpkd_search.training.distill import Distillation
from bpkd_search.training.forms import Form
from bpkd_search.training.inputs import view_recipe
from bpkd_search.training.prepare import prepare

BENCH = Path(__file__).resolve().parents[2] / "runners" / "bench"


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """Imports a benchmark as its neighbours do."""
    monkeypatch.syspath_prepend(str(BENCH))
    return importlib.import_module


@pytest.fixture
def camvid(bench: Callable[[str], ModuleType], tmp_path: Path) -> Path:
    """Six scenes to train on and two to validate, as files in CamVid's layout."""
    return bench("images").draw(tmp_path / "camvid", 6, 36, 48)


def line(options: dict[str, object], figures: Path) -> list[str]:
    """A benchmark's command line."""
    return [text for name, value in (options | {"json": figures}).items() for text in (f"--{name}", str(value))]


def test_ratio_and_order_of_rounds(bench: Callable[[str], ModuleType]) -> None:
    timing, calls = bench("timing"), []
    times = timing.alternate(lambda: calls.append("a"), lambda: calls.append("b"), rounds=2)
    assert calls == ["a", "b"] * 3, "one round to warm up, then two"
    assert [len(each) for each in times] == [2, 2]
    assert timing.ratio([2.0, 9.0, 8.0], [1.0, 3.0, 2.0]) == 3.0, "the median of 2, 3 and 4"


def test_step_times_whole_epochs_of_every_loss(bench: Callable[[str], ModuleType], tmp_path: Path) -> None:
    small = {"height": 32, "width": 32, "images": 4, "batch": 2, "rounds": 1, "teacher": "mobilenetv3_small_050"}
    bench("step").main(line(small, tmp_path / "step.json"))
    figures = json.loads((tmp_path / "step.json").read_text())
    assert (figures["images"], figures["classes"], figures["batch"]) == (4, 8, 2)
    rows = figures["rows"]
    assert list(rows) == [
        "bare", "bare, new crops", "ce", "kd", "cwd", "bpkd", "bpkd, maps", "bpkd, online teacher",
    ]  # fmt: skip
    maps = rows["bpkd, maps"]
    assert maps["ratio_new_crops"] == pytest.approx(maps["ms_a_step"] / rows["bare, new crops"]["ms_a_step"])
    assert rows["bare"]["ratio"] == 1
    for row in rows.values():  # with one round, the ratio of medians is the median of ratios
        assert row["ratio"] == pytest.approx(row["ms_a_step"] / rows["bare"]["ms_a_step"]) and row["ms_a_step"] > 0


def elastic(bench: Callable[[str], ModuleType], folder: Path, **options: float) -> Any:
    """A simulated cluster after its search."""
    module = bench("elastic")
    given = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    cluster = module.Cluster(module.options_of(["--sampler", "random", "--ramp", "60", *given]), folder)
    cluster.run()
    return cluster


def test_a_simulated_gpu_that_stays_is_busy_but_for_starts_and_copies(
    bench: Callable[[str], ModuleType], tmp_path: Path
) -> None:
    cluster = elastic(bench, tmp_path, nodes=1, gpus=1, trials=8, life=1e9, copying=100)
    (machine,) = cluster.machines
    spent = [trial.last()["gpu_seconds"] for trial in cluster.engine.trials.values()]
    there = cluster.last_ask - machine.joined
    assert cluster.busy() == pytest.approx((sum(spent[:-1]) / there,) * 2)  # one after the other, until the last ask
    # The rest are the copies, a first start and those of ten other trials before the last, and what the driver takes.
    assert there - sum(spent[:-1]) == pytest.approx(100 + 6.5 + 10 * 0.32, abs=5)


def test_simulated_trials_outlive_their_nodes(bench: Callable[[str], ModuleType], tmp_path: Path) -> None:
    cluster = elastic(bench, tmp_path, nodes=3, gpus=2, trials=30, life=2, gap=0.5, copying=5)
    assert cluster.joins > 3 and cluster.moves > 0 and cluster.losses > 0
    table = Leaderboard(tmp_path).trials()
    assert set(table["state"]) <= {"COMPLETE", "PRUNED"} and len(table) == 34
    assert table["retries"].sum() == cluster.moves + cluster.losses
    whole = sum(stop - start for start, stop in cluster.training)
    assert whole - cluster.wasted == pytest.approx(table["gpu_seconds"].sum())
    busy, useful = cluster.busy()
    assert 0 < useful < busy < 1
    assert replay(tmp_path) == (34, [])


def test_bound_is_the_plain_epoch_over_the_students(bench: Callable[[str], ModuleType]) -> None:
    bound = bench("parts").bound
    parts = {"student_step": 1.0, "teacher_forward": 2.0, "decode": 3.0, "validation": 4.0, "validation_decode": 5.0,
             "start_up": 10.0}  # fmt: skip
    # Student: 2 x 1 + 4 = 6. Shared: 2 x (2 / 2 + 3) + 5 = 13, and 10 / 2 = 5 of start-up an epoch.
    assert bound(parts, steps=2, epochs_a_start=2, taught=0.5) == (6 + 13 + 5) / 6
    shared = dict.fromkeys(("teacher_forward", "decode", "validation_decode", "start_up"), 0.0)
    assert bound(parts | shared, steps=2, epochs_a_start=2) == 1


def test_start_ups_follow_the_slots(bench: Callable[[str], ModuleType]) -> None:
    trials = [(0.0, 10.0), (1.0, 4.0), (5.5, 9.0), (9.25, 12.0), (13.0, 14.0)]
    # Slot 2 is free at 4 and 9, slot 1 at 10.
    assert bench("parts").start_ups(trials, 2) == [1.5, 0.25, 3.0]


def test_first_steps_are_found_from_the_event_log(bench: Callable[[str], ModuleType], tmp_path: Path) -> None:
    log = EventLog(tmp_path)
    # Two epochs of 2 s, 3 s of validation after each; the first report comes 6 s after the trial began at 100.
    log.append({"event": "report", "number": 0, "epoch": 1, "miou": 0.1, "time": 106.0, "wall_seconds": 6.0,
                "gpu_seconds": 2.0})  # fmt: skip
    log.append({"event": "report", "number": 0, "epoch": 2, "miou": 0.3, "time": 111.0, "wall_seconds": 11.0,
                "gpu_seconds": 4.0})  # fmt: skip
    log.close()
    found = bench("search").trials_of(tmp_path)
    assert found == [{"epoch": 2, "miou": 0.3, "began": 101.0, "ended": 111.0, "training": 4.0}]


def test_plain_search_reads_and_augments_as_the_package_does(
    bench: Callable[[str], ModuleType], camvid: Path, tmp_path: Path
) -> None:
    plain_ray = bench("plain_ray")
    train, val = (plain_ray.CamVid(camvid, split, 32, 48) for split in ("train", "val"))
    data = Data(kind="camvid", root=camvid, crop=(32, 48), resize=(32, 48), views_dir=tmp_path)
    assert train.train == view_recipe(data, Form(8, "stored")).train_transform
    torch.manual_seed(5)
    seed = int(torch.randint(2**31, ()))
    torch.manual_seed(5)
    for got, expected in zip(train[2], train.train(*open_split("camvid", "train", root=camvid)[2], seed), strict=True):
        assert torch.equal(got, expected)
    sample = open_split("camvid", "val", root=camvid)[1]
    assert (sample[1] == 255).any(), "the scenes hold void"
    for got, expected in zip(val[1], EvalTransform((32, 48), "resized")(*sample), strict=True):
        assert torch.equal(got, expected)


@pytest.mark.parametrize("name", ["ce", "kd", "cwd", "bpkd-paper"])
def test_a_plain_step_is_a_step_of_the_package(
    bench: Callable[[str], ModuleType], camvid: Path, tmp_path: Path, name: str
) -> None:
    plain_ray, parts = bench("plain_ray"), bench("parts")
    options = argparse.Namespace(
        root=camvid, images=6, height=32, width=48, batch=6, rounds=0, device="cpu", student="mobilenetv3_small_050",
        teacher="mobilenetv3_small_050",
    )  # fmt: skip
    base: RunConfig = bench("step").run_of(options, tmp_path, bench("step").VIEWS)
    save_weights(tmp_path / "teacher.safetensors", build_model(base.teacher, 11, 1))
    store = prepare(base, lambda line: None).open()
    # Without momentum and decay, an update is the gradient.
    train = Optimisation(epochs=1, batch_size=6, lr=0.1, momentum=0, weight_decay=0, device="cpu")
    run = Distillation(base.student, baseline_run(base, name).loss, train, store)
    student = plain_ray.make_student({"student": "mobilenetv3_small_050"}).train()
    student.load_state_dict(run.student.state_dict())
    before = {key: value.clone() for key, value in student.named_parameters()}
    images, labels, logits = next(store.epoch(0, 6, 0))

    run.train_epoch()
    settings = parts.PAPER if name == "bpkd-paper" else {"method": name}
    plain_ray.step(student, torch.optim.SGD(student.parameters(), lr=0.1), images, labels, logits, settings)

    moved = 0.0
    for key, value in run.student.named_parameters():
        torch.testing.assert_close(student.get_parameter(key), value, rtol=1e-3, atol=1e-5)
        moved = max(moved, float((value - before[key]).detach().abs().max()))
    assert moved > 1e-3


def test_winners_counts_what_is_named_though_nothing_is_better(bench: Callable[[str], ModuleType]) -> None:
    rows = bench("winners").confirmations([3], [5], 400)
    assert [row["noise"] for row in rows] == ["normal", "unequal", "heavy"]
    for row in rows:
        assert row["false"] <= 0.06 < row["named"]
        assert 0.92 <= row["mean"] <= 0.98


@pytest.mark.long
def test_a_search_on_a_store_is_timed_against_one_on_disk(bench: Callable[[str], ModuleType], tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BPKD_SEARCH_CACHE", str(tmp_path))  # put back afterwards
        for name in bench("stores").StoreServer(tmp_path / "none").environment:
            patch.setenv(name, "")
        small = ["--tiny", "--rounds", "1", "--trials", "1", "--epochs", "1", "--json", str(tmp_path / "stores.json")]
        bench("stores").main(small)
    figures = json.loads((tmp_path / "stores.json").read_text())
    assert figures["ratio"] == pytest.approx(figures["store"][0] / figures["disk"][0])
    assert figures["objects"] > 5 and figures["mib"] > 0
