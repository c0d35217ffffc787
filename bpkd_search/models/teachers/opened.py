"""What the opener of a format returns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from bpkd_search.config.networks import Input
from bpkd_search.errors import CheckpointError

# Names under which networks return their logits, the first that is there.
LOGITS = ("logits", "out", "output")


@dataclass(frozen=True)
class Opened:
    """A network of other software, on its device: `network` maps normalised images to its own kind of output.

    `classes` are its class names, None if its files have none; `size` and `batch` the only ones that it can take, None
    for any. One whose `dtype` is uint8 normalises images itself.
    """

    network: Callable[[Tensor], Any]
    input: Input = field(default_factory=Input)
    classes: tuple[str, ...] | None = None
    size: tuple[int, int] | None = None
    batch: int | None = None
    dtype: torch.dtype = torch.float32


def logits_in(output: Any) -> Tensor:
    """Return the logits [B, C, h, w] in a network's output: a tensor, the first of a tuple, or one of a mapping.

    Raises `CheckpointError` if there are none.
    """
    for name in LOGITS:
        if isinstance(output, dict) and name in output:
            output = output[name]
        elif not isinstance(output, Tensor) and isinstance(getattr(output, name, None), Tensor):
            output = getattr(output, name)
    if isinstance(output, tuple | list) and output:
        output = output[0]
    if not isinstance(output, Tensor):
        raise CheckpointError(
            f"returns {type(output).__name__}, must return logits: a tensor, a tuple that begins with one, or a mapping"
            f" with one of the keys {', '.join(LOGITS)}"
        )
    if output.ndim != 4:
        raise CheckpointError(f"returns a tensor of shape {list(output.shape)}, must be logits [B, C, h, w]")
    return output


def sentence(error: BaseException) -> str:
    """Return the first line of what an error says, or its name; of one in TorchScript the last, which has the cause."""
    lines = (str(error).strip() or type(error).__name__).splitlines()
    return lines[-1 if "TorchScript interpreter" in lines[0] else 0]
