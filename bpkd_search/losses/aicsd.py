"""AICSD: inter-class similarity distillation of spatial distributions (Mansourian et al., arXiv 2308.04243).

    p_c = softmax over space of class c's logits        ICS[c, d] = KL(p_c || p_d)
    L_ics = mean over pairs of classes of (ICS of the teacher - ICS of the student)^2
    L_pixel = pixel-wise KD

The paper fades both terms while the weight of the cross-entropy rises. Here the cross-entropy keeps weight 1 and
the fading is a schedule of the two weights. The formulas are the paper's; its public code has no licence and
computes other losses, so its weights are not converted.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from bpkd_search.losses.divergence import (
    kl_over_classes,
    logits_on_one_grid,
    mean_over_images,
    weighted_mean,
)
from bpkd_search.losses.edges import valid_fraction


class AICSDTerms(NamedTuple):
    """The scalars of `aicsd_loss`: `total` is weighted, `ics` and `pixel` are not."""

    total: Tensor
    ics: Tensor
    pixel: Tensor


def aicsd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    *,
    ics_weight: float = 1.0,
    pixel_weight: float = 1.0,
    temperature: float = 1.0,
    ignore_index: int = 255,
) -> AICSDTerms:
    """Compute inter-class similarity distillation of class logits plus pixel-wise KD.

    Logits are [B, C, h, w], the student's resized to the teacher's grid; `labels` [B, H, W] are integers. Returns
    scalars: the similarity term is a mean over the C x C pairs of classes and over the images with a labelled pixel;
    locations without a labelled pixel are excluded from the softmax over space. The pixel term is `kd_loss`. The logits
    of both terms are divided by `temperature`. No gradient flows to the teacher. Zero without any labelled pixel.

    Raises `ValueError` if the numbers of classes differ. Source: Mansourian et al. 2023 (arXiv 2308.04243).
    """
    student, teacher = logits_on_one_grid(student_logits, teacher_logits, labels)
    valid = valid_fraction(labels, (student.shape[2], student.shape[3]), ignore_index).to(student.dtype)
    support = valid > 0
    difference = inter_class_similarity(student, support, temperature) - inter_class_similarity(
        teacher, support, temperature
    )
    ics = mean_over_images(difference.square().mean((1, 2)), support)
    pixel = weighted_mean(kl_over_classes(student, teacher, temperature), valid.squeeze(1))
    return AICSDTerms(ics_weight * ics + pixel_weight * pixel, ics, pixel)


def inter_class_similarity(logits: Tensor, support: Tensor, temperature: float = 1.0) -> Tensor:
    """Compute KL(p_c || p_d) of every pair of classes' softmax over the supported locations: [B, C, C] in nats.

    `logits` are [B, C, h, w]; `support` [B, 1, h, w] is bool. An image without support has KL 0.
    """
    # Half of the lowest number instead of -inf: its softmax is 0 too, and 0 times it is 0, not NaN.
    low = (~support).to(logits.dtype) * (torch.finfo(logits.dtype).min / 2)
    log_p = (logits / temperature + low).flatten(2).log_softmax(2)
    p = log_p.exp()
    # Where p is 0, log p must not be the lowest number: the matrix product would sum up many of them.
    log_p = log_p.masked_fill(~support.flatten(2), 0.0)
    with torch.autocast(logits.device.type, enabled=False):  # matrix products would run in half precision
        own, cross = (p * log_p).sum(2, keepdim=True), p @ log_p.transpose(1, 2)
    return (own - cross) * support.flatten(1).any(1)[:, None, None]
