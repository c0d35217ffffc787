"""`edges.edge_shares` as three Triton kernels: rows of the window, its columns, and the mean over cells.

Words have 32 classes instead of eight. Every count is an integer and the division is rounded to nearest, so the
result equals the PyTorch form bit for bit. Importing this module imports Triton.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_PIXELS, _CELLS = 256, 32


def edge_shares(ids: Tensor, num_classes: int, width: int, size: tuple[int, int] | None) -> Tensor:
    """Compute `edges.edge_shares` on a GPU; arguments and result are the same."""
    ids = ids.contiguous()
    images, height, columns = ids.shape
    grid_height, grid_width = size or (height, columns)
    groups, pixels = num_classes // 32 + 1, ids.numel()
    words = torch.empty((groups, *ids.shape), dtype=torch.int32, device=ids.device)
    edges = torch.empty_like(words)
    shares = torch.empty((images, num_classes + 1, grid_height, grid_width), device=ids.device)
    blocks = triton.cdiv(pixels, _PIXELS)
    _rows[(blocks, groups)](ids, words, pixels, columns, num_classes, width // 2, BLOCK=_PIXELS)
    _columns[(blocks,)](ids, words, edges, pixels, height, columns, num_classes, width // 2, groups, BLOCK=_PIXELS)
    _pool[(images * grid_height, triton.cdiv(grid_width, _CELLS), groups)](
        edges,
        shares,
        pixels,
        height,
        columns,
        grid_height,
        grid_width,
        num_classes + 1,
        -(-columns // grid_width) + 1,
        CELLS=_CELLS,
    )
    return shares


@triton.jit
def _bit(ids, classes, group):
    """Return the bit of each class in the word `group`, 0 if it is in another; C or more are the ignored pixels."""
    place = tl.minimum(ids.to(tl.int32), classes) - 32 * group
    return tl.where((place >= 0) & (place < 32), 1 << (place & 31), 0)


@triton.jit
def _rows(ids, words, pixels, columns, classes, radius, BLOCK: tl.constexpr):
    """OR the bits of `radius` pixels to the left, the pixel, and `radius` to the right."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    group = tl.program_id(1)
    x = (at % columns).to(tl.int32)
    seen = tl.zeros([BLOCK], dtype=tl.int32)
    for step in range(-radius, radius + 1):
        there = (at < pixels) & (x + step >= 0) & (x + step < columns)
        bit = _bit(tl.load(ids + at + step, mask=there, other=0), classes, group)
        seen |= tl.where(there, bit, 0)
    tl.store(words + pixels * group + at, seen, mask=at < pixels)


@triton.jit
def _columns(ids, words, edges, pixels, height, columns, classes, radius, groups, BLOCK: tl.constexpr):
    """OR the words above and below, and keep those of edges; the ignored pixels' bit becomes that of the others."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < pixels
    y = ((at // columns) % height).to(tl.int32)
    own = tl.load(ids + at, mask=inside, other=0)
    other = tl.zeros([BLOCK], dtype=tl.int32)
    ignored = tl.zeros([BLOCK], dtype=tl.int32)
    for group in range(groups):
        seen = tl.zeros([BLOCK], dtype=tl.int32)
        for step in range(-radius, radius + 1):
            there = inside & (y + step >= 0) & (y + step < height)
            seen |= tl.load(words + pixels * group + at + step * columns, mask=there, other=0)
        other |= seen ^ _bit(own, classes, group)
        ignored |= seen & tl.where(group == classes // 32, 1 << (classes % 32), 0)
        tl.store(edges + pixels * group + at, seen, mask=inside)
    edge = (other != 0) & (ignored == 0)
    for group in range(groups):
        seen = tl.load(edges + pixels * group + at, mask=inside, other=0)
        labelled = tl.where((group == classes // 32) & (own < classes), 1 << (classes % 32), 0)
        tl.store(edges + pixels * group + at, tl.where(edge, seen, 0) | labelled, mask=inside)


@triton.jit
def _pool(edges, shares, pixels, height, columns, grid_height, grid_width, bits, broadest, CELLS: tl.constexpr):
    """Count each bit over the pixels of each cell, and divide by their number."""
    image, i = tl.program_id(0) // grid_height, tl.program_id(0) % grid_height
    group = tl.program_id(2)
    j = tl.program_id(1) * CELLS + tl.arange(0, CELLS)
    top, bottom = i * height // grid_height, ((i + 1) * height + grid_height - 1) // grid_height
    left, right = j * columns // grid_width, ((j + 1) * columns + grid_width - 1) // grid_width
    bit = tl.arange(0, 32)
    counts = tl.zeros([CELLS, 32], dtype=tl.int32)
    start = edges + pixels * group + (image * height).to(tl.int64) * columns
    for row in range(top, bottom):
        for column in range(broadest):
            there = (j < grid_width) & (left + column < right)
            word = tl.load(start + row * columns + left + column, mask=there, other=0)
            counts += (word[:, None] >> bit[None, :]) & 1
    area = ((bottom - top) * (right - left)).to(tl.float32)
    share = tl.div_rn(counts.to(tl.float32), tl.broadcast_to(area[:, None], [CELLS, 32]))
    channel = 32 * group + bit
    place = ((image * bits + channel[None, :]).to(tl.int64) * grid_height + i) * grid_width + j[:, None]
    tl.store(shares + place, share, mask=(j[:, None] < grid_width) & (channel[None, :] < bits))
