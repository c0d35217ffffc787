"""Average pooling of bit words: one count per bit and cell, without unpacking the bits first.

A bit word packs up to 31 binary maps into one integer map. Adding the words of a cell *bitwise*, with
full adders, gives the binary digits of every map's count at once, so a cell of 64 pixels costs about
as much as six passes over the words, however many maps they hold. Only the small result is unpacked.
"""

from __future__ import annotations

import torch
from torch import Tensor

Planes = list[Tensor]  # the binary digits of a count, lowest first, each a map of bit words


def pool_bits(words: Tensor, bits: int, size: tuple[int, int] | None) -> Tensor:
    """Unpack the lowest `bits` bits of `words` [B, H, W] to their mean [B, bits, h, w] over each cell.

    The cells are those of `torch.nn.AdaptiveAvgPool2d`: row i of the result averages the rows
    floor(i H / h) to ceil((i + 1) H / h), which are disjoint blocks when h divides H and overlap
    otherwise. `size=None` keeps the full resolution. Counts are exact; the result is float32.
    """
    rows, columns = size or (words.shape[1], words.shape[2])
    # Rows first: they are contiguous, and columns are then few.
    planes, cell_rows = _sum_cells([words], rows, dim=1)
    planes, cell_columns = _sum_cells(planes, columns, dim=2)
    shifts = torch.arange(bits, dtype=words.dtype, device=words.device).view(1, -1, 1, 1)
    counts = _digit(planes[0], shifts).to(torch.int32)
    for place, plane in enumerate(planes[1:], start=1):
        counts.add_(_digit(plane, shifts), alpha=2**place)
    return counts / (cell_rows.view(-1, 1) * cell_columns)


def _digit(plane: Tensor, shifts: Tensor) -> Tensor:
    return (plane.unsqueeze(1) >> shifts).bitwise_and_(1)


def _sum_cells(planes: Planes, cells: int, dim: int) -> tuple[Planes, Tensor]:
    """Sum the counts along `dim` into `cells` cells; also give each cell's length."""
    length = planes[0].shape[dim]
    device = planes[0].device
    longest = -(-length // cells) + (length % cells != 0)
    depth = 1 << (longest - 1).bit_length()  # a power of two, so that halving never leaves one over
    lengths = torch.tensor(longest, device=device)
    if depth * cells != length:
        # Other cells are read through an index; what they lack to `depth` is read from a line of zeros.
        cell = torch.arange(cells, device=device)
        start = cell * length // cells
        lengths = ((cell + 1) * length + cells - 1) // cells - start
        offset = torch.arange(depth, device=device)
        index = torch.where(offset < lengths.unsqueeze(1), start.unsqueeze(1) + offset, length).flatten()
        planes = [_with_zero_line(plane, dim).index_select(dim, index) for plane in planes]
    while depth > 1:
        planes = _add([_every_other(p, 0, dim) for p in planes], [_every_other(p, 1, dim) for p in planes])
        depth //= 2
    return planes, lengths


def _with_zero_line(plane: Tensor, dim: int) -> Tensor:
    return torch.cat([plane, torch.zeros_like(plane.narrow(dim, 0, 1))], dim)


def _every_other(plane: Tensor, first: int, dim: int) -> Tensor:
    return plane[:, first::2] if dim == 1 else plane[:, :, first::2]


def _add(left: Planes, right: Planes) -> Planes:
    """Add two counts given by their binary digits: a ripple-carry adder on all bits and places at once."""
    total = [left[0] ^ right[0]]
    carry = left[0] & right[0]
    for a, b in zip(left[1:], right[1:], strict=True):
        half = a ^ b
        total.append(half ^ carry)
        carry = carry.bitwise_and_(half).bitwise_or_(a & b)
    return [*total, carry]
