"""Average pooling of bit words: eight binary maps in one map of bytes, pooled in integers.

Sums of bytes along rows are limited by memory bandwidth only, so each bit is extracted and summed over the rows of
its cell first, two bits at a time if a count fits half a byte; then the small result is summed along columns.
"""

from __future__ import annotations

import torch
from torch import Tensor

_ONES = 0x0101010101010101  # times this, the last (highest) of eight bytes is the sum of them all


def pool_bits(words: Tensor, bits: int, size: tuple[int, int] | None) -> Tensor:
    """Unpack the lowest `bits` bits of words, uint8 [B, G, H, W], to their mean [B, bits, h, w] over each cell.

    Bit k of word g is bit 8 g + k. The cells are those of `torch.nn.AdaptiveAvgPool2d`: row i of the result averages
    the rows floor(i H / h) to ceil((i + 1) H / h), which are disjoint blocks when h divides H and overlap
    otherwise. `size=None` keeps the full resolution. Counts are exact; the result is float32.
    """
    rows, columns = size or (words.shape[2], words.shape[3])
    words, cell_rows = _cells(words, rows, dim=2)
    longest, each = words.shape[3], min(bits, 8)
    if longest < 16:  # bits b and b + 4 at once: both counts fit into one byte
        pairs = _sum_rows(words, min(each, 4), 0x11, torch.uint8)
        sums = torch.cat([pairs & 15, pairs >> 4], 2) if each > 4 else pairs & 15
    else:
        sums = _sum_rows(words, each, 1, torch.uint8 if longest < 256 else torch.int32)
    sums, cell_columns = _cells(sums, columns, dim=4)
    if words.device.type == "cpu" and sums.shape[5] == 8 and longest < 16 and sums.is_contiguous():
        counts = sums.view(torch.int64).squeeze(5).mul_(_ONES).view(torch.uint8)[..., 7::8]
    else:
        counts = sums.sum(5, dtype=torch.int32)
    counts = counts.flatten(1, 2)[:, :bits]
    if isinstance(cell_rows, int) and isinstance(cell_columns, int):
        # A fill and a true division: a GPU multiplies by the reciprocal of a number, which is not exact.
        return counts / torch.full((), cell_rows * cell_columns, device=words.device)
    areas = [torch.as_tensor(n, device=words.device) if isinstance(n, int) else n for n in (cell_rows, cell_columns)]
    return counts / (areas[0].view(-1, 1) * areas[1])


def _sum_rows(words: Tensor, bits: int, mask: int, dtype: torch.dtype) -> Tensor:
    """Return the sums over the rows of each cell of so many bits, taken apart by `mask`: [B, G, bits, h, W]."""
    if words.device.type == "cpu":  # bit by bit in its cache
        if words.shape[4] % 8 == 0 and words.is_contiguous() and dtype == torch.uint8:
            # Eight bytes at once: no count fills its byte, and bits shifted in from the next byte are masked.
            words, mask, dtype = words.view(torch.int64), mask * _ONES, torch.int64
        digits = ((words >> bit).bitwise_and_(mask) if bit else words & mask for bit in range(bits))
        sums = torch.stack([digit.sum(3, dtype=dtype) for digit in digits], 2)
        return sums.view(torch.uint8) if dtype == torch.int64 else sums
    shifts = torch.arange(bits, dtype=torch.uint8, device=words.device).view(-1, 1, 1, 1)
    return (words.unsqueeze(2) >> shifts).bitwise_and_(mask).sum(4, dtype=dtype)


def _cells(maps: Tensor, cells: int, dim: int) -> tuple[Tensor, Tensor | int]:
    """Split `dim` into `cells` cells of the longest length, shorter ones zero-padded; also return their lengths."""
    length, device = maps.shape[dim], maps.device
    if length % cells == 0:
        return _split(maps, dim, cells), length // cells
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
