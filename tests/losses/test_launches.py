"""What a GPU is asked to do for a loss: few operations at any number of classes, and compiled in one graph."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from bpkd_search.losses import bpkd_loss, edge_masks, edges, kd_loss
from tests.launches import launches


def _batch(classes: int, device: str, labels: torch.dtype = torch.uint8) -> tuple[Tensor, Tensor, Tensor]:
    student, teacher = torch.empty(2, 4, classes, 32, 64, device=device).unbind()
    return student, teacher, torch.empty(4, 256, 512, dtype=labels, device=device)


@pytest.mark.parametrize("labels", [torch.uint8, torch.int64])
@pytest.mark.parametrize("classes", [2, 11, 150, 253])
def test_bpkd_needs_at_most_60_operations_at_any_number_of_classes(classes: int, labels: torch.dtype) -> None:
    assert 20 < len(launches(lambda: bpkd_loss(*_batch(classes, "cuda", labels)))) <= 60


def test_kd_needs_at_most_30_operations() -> None:
    assert 10 < len(launches(lambda: kd_loss(*_batch(19, "cuda")))) <= 30


def test_masks_without_triton_need_the_same_operations_at_any_number_of_classes() -> None:
    def masks(classes: int) -> list[str]:
        return launches(lambda: edges.edge_shares(_batch(classes, "cuda")[2], classes, 7, (32, 64)))

    assert 20 < len(masks(11)) <= 40
    assert masks(11) == masks(150) == masks(253)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_bpkd_compiles_to_one_graph_with_the_same_values(backend: str) -> None:
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 2, 5, 6, 6, generator=generator)
    labels = torch.randint(0, 5, (2, 12, 12), generator=generator).to(torch.uint8)
    labels[0, :3] = 255
    student.requires_grad_()
    compiled = torch.compile(lambda *maps: bpkd_loss(*maps).total, backend=backend, fullgraph=True)
    value, expected = compiled(student, teacher, labels), bpkd_loss(student, teacher, labels).total
    torch.testing.assert_close(value, expected)
    gradients = [torch.autograd.grad(loss, student)[0] for loss in (value, expected)]
    torch.testing.assert_close(*gradients)
    masks = torch.compile(edge_masks, backend=backend, fullgraph=True)(labels, 5, 3, (6, 6))
    assert torch.equal(masks, edge_masks(labels, 5, 3, (6, 6)))
