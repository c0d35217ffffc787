"""Costs counted without memory, against layers counted by hand and against PyTorch's own record of its memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bpkd_search.config import RunConfig
from bpkd_search.config.data import Eval
from bpkd_search.config.load import parse
from bpkd_search.config.loss import terms_of
from bpkd_search.config.networks import Model, Student
from bpkd_search.losses import Criterion
from bpkd_search.models import Segmentor
from bpkd_search.models.build import build_model
from bpkd_search.models.cost import cost_of
from bpkd_search.training.cost import pass_flops, pass_memory, train_step
from bpkd_search.training.forward import forward

RESNET = Model(encoder="resnet18", head="fcn", channels=32, auxiliary_weight=0.4)


def a_run(tiny: dict[str, Any], *overrides: str) -> RunConfig:
    tree = {key: tiny[key] for key in ("data", "teacher", "student", "loss", "train")}
    return parse(RunConfig, tree, "test", ["data.crop=[64,96]", *overrides])


def most_in_use(work: Any) -> int:
    """The most bytes that PyTorch has in use during some work on the CPU, beyond those before, as its profiler says."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        work()
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most


@pytest.mark.parametrize("encoder", ["resnet18", "mobilenetv3_small_050"])
def test_memory_of_a_step_is_that_of_pytorch(tiny: dict[str, Any], encoder: str) -> None:
    run = a_run(tiny, f"student.encoder={encoder}", "student.channels=64", "train.batch_size=8")
    teacher = build_model(run.teacher, 8, 0).eval()
    counted = train_step(run.student, run, 8, 8, teacher=teacher.to("meta"))
    student = build_model(run.student, 8, 0).train()
    images = torch.randint(256, (8, 3, 64, 96), dtype=torch.uint8)
    labels = torch.randint(8, (8, 16, 24), dtype=torch.uint8).repeat_interleave(4, 1).repeat_interleave(4, 2)
    criterion = Criterion([term.model_dump() for term in terms_of(run.loss)])
    with torch.no_grad():
        logits = build_model(run.teacher, 8, 0).eval()(images)

    def step() -> None:
        mine, features, loss = forward(student, images, labels, 255)
        terms = criterion(mine, logits, labels, student_features=features)
        (loss + torch.stack(list(terms.values())).sum()).backward()

    assert counted.peak == pytest.approx(most_in_use(step), rel=0.15)
    memory = counted.memory(run.train, half=False)
    parameters = sum(weight.numel() for weight in student.parameters())
    assert memory == {"weights": 4 * parameters, "optimizer": 4 * parameters, "activations and gradients": counted.peak}
    # AdamW keeps two numbers for each weight; half of the activations' bytes are saved in half precision.
    other = a_run(tiny, "train.optimizer=adamw")
    halved = counted.memory(other.train, half=True)
    assert halved["optimizer"] == 8 * parameters
    assert halved["activations and gradients"] == counted.peak - counted.activations // 2


def test_memory_of_a_pass_is_that_of_pytorch() -> None:
    model = build_model(RESNET, 11, 0).eval()
    # So large that the layout of weights, which PyTorch changes on a CPU, is of no account.
    images = torch.randint(256, (8, 3, 192, 256), dtype=torch.uint8)

    def work() -> Tensor:
        with torch.no_grad():
            return model(images)

    # The images count here and not there.
    assert pass_memory(RESNET, 11, 8, (192, 256)) - images.numel() == pytest.approx(most_in_use(work), rel=0.15)


def test_operations_of_a_step_are_those_of_its_layers_forth_and_back(tiny: dict[str, Any]) -> None:
    run, products = a_run(tiny), 0

    def count(layer: nn.Conv2d, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal products
        # Backwards, a layer's input and its weights have a gradient each; images have none.
        passes = 3 if layer.in_channels != 3 else 2
        products += passes * output.numel() * layer.weight[0].numel()

    model: Segmentor = build_model(RESNET, 8, 0).train()
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(count)
    model.outputs(torch.zeros(4, 3, 64, 96))
    assert train_step(RESNET, run, 8, 4).flops == 2 * products


def test_operations_of_an_evaluation_are_those_of_all_its_passes() -> None:
    model = Student(encoder="resnet18", head="fcn", channels=32)
    one = 2 * cost_of(model, 8, 64, 96).multiply_adds
    assert pass_flops(model, 8, (64, 96), Eval()) == one
    assert pass_flops(model, 8, (64, 96), Eval(flip=True)) == 2 * one
    larger = 2 * cost_of(model, 8, 96, 144).multiply_adds
    assert pass_flops(model, 8, (64, 96), Eval(scales=(1.0, 1.5), flip=True)) == 2 * (one + larger)
    # 130 rows are three windows of 64, 43 apart at first and ending at the border; 96 columns are one.
    slide = Eval(mode="slide", crop=(64, 96))
    assert pass_flops(model, 8, (130, 96), slide) == 3 * one
    assert pass_flops(model, 8, (40, 40), slide) == one
