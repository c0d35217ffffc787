"""How many images of a batch to process at once, and the whole of what came of them."""

from __future__ import annotations

import torch
from torch import Tensor

# Bytes of one map on a CPU: fewer add overhead, more exceed its cache.
_CACHED = 2**20


def images_at_once(images: int, image_bytes: int, device: torch.device) -> int:
    """Return how many images fit a CPU's cache, at least one; all on a GPU and in compiled code: few, large operations.

    `image_bytes` is the size of the largest map of an image.
    """
    if device.type != "cpu" or torch.compiler.is_compiling():
        return max(1, images)
    return max(1, _CACHED // max(1, image_bytes))


def whole(parts: list[Tensor]) -> Tensor:
    """Return the parts of a batch as one map; a single one as it is."""
    return parts[0] if len(parts) == 1 else torch.cat(parts)
