"""Distillation of feature maps, which needs an online teacher: stored logits are not enough."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from bpkd_search.losses.divergence import on_one_grid, weighted_mean
from bpkd_search.losses.edges import valid_fraction


class FeatureMSE(nn.Module):
    """FitNets: mean squared error of features after a learned 1x1 convolution to the teacher's channels.

    Mean over channels and labelled pixels, times `weight`. The projection is trained with the student.
    Source: Romero et al. 2015 (arXiv 1412.6550).
    """

    def __init__(self, student_channels: int, teacher_channels: int) -> None:
        super().__init__()
        self.projection = nn.Conv2d(student_channels, teacher_channels, kernel_size=1, bias=False)

    def forward(
        self,
        student_features: Tensor,
        teacher_features: Tensor,
        labels: Tensor,
        *,
        weight: float = 10.0,
        ignore_index: int = 255,
    ) -> Tensor:
        """Compute the scalar loss of features [B, C_s, h, w] and [B, C_t, h', w'] and labels [B, H, W]."""
        student, teacher = on_one_grid(self.projection(student_features), teacher_features, labels)
        valid = valid_fraction(labels, (teacher.shape[2], teacher.shape[3]), ignore_index).to(teacher.dtype)
        return weight * weighted_mean((student - teacher).square().mean(1), valid.squeeze(1))


def cirkd_loss(
    student_features: Tensor,
    teacher_features: Tensor,
    labels: Tensor,
    *,
    weight: float = 1.0,
    temperature: float = 0.1,
    ignore_index: int = 255,
) -> Tensor:
    """Compute cross-image relations within a batch: KL of each pixel's similarities to the pixels of every image.

    Returns a scalar from features [B, C_s, h, w] and [B, C_t, h', w'] and labels [B, H, W]. For each ordered pair
    of images, cosine similarities over `temperature` give a softmax over the second image's labelled locations;
    mean over the first's, then over pairs, times `weight`, without tau^2. There are no memory queues. Time grows
    with the square of the batch's locations, memory with that of one image's.
    Source: Yang et al. 2022 (arXiv 2204.06986), the mini-batch part.
    """
    student, teacher = on_one_grid(student_features, teacher_features, labels)
    valid = valid_fraction(labels, (teacher.shape[2], teacher.shape[3]), ignore_index).flatten(1) > 0
    student, teacher = F.normalize(student.flatten(2), dim=1), F.normalize(teacher.flatten(2), dim=1)
    # Unlabelled locations are masked, not removed: to count them, the host would have to wait for the GPU.
    nodes = list(zip(student, teacher, valid, strict=True))
    total = student.new_zeros(())
    with torch.autocast(student.device.type, enabled=False):
        for anchor in nodes:
            for other in nodes:
                pair = (*anchor, *other, temperature)
                total = total + checkpoint(_relation_kl, *pair, use_reentrant=False, preserve_rng_state=False)
    return weight * total / valid.any(1).sum().square().clamp(min=1)


def _relation_kl(
    student: Tensor,
    teacher: Tensor,
    valid: Tensor,
    other_student: Tensor,
    other_teacher: Tensor,
    other_valid: Tensor,
    temperature: float,
) -> Tensor:
    """Compute the mean over the valid locations of the first image; 0 if either image has none."""
    # As in `kl_over_space`: so low that the logit is absorbed, but not -inf.
    low = (~other_valid).to(student.dtype) * (torch.finfo(student.dtype).min / 2)
    log_student = (student.T @ other_student / temperature + low).log_softmax(1)
    log_teacher = (teacher.T @ other_teacher / temperature + low).log_softmax(1)
    return weighted_mean((log_teacher.exp() * (log_teacher - log_student)).sum(1), valid.to(student.dtype))
