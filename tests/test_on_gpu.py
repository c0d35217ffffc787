"""What only a real GPU shows: losses, measures and training there are those of the CPU, and repeat when asked to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from bpkd_search.config import SearchConfig
from bpkd_search.config.load import parse
from bpkd_search.config.models import RunConfig
from bpkd_search.losses import METHODS, Criterion
from bpkd_search.losses.edges import edge_masks
from bpkd_search.metrics import SegmentationMetrics
from bpkd_search.training.distill import Distillation
from bpkd_search.training.evaluation import evaluate_run
from bpkd_search.training.prepare import prepare

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]
CLASSES, IGNORE = 19, 255


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
