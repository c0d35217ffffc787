"""Logits and classes of whole images, for every place that measures, shows or writes predictions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from bpkd_search.config.data import Eval
from bpkd_search.errors import DataError
from bpkd_search.models.build import autocast
from bpkd_search.models.heads import resize
from bpkd_search.models.network import Network

WHOLE = Eval()
# Pixels in one pass of a network.
PIXELS = 2**23
# Values of an enlarged map at a time: 64 MiB in float32.
VALUES = 2**24
# Classes at a time where the map of one image is larger. PyTorch's resizing on a CPU rounds by other rules for fewer
# than four channels, and the channels of an incomplete vector register differently: parts of 16 give the same bits.
CLASSES = 16


def predict_logits(model: Network, images: Tensor, evaluation: Eval = WHOLE, *, amp: bool = True) -> Tensor:
    """Return the logits of a model in evaluation mode, float32 [B, C, h, w] at the size of `images` [B, 3, h, w].

    With several passes (`flip`, `scales`), they are the mean of the passes' softmax probabilities instead, as in the
    multi-scale tests of papers. `images` may be on any device; the result is on the model's. `amp` computes
    in mixed precision if the device supports it. Raises `DataError` if the network cannot take images of that size.
    """
    with torch.inference_mode():
        return _at(_scores(model, images, evaluation, amp), images.shape[-2:])


def predict_classes(
    model: Network, images: Tensor, size: Sequence[int], evaluation: Eval = WHOLE, *, amp: bool = True
) -> Tensor:
    """Return the class ids that a model in evaluation mode predicts, int64 [B, height, width], on the model's device.

    `size` is (height, width) of the result, and otherwise as `predict_logits`. The logits of a single pass over whole
    images are resized once, from the network's stride to `size`. Maps of all classes are enlarged in parts, which
    changes no bit of the result on a CPU.
    """
    at_once = len(images)
    if evaluation.mode == "slide" or len(_passes(evaluation)) > 1:
        at_once = max(1, VALUES // (model.num_classes * images.shape[-2] * images.shape[-1]))
    with torch.inference_mode():
        parts = [_largest(_scores(model, some, evaluation, amp), size) for some in torch.split(images, at_once)]
        return torch.cat(parts)


def input_sizes(size: Sequence[int], evaluation: Eval) -> list[tuple[int, int]]:
    """Return the sizes (height, width) at which a network sees an image of `size`."""
    return [evaluation.windows()[0]] if evaluation.mode == "slide" else [_scaled(size, s) for s in evaluation.scales]


def _scaled(size: Sequence[int], scale: float) -> tuple[int, int]:
    height, width = (max(1, round(scale * side)) for side in size)
    return height, width


def _passes(evaluation: Eval) -> list[tuple[float, bool]]:
    """Return scale and flip of each pass."""
    return [(scale, flip) for scale in evaluation.scales for flip in (False, True)[: 1 + evaluation.flip]]


def _scores(model: Network, images: Tensor, evaluation: Eval, amp: bool) -> Tensor:
    """Return the logits of a single pass, at whatever resolution it gives them; of several, mean probabilities."""
    passes = _passes(evaluation)
    images = images.to(model.mean.device)
    total: Tensor | None = None
    for scale, flip in passes:
        seen = images.flip(-1) if flip else images
        if scale != 1:
            seen = F.interpolate(seen.float(), _scaled(images.shape[-2:], scale), mode="bilinear", antialias=True)
        logits = _slide(model, seen, evaluation, amp) if evaluation.mode == "slide" else _whole(model, seen, amp)
        logits = logits.flip(-1) if flip else logits
        if len(passes) == 1:
            return logits
        probabilities = resize(logits, images.shape[-2:])
        for rows in torch.split(probabilities, max(1, VALUES // probabilities[:, :, 0].numel()), dim=2):
            rows.copy_(rows.softmax(1))
        total = probabilities if total is None else total.add_(probabilities)
    assert total is not None
    return total.div_(len(passes))


def _slide(model: Network, images: Tensor, evaluation: Eval, amp: bool) -> Tensor:
    """Return logits [B, C, h, w] at the size of `images`, the mean of all windows that contain a pixel."""
    (height, width), strides = evaluation.windows()
    count, _, *size = images.shape
    rows, columns = max(size[0], height), max(size[1], width)
    if [rows, columns] != size:
        # The mean colour: zero after normalisation.
        padded = model.mean.round().to(images).repeat(count, 1, rows, columns)
        padded[..., : size[0], : size[1]] = images
        images = padded
    places = [(top, left) for top in _starts(rows, height, strides[0]) for left in _starts(columns, width, strides[1])]
    total = times = torch.zeros(0)
    at_once = max(1, PIXELS // (count * height * width))
    for first in range(0, len(places), at_once):
        some = places[first : first + at_once]
        windows = torch.cat([images[..., top : top + height, left : left + width] for top, left in some])
        for (top, left), logits in zip(some, torch.split(_whole(model, windows, amp), count), strict=True):
            if not total.numel():
                total = logits.new_zeros(count, logits.shape[1], rows, columns)
                times = logits.new_zeros(rows, columns)
            total[..., top : top + height, left : left + width] += resize(logits, (height, width))
            times[top : top + height, left : left + width] += 1
    return total.div_(times)[..., : size[0], : size[1]]


def _starts(length: int, window: int, stride: int) -> list[int]:
    """Return where windows start on an axis; the last one ends at the border."""
    return [*range(0, length - window, stride), length - window]


def _whole(model: Network, images: Tensor, amp: bool) -> Tensor:
    """Return logits float32 [B, C, h, w] at the network's stride."""
    try:
        with autocast(images.device, amp):
            logits: Tensor = model(images)
    except (torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as e:  # whatever networks raise for sizes that they do not support
        reason = (str(e).strip() or type(e).__name__).splitlines()[0]
        raise DataError(
            f"the network cannot read an image of {images.shape[-2]}x{images.shape[-1]} pixels ({reason}): resize"
            " images to a size that it supports, or set data.eval.mode to slide with such a data.eval.crop"
        ) from e
    return logits.float()


def _at(scores: Tensor, size: Sequence[int]) -> Tensor:
    """Resize [B, C, h, w] unless it has the size already."""
    return scores if scores.shape[-2:] == tuple(size) else resize(scores, size)


def _largest(scores: Tensor, size: Sequence[int]) -> Tensor:
    """Return the class with the largest score, [B, height, width], of scores [B, C, h, w] resized to `size`."""
    if scores.shape[-2:] == tuple(size):
        return scores.max(dim=1).indices
    classes, pixels = scores.shape[1], size[0] * size[1]
    step = classes if classes * pixels <= VALUES else CLASSES
    # The layout decides which of PyTorch's kernels resizes.
    layout = torch.contiguous_format if scores.is_contiguous() else torch.channels_last
    found = []
    for some in torch.split(scores, max(1, VALUES // (classes * pixels))):
        best = ids = torch.zeros(0)
        for first in range(0, max(1, classes - step + 1), step):
            last = classes if first + 2 * step > classes else first + step
            values, index = resize(some[:, first:last].contiguous(memory_format=layout), size).max(dim=1)
            if first == 0:
                best, ids = values, index
            else:
                ids = torch.where(values > best, index + first, ids)
                best = torch.maximum(best, values)
        found.append(ids)
    return torch.cat(found)
