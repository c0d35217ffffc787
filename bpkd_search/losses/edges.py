"""Class-wise edge masks of a label map, with one bit per class.

In a square window, "dilation minus erosion" of a class is 1 exactly where the window contains that class
and another one. Each pixel has the bit of its class, in bytes of eight classes, and the bits are OR-ed
over the window, all bytes at once (separably, by doubling: about log2(width) steps per axis). Where that adds
nothing to the pixel's own bit, the window is of one class and no edge. This equals the one-hot max-pooling bit for
bit at a small fraction of its time and memory. One more bit, after those of the classes, is that of ignored pixels.

Rules of every function here:
- The image border is not an edge: windows are clipped to the image.
- Ignored pixels have no class and start no edge, and a window that contains one is not an edge.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from bpkd_search.losses.parts import images_at_once, whole
from bpkd_search.losses.pooling import pool_bits
from bpkd_search.morphology import slide

MAX_CLASSES = 253


def edge_masks(
    labels: Tensor,
    num_classes: int,
    width: int,
    size: tuple[int, int] | None = None,
    ignore_index: int = 255,
) -> Tensor:
    """Compute the share of each cell's pixels that are edge of each class: float32 [B, C, h, w] in [0, 1].

    `labels` [B, H, W] of any integer type hold ids 0..C-1 and `ignore_index`; `width` is the odd side
    of the window in label pixels (7: up to 3 pixels to either side of an edge); `size` is the grid (h, w)
    of cells, those of `torch.nn.AdaptiveAvgPool2d`, or None for full resolution.

    Raises `ValueError` if width is even or not positive, there are more than 253 classes, or labels have a wrong shape
    or type or, on the CPU, an id that is neither a class nor `ignore_index`. On a GPU that check would stall the
    queue, and in compiled code it would split the graph, so such ids count as ignored there. Source: Liu et al. 2023
    (arXiv 2306.08075).
    """
    return masks_and_valid(labels, num_classes, width, size, ignore_index)[0]


def masks_and_valid(
    labels: Tensor, num_classes: int, width: int, size: tuple[int, int] | None = None, ignore_index: int = 255
) -> tuple[Tensor, Tensor]:
    """Compute `edge_masks` and `valid_fraction` in one pass over the labels: [B, C, h, w] and [B, 1, h, w]."""
    shares = whole(
        [shares_of(part, num_classes, width, size) for part in id_parts(labels, num_classes, width, ignore_index)]
    )
    return shares[:, :-1], shares[:, -1:]


def id_parts(labels: Tensor, num_classes: int, width: int, ignore_index: int = 255) -> tuple[Tensor, ...]:
    """Return labels as `shares_of` takes them, a few images in each part: what a CPU's cache holds; on a GPU all."""
    _check(labels, width)
    if not 1 <= num_classes <= MAX_CLASSES:
        raise ValueError(f"num_classes: got {num_classes}, must be 1 to {MAX_CLASSES}")
    ids = _byte_ids(labels, num_classes, ignore_index)
    return _parts(ids, labels.shape[1] * labels.shape[2] * (num_classes // 8 + 1))


def shares_of(ids: Tensor, num_classes: int, width: int, size: tuple[int, int] | None = None) -> Tensor:
    """Compute `masks_and_valid` of a part of `id_parts` as one map [b, C + 1, h, w], with the form for its device."""
    if not ids.is_cuda:
        return edge_shares(ids, num_classes, width, size)
    rows, columns = size or (ids.shape[1], ids.shape[2])
    shares: Tensor = torch.ops.bpkd_search.edge_shares(ids, num_classes, width, rows, columns)
    return shares


def edge_shares(ids: Tensor, num_classes: int, width: int, size: tuple[int, int] | None) -> Tensor:
    """Compute `masks_and_valid` as one map [B, C + 1, h, w] from `ids`, uint8 with C or more for ignored pixels."""
    groups, void = num_classes // 8 + 1, 1 << num_classes % 8
    first = torch.arange(0, 8 * groups, 8, dtype=torch.uint8, device=ids.device).view(-1, 1, 1)
    # A shift by 8 or more gives 0, and ids below `first` wrap around to such shifts.
    own = 1 << (ids.clamp(max=num_classes).unsqueeze(1) - first)
    words = slide(own, width, padding=width // 2, combine=torch.bitwise_or)
    other = (words ^ own).any(1)
    edge = (other > (words[:, -1] & void)).view(torch.uint8).neg()  # all bits or none
    words &= edge.unsqueeze(1)
    # An edge's window has no ignored pixel, so their bit is free: now it is that of the labelled ones. In bits, because
    # comparing bytes with a number is ten times slower.
    words[:, -1].bitwise_or_((own[:, -1] & void) ^ void)
    return pool_bits(words, num_classes + 1, size)


@torch.library.custom_op(
    "bpkd_search::edge_shares",
    mutates_args=(),
    schema="(Tensor ids, int num_classes, int width, int rows, int columns) -> Tensor",
)
def _on_gpu(ids: Tensor, num_classes: int, width: int, rows: int, columns: int) -> Tensor:
    """Compute `edge_shares` in the fastest form; one operation, so that it can be compiled with what is around it."""
    return fastest_form(ids.device)(ids, num_classes, width, (rows, columns))


@_on_gpu.register_fake
def _(ids: Tensor, num_classes: int, width: int, rows: int, columns: int) -> Tensor:
    return ids.new_empty((len(ids), num_classes + 1, rows, columns), dtype=torch.float32)


@cache
def fastest_form(device: torch.device) -> Callable[[Tensor, int, int, tuple[int, int] | None], Tensor]:
    """Return `edge_shares` as Triton kernels if they run on this device, else in PyTorch; equal bit for bit."""
    try:
        from bpkd_search.losses import edges_triton

        edges_triton.edge_shares(torch.zeros((1, 2, 2), dtype=torch.uint8, device=device), 1, 1, None)
    except Exception as e:  # no Triton, no C compiler, an old GPU, ...: as many errors as reasons
        logging.getLogger(__name__).debug("no Triton kernels on %s: %s", device, e)
        return edge_shares
    return edges_triton.edge_shares


def edge_band(labels: Tensor, width: int, ignore_index: int = 255) -> Tensor:
    """Compute where two classes meet within the window: bool [B, H, W], the union of the classes' edges.

    Arguments, rules and errors are those of `edge_masks`, without pooling.
    """
    _check(labels, width)
    labels, top = labels.to(torch.int32), torch.iinfo(torch.int32).max
    ids = labels.masked_fill((labels == ignore_index) | (labels < 0), top)
    highest = slide(ids, width, padding=width // 2, combine=torch.maximum)
    lowest = top - slide(top - ids, width, padding=width // 2, combine=torch.maximum)
    return (lowest != highest) & (highest != top)


def valid_fraction(labels: Tensor, size: tuple[int, int] | None = None, ignore_index: int = 255) -> Tensor:
    """Compute the share of each cell's pixels that are labelled: float32 [B, 1, h, w], cells as in `edge_masks`."""
    pixels = labels.shape[1] * labels.shape[2]
    return whole([pool_bits(_valid(part, ignore_index).unsqueeze(1), 1, size) for part in _parts(labels, pixels)])


def _parts(maps: Tensor, image_bytes: int) -> tuple[Tensor, ...]:
    return torch.split(maps, images_at_once(len(maps), image_bytes, maps.device))


def _valid(labels: Tensor, ignore_index: int) -> Tensor:
    if labels.dtype == torch.uint8 and 0 <= ignore_index <= 255:
        return (labels ^ ignore_index).clamp_(max=1)  # several times faster than a comparison
    return (labels != ignore_index).view(torch.uint8)


def _byte_ids(labels: Tensor, num_classes: int, ignore_index: int) -> Tensor:
    """Return labels as uint8, with C or more for ignored pixels and, where they do not raise, for invalid ids."""
    checked = labels.device.type == "cpu" and not torch.compiler.is_compiling()
    if labels.dtype == torch.uint8 and ignore_index == 255:
        if checked and int((labels + 1).max()) > num_classes:  # 255 + 1 wraps to 0
            raise _invalid_ids(labels, num_classes, ignore_index)
        return labels
    labels = labels.to(torch.int64)
    known = labels.clamp(0, num_classes - 1) == labels
    ignored = labels == ignore_index
    if checked and not bool((known | ignored).all()):
        raise _invalid_ids(labels, num_classes, ignore_index)
    return torch.where(known > ignored, labels, num_classes).to(torch.uint8)


def _invalid_ids(labels: Tensor, num_classes: int, ignore_index: int) -> ValueError:
    got = [i for i in sorted(set(labels.flatten().tolist())) if not 0 <= i < num_classes and i != ignore_index]
    return ValueError(
        f"labels: got ids {got[:5]}, must be 0 to {num_classes - 1}, or {ignore_index} for ignored pixels"
    )


def _check(labels: Tensor, width: int) -> None:
    if width < 1 or width % 2 == 0:
        raise ValueError(f"width: got {width}, must be an odd number of pixels")
    if labels.ndim != 3 or labels.is_floating_point():
        raise ValueError(
            f"labels: got {labels.dtype} of shape {tuple(labels.shape)}, must be integers of shape [B, H, W]"
        )
