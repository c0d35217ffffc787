"""ISANet: attention in two sparse steps (Huang et al., arXiv 1907.12273), with the layers of mmsegmentation."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bpkd_search.models.heads.layers import conv_bn_relu

# Side of a block of neighbours in cells, and width of queries and keys.
BLOCK = 8
KEY_CHANNELS = 256


class ISANet(nn.Module):
    """Attention among cells at equal places of all blocks, then among the cells of each block."""

    dropout = 0.1

    def __init__(self, in_channels: Sequence[int], reductions: Sequence[int], channels: int) -> None:
        super().__init__()
        self.reduction = reductions[-1]
        self.reduce = conv_bn_relu(in_channels[-1], channels, 3)
        self.across = SelfAttention(channels)
        self.within = SelfAttention(channels)
        self.fuse = conv_bn_relu(2 * channels, channels, 1)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Map features [B, C_i, h_i, w_i] to [B, channels, h, w] at the deepest stride."""
        x = self.reduce(features[-1])
        batch, channels, height, width = x.shape
        rows, columns = -(-height // BLOCK), -(-width // BLOCK)
        top, left = (rows * BLOCK - height) // 2, (columns * BLOCK - width) // 2
        bottom, right = rows * BLOCK - height - top, columns * BLOCK - width - left
        blocks = F.pad(x, (left, right, top, bottom)).view(batch, channels, rows, BLOCK, columns, BLOCK)
        # [B, y in block, x in block, C, row of blocks, column of blocks], attended over the last two.
        across = self.across(blocks.permute(0, 3, 5, 1, 2, 4).reshape(-1, channels, rows, columns))
        across = across.view(batch, BLOCK, BLOCK, channels, rows, columns)
        # [B, row of blocks, column of blocks, C, y in block, x in block].
        within = self.within(across.permute(0, 4, 5, 3, 1, 2).reshape(-1, channels, BLOCK, BLOCK))
        within = within.view(batch, rows, columns, channels, BLOCK, BLOCK).permute(0, 3, 1, 4, 2, 5)
        attended = within.reshape(batch, channels, rows * BLOCK, columns * BLOCK)
        attended = attended[..., top : top + height, left : left + width]
        out: Tensor = self.fuse(torch.cat([attended, x], dim=1))
        return out


class SelfAttention(nn.Module):
    """Scaled dot-product attention of one head among all cells of a map."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.query = nn.Sequential(conv_bn_relu(channels, KEY_CHANNELS, 1), conv_bn_relu(KEY_CHANNELS, KEY_CHANNELS, 1))
        self.key = nn.Sequential(conv_bn_relu(channels, KEY_CHANNELS, 1), conv_bn_relu(KEY_CHANNELS, KEY_CHANNELS, 1))
        self.value = nn.Conv2d(channels, channels, 1)
        self.project = conv_bn_relu(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, channels, h, w] to the same shape."""
        query, key, value = (part(x).flatten(2).transpose(1, 2) for part in (self.query, self.key, self.value))
        attended = F.scaled_dot_product_attention(query, key, value)
        out: Tensor = self.project(attended.transpose(1, 2).reshape(x.shape))
        return out
