"""A training step's forward pass, the same for every loss: the student and its cross-entropy, plain or compiled."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

from bpkd_search.errors import ResourceError
from bpkd_search.models import Segmentor
from bpkd_search.models.heads import resize

BACKEND = "inductor"
# Students and batch sizes that have compiled code side by side; PyTorch stops compiling at 8.
CODES = 64

Outputs = tuple[Tensor, Tensor, Tensor]


def forward(student: Segmentor, images: Tensor, labels: Tensor, ignore_index: int) -> Outputs:
    """Logits [B, C, h, w], features [B, channels, h, w], and the cross-entropy summed over labelled pixels.

    Images are [B, 3, H, W] as `Segmentor` takes them, labels [B, H, W]; logits are resized to the labels' grid.
    """
    logits, features = student(images, return_features=True)
    upsampled = resize(logits.float(), labels.shape[-2:])
    return logits, features, F.cross_entropy(upsampled, labels.long(), ignore_index=ignore_index, reduction="sum")


def compiled_forward(student: Segmentor, images: Tensor, labels: Tensor, ignore_index: int) -> Outputs:
    """`forward` by `torch.compile`, equal to it up to rounding.

    Code is kept by the process and serves every student of the same architecture at the same batch shape, so only
    the first run of many waits for it. Shapes are static: a run's numbers do not depend on what ran before it in the
    process. Raises `ResourceError` where PyTorch cannot compile.
    """
    from torch._dynamo.exc import BackendCompilerFailed

    try:
        return _compiled()(student, images, labels, ignore_index)
    except BackendCompilerFailed as e:
        reason = (str(e.inner_exception).strip() or type(e.inner_exception).__name__).splitlines()[0]
        raise ResourceError(f"train.compile: got true, PyTorch cannot compile here: {reason}; set it to false") from e


@cache
def _compiled() -> Callable[[Segmentor, Tensor, Tensor, int], Outputs]:
    # Not before it is wanted: the import alone takes seconds.
    import torch._dynamo

    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, CODES)
    code: Callable[[Segmentor, Tensor, Tensor, int], Outputs] = torch.compile(forward, dynamic=False, backend=BACKEND)
    return code


def forget_code() -> None:
    """Drop all compiled code; the next `compiled_forward` compiles again."""
    if _compiled.cache_info().currsize:
        _compiled.cache_clear()
        torch._dynamo.reset()
