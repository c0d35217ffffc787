"""Nothing in a training step makes the host wait for a GPU: shown without one, on tensors that have no values."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from bpkd_search.config import RunConfig, SearchConfig
from bpkd_search.config.load import parse
from bpkd_search.config.points import run_at
from bpkd_search.data.views import ViewStore
from bpkd_search.losses import METHODS, Criterion, bpkd_loss
from bpkd_search.metrics import SegmentationMetrics
from bpkd_search.models.build import build_model
from bpkd_search.training.distill import Distillation
from bpkd_search.training.prepare import prepare

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


class Waits(TorchDispatchMode):
    """Notes copies between host and GPU that the host waits for.

    Fake tensors know no values, so whatever reads one (`item`, `tolist`, `bool`) or has a shape that hangs on
    values (`nonzero`, a mask as an index) raises by itself.
    """

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = function(*args, **kwargs)
        if function.overloadpacket in (torch.ops.aten._to_copy, torch.ops.aten.copy_):
            source = args[1] if function.overloadpacket is torch.ops.aten.copy_ else args[0]
            quick = kwargs.get("non_blocking") or (len(args) > 2 and args[2])
            if source.device.type != result.device.type and not quick:
                self.found.append(f"{function} {source.device} to {result.device}")
        return result


@pytest.fixture
def store(tiny: dict[str, Any]) -> ViewStore:
    return prepare(parse(SearchConfig, tiny, "test").run(), lambda line: None).open()


def with_loss(tiny: dict[str, Any], loss: dict[str, Any], **train: Any) -> RunConfig:
    mode = "online" if METHODS[loss["method"]].needs == "teacher features" else "stored"
    run = run_at(RunConfig(), {f"train.{key}": value for key, value in train.items()}).model_dump()
    run |= {"loss": loss, "teacher": {**tiny["teacher"], "mode": mode}, "student": tiny["student"]}
    return RunConfig.model_validate(run)


def move(module: nn.Module) -> None:
    """Put a network's tensors on the GPU, without values: `Module.to` cannot, with fake ones."""
    for part in module.modules():
        for name, weight in part._parameters.items():
            part._parameters[name] = weight if weight is None else nn.Parameter(torch.empty(weight.shape, device=GPU))
        for name, buffer in part._buffers.items():
            part._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype, device=GPU)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.filterwarnings("ignore:.*CUDA is not available", "ignore:User provided device_type of 'cuda'")
def test_a_training_step_never_waits(
    tiny: dict[str, Any], store: ViewStore, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    # Fused SGD has no kernel for fake tensors.
    run = with_loss(tiny, {"method": method}, optimizer="adamw", grad_clip=1.0)
    teacher = None
    if run.teacher.mode == "online":
        teacher = build_model(run.teacher, store.num_classes, 0).eval()
    training = Distillation(run.student, run.loss, run.train, store, teacher=teacher, device=CPU)
    training.student.train()

    def backward(total: torch.Tensor) -> None:
        # Without a GPU the engine starts no thread for one; see the next test.
        for weight in [*training.student.parameters(), *training.criterion.parameters()]:
            weight.grad = torch.empty_like(weight)

    monkeypatch.setattr(torch.Tensor, "backward", backward)
    with FakeTensorMode():
        for module in (training.student, training.criterion, teacher or nn.Identity()):
            move(module)
        training.device = GPU
        training.optimizer = type(training.optimizer)(training.student.parameters(), lr=0.1, fused=True)
        # 34 and 50 are no multiples of the logits' grid.
        images = torch.empty(4, 3, 34, 50, dtype=torch.uint8, device=GPU)
        labels = torch.empty(4, 34, 50, dtype=torch.uint8, device=GPU)
        stored = torch.empty(4, store.num_classes, 9, 13, dtype=torch.float16, device=GPU)
        with Waits() as waits:
            losses = training.step(images, labels, stored, progress=0.5)
        assert all(value.device == GPU for value in losses.values())
    assert waits.found == []


@pytest.mark.parametrize("method", [name for name in METHODS if name != "ce"])
def test_no_loss_waits_in_backward(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # The meta device has no values either, and can run backward; it knows no autocast.
    monkeypatch.setattr(torch, "autocast", lambda device, enabled: nullcontext())
    criterion = Criterion([{"method": method}], student_channels=5, teacher_channels=5).to("meta")
    student = torch.empty(2, 5, 9, 13, device="meta", requires_grad=True)
    teacher, labels = torch.empty_like(student), torch.empty(2, 34, 50, dtype=torch.uint8, device="meta")
    with Waits() as waits:
        losses = criterion(student, teacher, labels, student_features=student, teacher_features=teacher)
        torch.stack(list(losses.values())).sum().backward()
    assert student.grad is not None and waits.found == []


@pytest.mark.parametrize("loss", [{"alpha": [1.0, 2.0, 1.0]}, {"post_mask": False}, {"pre_mask": False}])
def test_no_form_of_the_boundary_loss_waits(loss: dict[str, Any]) -> None:
    with FakeTensorMode():
        student = torch.empty(2, 3, 9, 13, device=GPU, requires_grad=True)
        labels = torch.empty(2, 34, 50, dtype=torch.uint8, device=GPU)
        with Waits() as waits:
            bpkd_loss(student, student.detach().half(), labels, **loss)
    assert waits.found == []


def test_validation_waits_only_for_its_result() -> None:
    with FakeTensorMode():
        metrics = SegmentationMetrics(5, device=GPU)
        labels = torch.empty(2, 34, 50, dtype=torch.uint8, device=GPU)
        with Waits() as waits:
            metrics.update(labels.long(), labels)
    assert waits.found == []


def test_what_waits_is_found() -> None:
    with FakeTensorMode():
        values = torch.empty(3, device=GPU)
        for wait in (torch.Tensor.item, torch.Tensor.nonzero, lambda v: v[v > 0], lambda v: bool(v.any())):
            with pytest.raises((DataDependentOutputException, DynamicOutputShapeException)):
                wait(values.sum() if wait is torch.Tensor.item else values)
        with Waits() as waits:
            torch.tensor([1.0, 2.0], device=GPU)
            values.cpu()
            values.copy_(torch.zeros(3))
            torch.zeros(3).to(GPU, non_blocking=True)
        assert len(waits.found) == 3


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_gpu_is_not_waited_for(tiny: dict[str, Any], store: ViewStore, optimizer: str) -> None:
    run = with_loss(tiny, {"method": "bpkd"}, optimizer=optimizer, batch_size=4)
    training = Distillation(run.student, run.loss, run.train, store, device=GPU)
    training.student.train()
    batches = list(training.batches(0, training.schedule.steps))
    training.step(*batches[0], progress=0.0)
    torch.cuda.set_sync_debug_mode("error")
    try:
        losses = [training.step(*batch, progress=0.5) for batch in batches[1:]]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert losses and all(torch.isfinite(value) for step in losses for value in step.values())
