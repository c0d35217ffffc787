"""Average pooling of bit words: up to eight binary maps in one map of bytes, pooled in integers.

Sums of bytes along rows are limited by memory bandwidth only, so each bit is extracted and summed over the rows of
its cell first, two bits at a time if a count fits half a byte; then the small result is summed along columns.
"""

from __future__ import annotations

import torch
from torch import Tensor

_ONES = 0x0101010101010101  # times this, the last (highest) of eight bytes is the sum of them all


def pool_bits(words: Tensor, bits: int, size: tuple[int, int] | None) -> Tensor:
    """Unpack the lowest `bits` bits of `words`, uint8 [B, H, W], to their mean [B, bits, h, w] over each cell.

    The cells are those of `torch.nn.AdaptiveAvgPool2d`: row i of the result averages the rows
    floor(i H / h) to ceil((i + 1) H / h), which are disjoint blocks when h divides H and overlap
    otherwise. `size=None` keeps the full resolution. Counts are exact; the result is float32.
    """
    rows, columns = size or (words.shape[1], words.shape[2])
    words, cell_rows = _cells(words, rows, dim=1)
    longest = words.shape[2]
    if longest < 16:  # bits b and b + 4 at once: both counts fit into one byte
        pairs = torch.stack([_sum_rows(words, bit, 0x11, torch.uint8) for bit in range(min(bits, 4))], 1)
        sums = torch.cat([pairs & 15, pairs >> 4], 1)[:, :bits] if bits > 4 else pairs & 15
    else:
        dtype = torch.uint8 if longest < 256 else torch.int32
        sums = torch.stack([_sum_rows(words, bit, 1, dtype) for bit in range(bits)], 1)
    sums, cell_columns = _cells(sums, columns, dim=3)
    if sums.shape[4] == 8 and longest < 16:
        counts = sums.view(torch.int64).squeeze(4).mul_(_ONES).view(torch.uint8)[..., 7::8]
    else:
        counts = sums.sum(4, dtype=torch.int32)
    return counts / (cell_rows.view(-1, 1) * cell_columns)


def _sum_rows(words: Tensor, bit: int, mask: int, dtype: torch.dtype) -> Tensor:
    digits = (words >> bit).bitwise_and_(mask) if bit else words & mask
    return digits.sum(2, dtype=dtype)


def _cells(maps: Tensor, cells: int, dim: int) -> tuple[Tensor, Tensor]:
    """Split `dim` into `cells` cells of the longest length, shorter ones zero-padded; also return their lengths."""
    length, device = maps.shape[dim], maps.device
    if length % cells == 0:
        # A fill: a value copied from the host would synchronise with the GPU.
        return _split(maps, dim, cells), torch.full((), length // cells, device=device)
    cell = torch.arange(cells, device=device)
    start = cell * length // cells
    lengths = ((cell + 1) * length + cells - 1) // cells - start
    longest = -(-length // cells) + 1
    offset = torch.arange(longest, device=device)
    index = torch.where(offset < lengths.unsqueeze(1), start.unsqueeze(1) + offset, length).flatten()
    with_zeros = torch.cat([maps, torch.zeros_like(maps.narrow(dim, 0, 1))], dim)
    return _split(with_zeros.index_select(dim, index), dim, cells), lengths


def _split(maps: Tensor, dim: int, cells: int) -> Tensor:
    return maps.reshape(*maps.shape[:dim], cells, -1, *maps.shape[dim + 1 :])
