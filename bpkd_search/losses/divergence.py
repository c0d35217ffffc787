"""Shared parts of the losses: one grid, one precision, two Kullback-Leibler divergences, one reduction.

A location of the logit grid covers a cell of label pixels. Its weight is the share of its pixels that
are labelled (`valid_fraction`), so that all labelled pixels have equal weight and ignored ones none.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from bpkd_search.losses.parts import images_at_once

# Below any labelled share, and large enough that its reciprocal times a large loss weight is finite.
SMALLEST_WEIGHT = 1e-12


def on_one_grid(student: Tensor, teacher: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return both maps [B, C, h, w] in float32 (float64 is kept) on the teacher's grid; the teacher is detached.

    The student's map is resized bilinearly (`align_corners=False`) if the grids differ. `labels` are [B, H, W].
    Raises `ValueError` if a shape does not fit.
    """
    batches = {student.shape[0], teacher.shape[0], labels.shape[0]}
    if (student.ndim, teacher.ndim, labels.ndim) != (4, 4, 3) or len(batches) > 1:
        raise ValueError(
            f"got student {tuple(student.shape)}, teacher {tuple(teacher.shape)}, "
            f"labels {tuple(labels.shape)}: must be [B, C, h, w] twice and [B, H, W], with one B"
        )
    student, teacher = _full_precision(student), _full_precision(teacher.detach())
    if student.shape[2:] != teacher.shape[2:]:
        student = F.interpolate(student, size=teacher.shape[2:], mode="bilinear", align_corners=False)
    return student, teacher.to(student.dtype)


def logits_on_one_grid(student: Tensor, teacher: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """As `on_one_grid`, for class logits. Raises `ValueError` also if the numbers of classes differ."""
    if student.ndim == teacher.ndim == 4 and student.shape[1] != teacher.shape[1]:
        raise ValueError(
            f"the student has {student.shape[1]} classes and the teacher {teacher.shape[1]}: must be the same"
        )
    return on_one_grid(student, teacher, labels)


def kl_over_classes(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Compute tau^2 KL(teacher || student) of the softmax over classes per location: [B, C, h, w] -> [B, h, w]."""
    divergence: Tensor = _KL.apply(student, teacher, 1, temperature, None)
    return divergence


def kl_over_space(student: Tensor, teacher: Tensor, support: Tensor, temperature: float) -> Tensor:
    """Compute tau^2 KL(teacher || student) of each class's softmax over the supported locations: [B, C].

    Logits are [B, C, h, w]; `support` [B, 1, h, w] is bool. An image without support has KL 0.
    """
    low = low_where_not(support, student.dtype).flatten(2)
    divergence: Tensor = _KL.apply(student.flatten(2), teacher.flatten(2), 2, temperature, low)
    return divergence


def kl_and_difference(
    student: Tensor,
    teacher: Tensor,
    dim: int,
    temperature: float,
    scale: Tensor | None = None,
    offset: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Compute tau^2 KL along `dim` of softmax(logits * scale / tau + offset), and the difference that is its gradient.

    The gradient with respect to the student's logits is tau times the second result, which is shaped like them. Not
    differentiable itself. Few temporaries, and few images at once on a CPU: on large maps, memory traffic costs more
    than arithmetic.
    """

    at_once = images_at_once(len(student), student[0].numel() * student.element_size(), student.device)
    if at_once >= len(student):
        return _kl_and_difference(student, teacher, dim, temperature, scale, offset)
    parts = [slice(start, start + at_once) for start in range(0, len(student), at_once)]
    results = [
        _kl_and_difference(
            student[part],
            teacher[part],
            dim,
            temperature,
            None if scale is None else scale[part],
            None if offset is None else offset[part],
        )
        for part in parts
    ]
    divergence, difference = zip(*results, strict=True)
    return torch.cat(divergence), torch.cat(difference)


def _kl_and_difference(
    student: Tensor, teacher: Tensor, dim: int, temperature: float, scale: Tensor | None, offset: Tensor | None
) -> tuple[Tensor, Tensor]:
    def log_softmax(logits: Tensor) -> Tensor:
        if scale is not None:
            logits = logits * scale
        if temperature != 1.0:
            logits = logits / temperature if scale is None else logits.div_(temperature)
        if offset is not None:
            logits = logits + offset if scale is None else logits.add_(offset)
        return logits.log_softmax(dim)

    log_teacher, log_student = log_softmax(teacher), log_softmax(student)
    probability = log_teacher.exp()
    divergence = log_teacher.sub_(log_student).mul_(probability).sum(dim)
    difference = log_student.exp_().sub_(probability)
    if temperature != 1.0:
        divergence *= temperature**2
    return divergence, difference if scale is None else difference.mul_(scale)


def low_where_not(support: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the offset that excludes locations from a softmax: 0 where `support`, else very negative."""
    # A number instead of -inf: its softmax is 0 too, and 0 * (low - low) stays 0.
    # Half of the lowest leaves room for the logit that is added, which is faster than masked_fill.
    return (~support).to(dtype) * (torch.finfo(dtype).min / 2)


def weighted_mean(values: Tensor, weights: Tensor) -> Tensor:
    """Compute sum(values * weights) / sum(weights), a scalar; 0 if the weights sum to 0."""
    return (values * weights).sum() / weights.sum().clamp(min=SMALLEST_WEIGHT)


def mean_over_images(values: Tensor, support: Tensor) -> Tensor:
    """Compute the mean of `values` [B] over the images with a labelled location in `support` [B, 1, h, w]."""
    return weighted_mean(values, support.flatten(1).any(1).to(values.dtype))


class _KL(torch.autograd.Function):
    """The divergences of `kl_and_difference`, with their gradient in closed form."""

    @staticmethod
    def forward(
        ctx: Any,
        student: Tensor,
        teacher: Tensor,
        dim: int,
        temperature: float,
        offset: Tensor | None,
    ) -> Tensor:
        divergence, difference = kl_and_difference(student, teacher, dim, temperature, offset=offset)
        ctx.dim, ctx.temperature = dim, temperature
        ctx.save_for_backward(difference)
        return divergence

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (difference,) = ctx.saved_tensors
        return difference * (gradient * ctx.temperature).unsqueeze(ctx.dim), None, None, None, None


def _full_precision(values: Tensor) -> Tensor:
    return values if values.dtype == torch.float64 else values.float()
