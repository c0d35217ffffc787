"""Distillation of class logits without edges: KD, CWD, DIST and DKD.

One reduction for all: a mean per labelled pixel or per class, times tau^2, so that weights are comparable across
batch sizes, crop sizes and numbers of classes. A location is weighted by the labelled share of its cell;
without any labelled pixel every loss is 0. Logits are [B, C, h, w], the student's resized to the teacher's
grid; `labels` are [B, H, W] integers; results are scalars; no gradient flows to the teacher. All raise
`ValueError` if the numbers of classes differ.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bpkd_search.losses.divergence import (
    SMALLEST_WEIGHT,
    kl_over_classes,
    kl_over_space,
    logits_on_one_grid,
    mean_over_images,
    weighted_mean,
)
from bpkd_search.losses.edges import valid_fraction


def kd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    *,
    weight: float = 1.0,
    temperature: float = 1.0,
    standardise: bool = False,
    ignore_index: int = 255,
) -> Tensor:
    """Compute pixel-wise KD: tau^2 KL(teacher || student) over classes, mean per labelled pixel, times `weight`.

    With `standardise`, each pixel's logits are z-scored over classes (population deviation) before the division by
    the temperature, so that the student need not match the teacher's range. Source: Hinton et al. 2015
    (arXiv 1503.02531); per pixel: Liu et al. 2019 (arXiv 1903.04197); standardised: Sun et al. 2024 (arXiv 2403.01427).
    """
    student, teacher = logits_on_one_grid(student_logits, teacher_logits, labels)
    if standardise:
        student, teacher = _z_scores(student), _z_scores(teacher)
    valid = _valid_fraction(labels, student, ignore_index)
    return weight * weighted_mean(kl_over_classes(student, teacher, temperature), valid.squeeze(1))


def cwd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    *,
    weight: float = 3.0,
    temperature: float = 4.0,
    ignore_index: int = 255,
) -> Tensor:
    """Compute channel-wise KD: tau^2 KL over space per class, mean over classes and images, times `weight`.

    Locations without a labelled pixel are excluded from the softmax, and images without any from the mean.
    Source: Shu et al. 2021 (arXiv 2011.13256).
    """
    student, teacher = logits_on_one_grid(student_logits, teacher_logits, labels)
    support = _valid_fraction(labels, student, ignore_index) > 0
    divergence = kl_over_space(student, teacher, support, temperature)
    return weight * mean_over_images(divergence.mean(1), support)


def dist_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    *,
    weight: float = 1.0,
    inter_weight: float = 1.0,
    intra_weight: float = 1.0,
    temperature: float = 1.0,
    ignore_index: int = 255,
) -> Tensor:
    """Compute DIST: 1 - Pearson correlation of the probabilities, over classes (inter) and over pixels (intra).

    Inter: per pixel, mean per labelled pixel. Intra: per class over all labelled pixels of the batch, mean
    per class. Both times tau^2. Source: Huang et al. 2022 (arXiv 2205.10536).
    """
    student, teacher = logits_on_one_grid(student_logits, teacher_logits, labels)
    valid = _valid_fraction(labels, student, ignore_index)
    student = (student / temperature).softmax(1)
    teacher = (teacher / temperature).softmax(1)
    over_classes = _one_minus_pearson(student, teacher, torch.ones_like(student[:1, :, :1, :1]), (1,))
    over_pixels = _one_minus_pearson(student, teacher, valid, (0, 2, 3))
    inter, intra = weighted_mean(over_classes, valid), over_pixels.mean()
    return weight * temperature**2 * (inter_weight * inter + intra_weight * intra)


def dkd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    *,
    weight: float = 1.0,
    alpha: float = 1.0,
    beta: float = 8.0,
    temperature: float = 4.0,
    ignore_index: int = 255,
) -> Tensor:
    """Compute decoupled KD per pixel: tau^2 (alpha TCKD + beta NCKD), mean per labelled location, times `weight`.

    TCKD is the KL of target class against the rest, NCKD the KL among the rest. A location's target is its
    nearest label, and a location whose nearest label is ignored is excluded. Source: Zhao et al. 2022
    (arXiv 2203.08679).
    """
    student, teacher = logits_on_one_grid(student_logits, teacher_logits, labels)
    target = _nearest(labels, student.shape[2], student.shape[3]).to(torch.int64)
    valid = (target != ignore_index) & (target >= 0) & (target < student.shape[1])
    index = torch.where(valid, target, 0).unsqueeze(1)
    target_student, rest_student = _decouple(student / temperature, index)
    target_teacher, rest_teacher = _decouple(teacher / temperature, index)
    tckd = (target_teacher.exp() * (target_teacher - target_student)).sum(1)
    nckd = kl_over_classes(rest_student, rest_teacher, 1.0)
    return weight * temperature**2 * weighted_mean(alpha * tckd + beta * nckd, valid.to(student.dtype))


def _valid_fraction(labels: Tensor, logits: Tensor, ignore_index: int) -> Tensor:
    return valid_fraction(labels, (logits.shape[2], logits.shape[3]), ignore_index).to(logits.dtype)


def _z_scores(logits: Tensor) -> Tensor:
    """Return logits minus their mean over classes, divided by their deviation; zeros if all classes are equal."""
    centred = logits - logits.mean(1, keepdim=True)
    # The floor keeps the gradient finite where all classes are equal.
    return centred / centred.square().mean(1, keepdim=True).clamp(min=1e-12).sqrt()


def _one_minus_pearson(x: Tensor, y: Tensor, weights: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Return 1 - the weighted correlation along `dims`, kept; exactly 0 for equal inputs, including constant ones."""
    total = weights.sum(dims, keepdim=True).clamp(min=SMALLEST_WEIGHT)

    def standardised(values: Tensor) -> Tensor:
        centred = values - (values * weights).sum(dims, keepdim=True) / total
        variance = (centred.square() * weights).sum(dims, keepdim=True) / total
        # The floor, far below any real spread of probabilities, avoids amplifying rounding noise.
        return centred / variance.clamp(min=1e-12).sqrt()

    # Half the squared distance of standardised variables is one minus their correlation, without cancellation.
    return ((standardised(x) - standardised(y)).square() * weights).sum(dims, keepdim=True) / total / 2


def _decouple(logits: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """Return log-probabilities of target and rest, [B, 2, h, w], and the logits without the target class."""
    log_probs = logits.log_softmax(1)
    low = torch.finfo(logits.dtype).min
    rest = log_probs.scatter(1, index, low)
    return torch.cat([log_probs.gather(1, index), rest.logsumexp(1, keepdim=True)], 1), rest


def _nearest(labels: Tensor, height: int, width: int) -> Tensor:
    """Return the label at each cell's centre, [B, h, w]."""
    rows = (2 * torch.arange(height, device=labels.device) + 1) * labels.shape[1] // (2 * height)
    columns = (2 * torch.arange(width, device=labels.device) + 1) * labels.shape[2] // (2 * width)
    return labels[:, rows][:, :, columns]
