"""The cross-entropy of a training step, with an auxiliary head and deterministic, and BatchNorm in training."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from bpkd_search.config.optimisation import Optimisation
from bpkd_search.models import Segmentor
from bpkd_search.models.heads import resize
from bpkd_search.training.forward import forward, summed_cross_entropy, train_mode
from bpkd_search.training.runtime import torch_settings


@pytest.mark.parametrize("void", [0.0, 0.3, 1.0])
def test_the_deterministic_cross_entropy_is_pytorchs_own(void: float) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = (5 * torch.randn(2, 7, 9, 11, generator=generator, dtype=torch.float64)).requires_grad_()
    labels = torch.randint(0, 7, (2, 9, 11), generator=generator)
    labels[torch.rand(2, 9, 11, generator=generator) < void] = 255
    expected = F.cross_entropy(logits, labels, ignore_index=255, reduction="sum")
    (wanted,) = torch.autograd.grad(expected, logits)
    with torch_settings(torch.device("cpu"), deterministic=True):
        found = summed_cross_entropy(logits, labels, 255)
        (gradient,) = torch.autograd.grad(found, logits)
    assert found.item() == pytest.approx(expected.item(), abs=1e-6)
    torch.testing.assert_close(gradient, wanted, atol=1e-6, rtol=0)
    assert torch.equal(summed_cross_entropy(logits, labels, 255), expected)


def test_void_hides_even_what_is_not_finite() -> None:
    logits, labels = torch.zeros(1, 2, 1, 2), torch.tensor([[[1, 255]]])
    logits[..., 1] = float("nan")
    with torch_settings(torch.device("cpu"), deterministic=True):
        assert summed_cross_entropy(logits, labels, 255).item() == pytest.approx(0.6931472)


@pytest.mark.parametrize("batchnorm", ["train", "frozen"])
def test_batchnorm_keeps_or_updates_its_statistics(batchnorm: str) -> None:
    torch.manual_seed(0)
    student = Segmentor("mobilenetv3_small_050", 3, channels=8)
    layers = [m for m in student.modules() if isinstance(m, nn.BatchNorm2d)]
    first = [(m.running_mean.clone(), m.running_var.clone()) for m in layers]
    train_mode(student, Optimisation(batchnorm=batchnorm, batchnorm_momentum=0.5))
    assert student.training and {m.momentum for m in layers} == {0.5}
    student(torch.randint(0, 256, (2, 3, 32, 48), dtype=torch.uint8)).sum().backward()
    same = [
        torch.equal(m.running_mean, a) and torch.equal(m.running_var, b)
        for m, (a, b) in zip(layers, first, strict=True)
    ]
    assert same == [batchnorm == "frozen"] * len(layers)
    # Scale and shift are trained either way.
    assert all(m.weight.grad is not None and m.weight.requires_grad for m in layers)


def test_an_auxiliary_head_adds_its_own_cross_entropy_with_its_weight() -> None:
    torch.manual_seed(0)
    model = Segmentor("mobilenetv3_small_050", 4, head="fcn", channels=16, auxiliary_weight=0.3).eval()
    images = torch.randint(0, 256, (2, 3, 64, 96), dtype=torch.uint8)
    labels = torch.randint(0, 4, (2, 64, 96))
    labels[:, :5] = 255
    logits, _, auxiliary = model.outputs(images)
    assert auxiliary is not None
    own, added = (
        F.cross_entropy(resize(x, (64, 96)), labels, ignore_index=255, reduction="mean") for x in (logits, auxiliary)
    )
    got, features, ce = forward(model, images, labels, 255)
    assert torch.equal(got, logits) and torch.equal(features, model(images, return_features=True)[1])
    torch.testing.assert_close(ce / (labels != 255).sum(), own + 0.3 * added)
    ce.backward()
    assert model.auxiliary is not None and model.auxiliary.classifier.weight.grad is not None
