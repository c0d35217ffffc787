"""The forward pass of a training step, the same for every loss: student and cross-entropy, eager or compiled."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bpkd_search.config.optimisation import Optimisation
from bpkd_search.errors import ResourceError
from bpkd_search.models import Network
from bpkd_search.models.heads import resize

BACKEND = "inductor"
# Students and batch sizes with compiled code at the same time; PyTorch's default limit is 8.
CODES = 64

Outputs = tuple[Tensor, Tensor | None, Tensor]
Forward = Callable[[Network, Tensor, Tensor, int], Outputs]


def forward(student: Network, images: Tensor, labels: Tensor, ignore_index: int) -> Outputs:
    """Return logits [B, C, h, w], features or None, and the cross-entropy summed over labelled pixels.

    Images are [B, 3, H, W] as `Network` takes them, labels [B, H, W]; logits are resized to the labels' grid. That of
    an auxiliary head is added with its weight.
    """
    logits, features, auxiliary = student.outputs(images)
    ce = _cross_entropy(logits, labels, ignore_index)
    if auxiliary is not None:
        ce = ce + student.auxiliary_weight * _cross_entropy(auxiliary, labels, ignore_index)
    return logits, features, ce


def _cross_entropy(logits: Tensor, labels: Tensor, ignore_index: int) -> Tensor:
    upsampled = resize(logits.float(), labels.shape[-2:])
    return summed_cross_entropy(upsampled, labels.long(), ignore_index)


def summed_cross_entropy(logits: Tensor, labels: Tensor, ignore_index: int) -> Tensor:
    """Return the cross-entropy of logits [B, C, H, W] and labels int64 [B, H, W], summed over labelled pixels."""
    if not torch.are_deterministic_algorithms_enabled():
        return F.cross_entropy(logits, labels, ignore_index=ignore_index, reduction="sum")
    # PyTorch's own has no deterministic backward for maps on a GPU.
    known = labels != ignore_index
    picked = logits.log_softmax(1).gather(1, torch.where(known, labels, 0).unsqueeze(1)).squeeze(1)
    return -torch.where(known, picked, 0.0).sum()


def train_mode(student: Network, settings: Optimisation) -> None:
    """Set a network to training, and its BatchNorm layers to what the run asks for."""
    student.train()
    for module in student.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d | nn.SyncBatchNorm):
            module.train(settings.batchnorm == "train")
            if settings.batchnorm_momentum is not None:
                module.momentum = settings.batchnorm_momentum


def compiled_forward(student: Network, images: Tensor, labels: Tensor, ignore_index: int) -> Outputs:
    """Run `forward` with `torch.compile`, equal up to rounding.

    The process keeps the code and uses it for every student of the same architecture at the same batch shape, so only
    the first of many runs waits for it. Shapes are static: the results of a run do not depend on earlier runs in the
    process. Raises `ResourceError` if PyTorch cannot compile.
    """
    from torch._dynamo.exc import BackendCompilerFailed

    try:
        return _compiled()(student, images, labels, ignore_index)
    except BackendCompilerFailed as e:
        reason = (str(e.inner_exception).strip() or type(e.inner_exception).__name__).splitlines()[0]
        raise ResourceError(f"train.compile: got true, PyTorch cannot compile here: {reason}; set it to false") from e


@cache
def _compiled() -> Forward:
    # Only when needed: the import alone takes seconds.
    import torch._dynamo
    import torch._inductor.config

    # Dropout drops the same maps as without compiling.
    torch._inductor.config.fallback_random = True
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, CODES)
    code: Forward = torch.compile(forward, dynamic=False, backend=BACKEND)
    return code


def forget_code() -> None:
    """Drop all compiled code; the next `compiled_forward` compiles again."""
    if _compiled.cache_info().currsize:
        _compiled.cache_clear()
        torch._dynamo.reset()
