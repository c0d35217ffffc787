"""Boundary-privileged knowledge distillation (Liu et al. 2023, arXiv 2306.08075).

The teacher's logits are distilled separately at the edges of classes (per pixel, over classes) and in their
bodies (per class, over space). Edges and bodies are derived from the labels alone:

    M_E = share of a cell's pixels that are edge of class c     M_B = (1 - M_E) * labelled share of the cell
    L_E = sum_c alpha_c / n_c * sum_i phi_i M_E[c, i]           phi = tau^2 KL over classes of Z * M_E
    L_B = 1 / C * sum_c tau^2 KL over space of Z[c] * M_B[c]    n_c = number of locations with M_E[c, i] > 0
    total = edge_weight * L_E + body_weight * L_B

Ignored pixels never contribute: at locations without a labelled pixel M_E is 0, and those locations are
excluded from the softmax over space. A labelled location that is all edge stays in it with logit 0, as in the
formula. Both terms are means over the images that have a labelled pixel.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from bpkd_search.losses.divergence import SMALLEST_WEIGHT, kl_and_difference, logits_on_one_grid, low_where_not
from bpkd_search.losses.edges import id_parts, shares_of
from bpkd_search.losses.parts import whole


class BPKDTerms(NamedTuple):
    """The scalars of `bpkd_loss`: `total` is weighted, `edge` and `body` are not."""

    total: Tensor
    edge: Tensor
    body: Tensor


def bpkd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    *,
    edge_width: int = 7,
    edge_weight: float = 50.0,
    body_weight: float = 20.0,
    alpha: float | Sequence[float] = 2.0,
    edge_temperature: float = 1.0,
    body_temperature: float = 1.0,
    pre_mask: bool = True,
    post_mask: bool = True,
    ignore_index: int = 255,
) -> BPKDTerms:
    """Compute edge and body distillation of class logits, without the cross-entropy; returns scalars.

    Logits are [B, C, h, w], the student's resized to the teacher's grid; `labels` [B, H, W] are integers.
    `edge_width` is the odd side of the edge window in label pixels; `alpha` scales the edge term, one number
    or one per class. `pre_mask=False` applies the edge term's softmax to the unmasked logits. `post_mask=False`
    averages phi over labelled pixels, times alpha (its mean over classes); with both false the edge term is
    alpha times pixel-wise KD. Computed in float32 (float64 is kept), also under autocast; no gradient flows to
    the teacher. Finite, and zero without edges or labelled pixels. Raises `ValueError` if the numbers of classes
    differ, if `alpha` has a wrong length, or if `edge_masks` does. Source: Liu et al. 2023 (arXiv 2306.08075).
    """
    student, teacher = logits_on_one_grid(student_logits, teacher_logits, labels)
    alphas, temperatures = _per_class(alpha, student.shape[1], student), (edge_temperature, body_temperature)
    edge, body = _Terms.apply(
        student, teacher, labels, alphas, edge_width, ignore_index, temperatures, pre_mask, post_mask
    )
    return BPKDTerms(edge_weight * edge + body_weight * body, edge, body)


class _Terms(torch.autograd.Function):
    """The terms L_E and L_B; each keeps one map for its gradient, which is in closed form.

    On a CPU a few images after the other, from their labels to their gradient: on large maps, memory traffic costs
    more than arithmetic.
    """

    @staticmethod
    def forward(
        ctx: Any,
        student: Tensor,
        teacher: Tensor,
        labels: Tensor,
        alphas: Tensor,
        edge_width: int,
        ignore_index: int,
        temperatures: tuple[float, float],
        pre_mask: bool,
        post_mask: bool,
    ) -> tuple[Tensor, Tensor]:
        classes, grid = student.shape[1], (student.shape[2], student.shape[3])
        ids = id_parts(labels, classes, edge_width, ignore_index)
        counts = [len(part) for part in ids]
        parts = []
        for some, theirs, part in zip(torch.split(student, counts), torch.split(teacher, counts), ids, strict=True):
            masks = shares_of(part, classes, edge_width, grid).to(student.dtype)
            parts.append(_of_images(some, theirs, masks, alphas, temperatures, pre_mask))
        differences = [(edge, body.view_as(edge)) for *_, edge, body in parts]
        phi, weights, divergence, valid = (
            whole(list(each)) for each in zip(*(part[:4] for part in parts), strict=True)
        )
        # Images without a labelled pixel have zero terms, so they need no weight.
        images = (valid > 0).flatten(1).any(1).sum().clamp(min=1)
        if not post_mask:  # the mean over labelled pixels, which are those of all images
            weights = valid * (alphas.mean() * images / valid.sum().clamp(min=SMALLEST_WEIGHT))
        weights = weights / images
        ctx.temperatures = temperatures
        ctx.save_for_backward(weights, images, *(each for pair in differences for each in pair))
        return (phi * weights).sum(), divergence.mean(1).sum() / images

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_edge: Tensor, of_body: Tensor) -> tuple[Tensor | None, ...]:
        weights, images, *differences = ctx.saved_tensors
        edges, bodies = differences[::2], differences[1::2]
        weights = torch.split((weights * (of_edge * ctx.temperatures[0])).unsqueeze(1), [len(part) for part in edges])
        of_body = of_body * ctx.temperatures[1] / (images * edges[0].shape[1])
        gradient = whole([edge * weight for edge, weight in zip(edges, weights, strict=True)])
        for some, body in zip(torch.split(gradient, [len(part) for part in bodies]), bodies, strict=True):
            some.addcmul_(body, of_body)
        return gradient, None, None, None, None, None, None, None, None


def _of_images(
    student: Tensor,
    teacher: Tensor,
    masks: Tensor,
    alphas: Tensor,
    temperatures: tuple[float, float],
    pre_mask: bool,
) -> tuple[Tensor, ...]:
    """Return phi [B, h, w], its weights, the body's KL [B, C], what is labelled [B, h, w], and both differences.

    `masks` [B, C + 1, h, w] are the edges of each class and, last, the labelled shares.
    """
    at_edge, valid = masks[:, :-1], masks[:, -1:]
    phi, at_edges = kl_and_difference(student, teacher, 1, temperatures[0], at_edge if pre_mask else None)
    locations = at_edge.ceil().sum((2, 3)).clamp(min=1)  # ceil: 1 wherever M_E > 0
    weights = (at_edge * (alphas / locations)[:, :, None, None]).sum(1)
    in_body = (1 - at_edge).mul_(valid).flatten(2)
    low = low_where_not(valid > 0, student.dtype).flatten(2)
    divergence, in_bodies = kl_and_difference(student.flatten(2), teacher.flatten(2), 2, temperatures[1], in_body, low)
    return phi, weights, divergence, valid.squeeze(1), at_edges, in_bodies


class BPKDLoss(nn.Module):
    """`bpkd_loss` as a module with fixed settings, its keyword arguments. Raises `TypeError` if one is unknown."""

    def __init__(self, **settings: Any) -> None:
        super().__init__()
        inspect.signature(bpkd_loss).bind_partial(**settings)
        self.settings = settings

    def forward(self, student_logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> BPKDTerms:
        """Return the terms of `bpkd_loss` for logits [B, C, h, w] and labels [B, H, W]."""
        return bpkd_loss(student_logits, teacher_logits, labels, **self.settings)

    def extra_repr(self) -> str:
        """Return the settings, for `repr`."""
        return ", ".join(f"{name}={value}" for name, value in self.settings.items())


def _per_class(alpha: float | Sequence[float], num_classes: int, like: Tensor) -> Tensor:
    if isinstance(alpha, int | float):
        return torch.full((), alpha, dtype=like.dtype, device=like.device).expand(num_classes)
    # `non_blocking`, because a plain copy to a GPU waits for all queued work.
    alphas = torch.as_tensor(alpha, dtype=like.dtype).flatten().to(like.device, non_blocking=True)
    if len(alphas) not in (1, num_classes):
        raise ValueError(f"alpha: got {len(alphas)} numbers, must be one, or one for each of {num_classes}")
    return alphas.expand(num_classes)
