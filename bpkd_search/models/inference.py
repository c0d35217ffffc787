"""From logits to class ids: what a network predicts, wherever predictions are measured, shown or written."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bpkd_search.models.build import autocast
from bpkd_search.models.heads import resize


def predict_classes(model: nn.Module, images: Tensor, size: Sequence[int], *, amp: bool = True) -> Tensor:
    """Class ids that a model in evaluation mode gives images, resized to `size` (height, width).

    `images` [B, 3, h, w] may be on any device; the ids, int64 [B, height, width], are on the model's. `amp` computes
    the logits in mixed precision where the device has it; they are resized in float32.
    """
    device = next(model.parameters()).device
    with torch.inference_mode():
        with autocast(device, amp):
            logits: Tensor = model(images.to(device))
        return resize(logits.float(), size).argmax(dim=1)
