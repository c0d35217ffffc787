"""What only a real GPU shows: losses, measures and training there are those of the CPU, and repeat when asked to.

Of a run there: whose memory it holds, in which precision it computes, what its seconds are, and what ends its process.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from bpkd_search.config import SearchConfig
from bpkd_search.config.load import parse
from bpkd_search.config.models import RunConfig
from bpkd_search.config.points import to_tree
from bpkd_search.losses import METHODS, Criterion
from bpkd_search.losses.edges import edge_masks
from bpkd_search.metrics import SegmentationMetrics
from bpkd_search.models import build
from bpkd_search.training import distill, evaluation, forward
from bpkd_search.training.distill import Distillation
from bpkd_search.training.evaluation import evaluate_run
from bpkd_search.training.prepare import prepare
from bpkd_search.training.teacher import FrozenTeacher, open_teacher

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]
CLASSES, IGNORE, GPU = 19, 255, torch.device("cuda")


def labels_of(batch: int, height: int, width: int) -> torch.Tensor:
    """Blocks of classes with some void."""
    coarse = torch.randint(0, CLASSES, (batch, 1, height // 8, width // 8), generator=torch.Generator().manual_seed(0))
    labels = torch.nn.functional.interpolate(coarse.float(), scale_factor=8).squeeze(1).to(torch.uint8)
    labels[:, :5] = IGNORE
    return labels


@pytest.mark.parametrize("method", [name for name, entry in METHODS.items() if entry.needs == "teacher logits"])
def test_a_loss_and_its_gradient_are_those_of_the_cpu(method: str) -> None:
    generator = torch.Generator().manual_seed(1)
    student, teacher = (torch.randn(2, CLASSES, 16, 32, generator=generator) for _ in range(2))
    labels = labels_of(2, 128, 256)
    found = {}
    for device in ("cpu", "cuda"):
        logits = student.detach().clone().to(device).requires_grad_()
        torch.manual_seed(0)
        criterion = Criterion([{"method": method}], ignore_index=IGNORE).to(device)
        loss = sum(criterion(logits, teacher.to(device), labels.to(device)).values())
        loss.backward()
        found[device] = (loss.detach().cpu(), logits.grad.cpu())
    for on_gpu, on_cpu in zip(found["cuda"], found["cpu"], strict=True):
        torch.testing.assert_close(on_gpu, on_cpu, rtol=2e-4, atol=1e-7)


@pytest.mark.parametrize("classes", [2, 8, 11, 19, 150])
@pytest.mark.parametrize("width", [3, 7, 15, 63])
def test_edge_masks_are_those_of_the_cpu_bit_for_bit(classes: int, width: int) -> None:
    labels = labels_of(3, 120, 168) % classes
    labels[:, :5] = IGNORE
    on_cpu = edge_masks(labels, classes, width, (15, 21), ignore_index=IGNORE)
    on_gpu = edge_masks(labels.cuda(), classes, width, (15, 21), ignore_index=IGNORE)
    assert torch.equal(on_gpu.cpu(), on_cpu)


def test_measures_are_those_of_the_cpu_exactly() -> None:
    labels = labels_of(4, 96, 128)
    guesses = torch.randint(0, CLASSES, labels.shape, generator=torch.Generator().manual_seed(2))
    scores = {}
    for device in ("cpu", "cuda"):
        metrics = SegmentationMetrics(CLASSES, device=torch.device(device))
        metrics.update(guesses.to(device), labels.to(device))
        scores[device] = metrics.compute().as_dict()
    assert scores["cuda"] == scores["cpu"]


def run_of(tiny: dict[str, Any], **train: Any) -> RunConfig:
    tiny["train"] |= {"device": "cuda", **train}
    tiny["teacher"]["train"]["device"] = "cuda"
    return parse(SearchConfig, tiny, "test").run()


def train(run: RunConfig, epochs: int, checkpoint: Path | None = None) -> Distillation:
    prepared = prepare(run, lambda line: None)
    training = Distillation(run.student, run.loss, run.train, prepared.open())
    if checkpoint is not None:
        training.load(checkpoint)
    while training.epoch < epochs:
        training.train_epoch()
    return training


def test_training_in_mixed_precision_learns(tiny: dict[str, Any]) -> None:
    run = run_of(tiny, epochs=6)
    start = Distillation(run.student, run.loss, run.train, prepare(run, lambda line: None).open())
    before = evaluate_run(start, run.data).accuracy
    trained = train(run, 6)
    assert trained.device.type == "cuda" and next(trained.student.parameters()).is_cuda
    assert evaluate_run(trained, run.data).accuracy > before


def test_deterministic_runs_give_the_same_bits_also_when_continued(tiny: dict[str, Any], tmp_path: Path) -> None:
    run = run_of(tiny, epochs=2, deterministic=True)
    whole, again = train(run, 2), train(run, 2)
    half = train(run, 1)
    half.save(tmp_path / "checkpoint.pt")
    continued = train(run, 2, tmp_path / "checkpoint.pt")
    for name, value in whole.student.state_dict().items():
        assert torch.equal(again.student.state_dict()[name], value), name
        assert torch.equal(continued.student.state_dict()[name], value), name


def test_compiled_training_is_eager_training_up_to_rounding(tiny: dict[str, Any]) -> None:
    eager = train(run_of(tiny, epochs=1, amp="off"), 1)
    compiled = train(run_of(tiny, epochs=1, amp="off", compile=True), 1)
    for name, value in eager.student.named_parameters():
        torch.testing.assert_close(compiled.student.get_parameter(name), value, rtol=1e-2, atol=1e-3)


def python(code: str, folder: Path | None = None, **environment: str) -> str:
    """Run code in a process of its own; gives what it printed."""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])} | environment
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


SEARCH = """
from pathlib import Path
import torch, yaml
from bpkd_search import run_search
from bpkd_search.config import SearchConfig
from bpkd_search.config.load import parse
from bpkd_search.experiment.events import read_events
tree = yaml.safe_load(Path("space.yaml").read_text())
board = run_search(parse(SearchConfig, tree, "test"), Path("out"))
kinds = [event["event"] for event in read_events(Path("out"))]
last = max(place for place, kind in enumerate(kinds) if kind == "end")
print(len(board.trials()), set(board.trials()["state"]), "latency" in kinds[last:], "latency" in kinds[:last])
print(torch.cuda.is_initialized())
"""


def test_a_drivers_process_never_holds_the_gpu_and_latencies_are_taken_when_no_trial_runs(
    tiny: dict[str, Any], tmp_path: Path
) -> None:
    run_of(tiny, epochs=1)
    tiny["data"]["views_dir"] = str(tmp_path / "views")
    tiny["search"] = {"trials": 1, "scheduler": {"name": "none"}, "resources": {"cpus": 1, "gpus": 0.5}}
    tiny["search"]["constraints"] = ["latency_ms <= 1000000"]
    (tmp_path / "space.yaml").write_text(yaml.safe_dump(tiny))
    assert python(SEARCH, tmp_path).splitlines() == ["5 {'COMPLETE'} True False", "False"]


PICK = """
from bpkd_search.errors import ResourceError
from bpkd_search.models.build import pick_device
try:
    print(pick_device("auto"))
except ResourceError as e:
    print(e)
"""


def test_a_gpu_that_cannot_be_used_is_an_error_with_the_drivers_version() -> None:
    # As after a GPU has fallen off the bus: one is named that is not there.
    said = python(PICK, CUDA_VISIBLE_DEVICES="99")
    assert "this process was given the GPU(s) 99 (CUDA_VISIBLE_DEVICES)" in said
    assert f"CUDA of PyTorch: {torch.version.cuda}" in said
    if Path("/proc/driver/nvidia/version").is_file():
        assert "NVIDIA driver: none found" not in said
    assert build.pick_device("auto") == GPU


def test_bfloat16_is_for_gpus_that_have_it_and_float16_trains_the_same_losses(
    tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = torch.cuda.get_device_capability()[0] >= 8
    assert build.half_precision(GPU) == (torch.bfloat16 if real else torch.float16)
    tiny["space"], tiny["loss"] = {"train.grad_clip": {"float": [0.5, 1.0]}}, {"method": "ce"}
    settings = {"epochs": 2, "optimizer": "adamw", "lr": 1e-3, "grad_clip": 1.0}
    single = train(run_of(tiny, amp="off", **settings), 1)
    for module in (build, distill):
        monkeypatch.setattr(module, "half_precision", lambda device: torch.float16)
    run = run_of(tiny, amp="auto", **settings)
    half = Distillation(run.student, run.loss, run.train, prepare(run, lambda line: None).open())
    assert half.scaler.is_enabled() and not single.scaler.is_enabled()
    # Small enough that no gradient overflows, after which the first steps would be left out.
    half.scaler = torch.amp.GradScaler("cuda", init_scale=2.0**8)
    half.train_epoch()
    assert half.scaler.get_scale() == 2.0**8
    assert half.train_epoch()["loss"] == pytest.approx(single.train_epoch()["loss"], rel=0.05)


def test_what_amp_says_holds_for_validation_and_for_the_teachers_logits(tiny: dict[str, Any]) -> None:
    tiny["teacher"]["mode"] = "online"
    for amp, student, teacher in (("off", torch.float32, torch.float32), ("auto", None, torch.float16)):
        run = run_of(tiny, epochs=1, amp=amp)
        prepared = prepare(run, lambda line: None)
        store, weights = prepared.open(), Path(prepared.teacher or "")
        network = open_teacher(run, store.class_names, weights, GPU)
        training = Distillation(run.student, run.loss, run.train, store, teacher=network)
        seen: dict[str, set[torch.dtype]] = {"student": set(), "teacher": set()}
        for name, part in (("student", training.student), ("teacher", network)):
            part.classifier.register_forward_hook(lambda *given, to=seen[name]: to.add(given[2].dtype))
        evaluate_run(training, run.data)
        assert seen["student"] == {student or build.half_precision(GPU)}
        images, labels, _ = next(training.batches(0, 1))
        with training.train_mode():
            training.step(images, labels, None, progress=0.0)
        assert seen["teacher"] == {teacher}
        assert FrozenTeacher(run, store.class_names, weights)(images).dtype == teacher


@pytest.mark.parametrize("compiled", [True, "graphs"])
def test_no_second_of_compiling_is_counted(
    tiny: dict[str, Any], compiled: bool | str, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []

    def slow(graph: Any, inputs: Any) -> Any:
        time.sleep(2.0)
        slept.append(2.0)
        return graph

    monkeypatch.setattr(forward, "BACKEND", slow)
    forward.forget_code()
    try:
        run = run_of(tiny, epochs=2, compile=compiled)
        training = Distillation(run.student, run.loss, run.train, prepare(run, lambda line: None).open())
        assert training.train_epoch()["gpu_seconds"] < 1.8 and slept
    finally:
        forward.forget_code()


def test_seconds_are_those_of_the_share_of_the_gpu_that_is_held(tiny: dict[str, Any]) -> None:
    run = run_of(tiny, epochs=2)
    training = Distillation(run.student, run.loss, run.train, prepare(run, lambda line: None).open())
    training.share = 0.25
    start = time.perf_counter()
    report = training.train_epoch()
    assert 0 < report["gpu_seconds"] <= 0.25 * (time.perf_counter() - start)
    images = report["images_per_second"] * report["gpu_seconds"] / 0.25
    assert images == pytest.approx(tiny["data"]["synthetic"]["train_images"])


POISON = """
import torch
from bpkd_search.training.runtime import is_poisoned
try:
    torch.empty(1 << 50, dtype=torch.uint8, device="cuda")
except torch.OutOfMemoryError as e:
    print(is_poisoned(e), torch.ones(3, device="cuda").sum().item())
for work in (lambda: torch.zeros(1, device="cuda")[torch.tensor([5], device="cuda")].cpu(),
             lambda: torch.ones(3, device="cuda").sum().item()):
    try:
        work()
    except RuntimeError as e:
        print(is_poisoned(e))
"""


def test_a_device_assert_poisons_its_process_and_too_little_memory_does_not() -> None:
    assert python(POISON) == "False 3.0\nTrue\nTrue\n"


def test_a_packing_counts_what_validation_takes_of_the_memory(
    tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bpkd_search.cluster.packing import Copy
    from bpkd_search.cluster.trial import TrialTask

    run, measured, predict = run_of(tiny), list[tuple[int, int]](), evaluation.predict_classes

    def noted(model: Any, images: torch.Tensor, *given: Any, **named: Any) -> torch.Tensor:
        found = predict(model, images, *given, **named)
        measured.append((len(images), torch.cuda.max_memory_allocated()))
        return found

    monkeypatch.setattr(evaluation, "predict_classes", noted)
    copy = Copy(TrialTask(str(tmp_path), prepare(run, lambda line: None), 1, run=to_tree(run)).to_dict())
    torch.cuda.reset_peak_memory_stats()
    assert copy.warm_up(1)
    ((images, peak),) = measured
    assert images == tiny["data"]["synthetic"]["val_images"]
    # PyTorch keeps what it had at the peak, so it is not in what `memory_left` finds.
    assert torch.cuda.memory_reserved() >= peak > 0
    free, total = torch.cuda.mem_get_info()
    assert copy.memory_left() == pytest.approx(free / total, abs=0.02)
    assert copy.rate(0.2)


@pytest.mark.parametrize("deterministic", [True, False])
def test_cudnn_may_choose_its_kernels_unless_runs_are_to_repeat(tiny: dict[str, Any], deterministic: bool) -> None:
    run = run_of(tiny, epochs=1, deterministic=deterministic)
    training = Distillation(run.student, run.loss, run.train, prepare(run, lambda line: None).open())
    seen: set[bool] = set()
    training.student.classifier.register_forward_hook(lambda *_: seen.add(torch.backends.cudnn.benchmark))
    training.train_epoch()
    assert seen == {not deterministic} and not torch.backends.cudnn.benchmark
