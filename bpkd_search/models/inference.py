"""Class predictions from logits, for every place that measures, shows or writes predictions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bpkd_search.models.build import autocast
from bpkd_search.models.heads import resize


def predict_classes(model: nn.Module, images: Tensor, size: Sequence[int], *, amp: bool = True) -> Tensor:
    """Return the class ids that a model in evaluation mode predicts, int64 [B, height, width], on the model's device.

    `images` [B, 3, h, w] may be on any device; `size` is (height, width) of the result. `amp` computes the logits in
    mixed precision if the device supports it; they are resized bilinearly in float32.
    """
    device = next(model.parameters()).device
    with torch.inference_mode():
        with autocast(device, amp):
            logits: Tensor = model(images.to(device))
        return resize(logits.float(), size).argmax(dim=1)
