"""Published heads: their strides, their dropout, and attention against one written out cell by cell."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bpkd_search.errors import ConfigError
from bpkd_search.models import Segmentor
from bpkd_search.models.heads.isanet import BLOCK, ISANet
from bpkd_search.models.heads.layers import PooledConv

CHANNELS, REDUCTIONS = (4, 6, 8, 12), (4, 8, 16, 32)


class GroupMean(nn.Module):
    """Attention in which every cell of a group attends to all of them alike."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3), keepdim=True).expand_as(x)


@pytest.mark.parametrize("size", [(16, 24), (11, 19)])
def test_isanet_attends_across_blocks_and_then_within_them(size: tuple[int, int]) -> None:
    head = ISANet(CHANNELS, REDUCTIONS, 5).eval()
    head.reduce, head.across, head.fuse = nn.Identity(), GroupMean(), nn.Identity()
    deep = torch.rand(2, 12, *size)
    rows, columns = (-(-side // BLOCK) * BLOCK for side in size)
    top, left = (rows - size[0]) // 2, (columns - size[1]) // 2
    padded = torch.zeros(2, 12, rows, columns)
    padded[..., top : top + size[0], left : left + size[1]] = deep

    head.within = nn.Identity()
    for y, x in ((0, 0), (3, 10), (size[0] - 1, size[1] - 1)):
        same_place = padded[..., (y + top) % BLOCK :: BLOCK, (x + left) % BLOCK :: BLOCK]
        got = head([deep])[:, :12, y, x]
        torch.testing.assert_close(got, same_place.mean((2, 3)))

    head.across, head.within = nn.Identity(), GroupMean()
    for y, x in ((0, 0), (3, 10), (size[0] - 1, size[1] - 1)):
        row, column = ((y + top) // BLOCK * BLOCK, (x + left) // BLOCK * BLOCK)
        block = padded[..., row : row + BLOCK, column : column + BLOCK]
        torch.testing.assert_close(head([deep])[:, :12, y, x], block.mean((2, 3)))
    torch.testing.assert_close(head([deep])[:, 12:], deep)


def test_pooled_maps_need_two_images_to_train_on_and_one_to_predict() -> None:
    pool = PooledConv(4, 2, 1)
    with pytest.raises(ConfigError, match=r"train\.batch_size of at least 2"):
        pool(torch.rand(1, 4, 6, 6))
    assert pool.eval()(torch.rand(1, 4, 6, 6)).shape == (1, 2, 6, 6)
    assert PooledConv(4, 2, 2)(torch.rand(1, 4, 6, 6)).shape == (1, 2, 6, 6)


@pytest.mark.parametrize(
    ("head", "stride", "drops"),
    [
        ("pspnet", 8, True),
        ("deeplabv3plus", 4, True),
        ("isanet", 8, True),
        ("segformer", 4, True),
        ("hrnetv2", 4, False),
    ],
)
def test_strides_and_dropout_are_those_published(head: str, stride: int, drops: bool) -> None:
    torch.manual_seed(0)
    model = Segmentor("resnet18_v1c", 3, head=head, channels=16, output_stride=8)
    images = 255 * torch.rand(2, 3, 64, 96)
    model.eval()
    logits, features = model(images, return_features=True)
    assert logits.shape == (2, 3, 64 // stride, 96 // stride)
    assert torch.equal(model.classifier(features), logits)
    # Dropout takes whole maps of the features, and never the features that are distilled.
    model.dropout.train()
    kept = (model.dropout(torch.ones(100, 16, 1, 1)) > 0).float().mean().item()
    assert 0.87 < kept < 0.93 if drops else kept == 1
    assert torch.equal(model(images, return_features=True)[1], features)


def test_the_auxiliary_head_reads_the_second_deepest_map_and_changes_nothing_else() -> None:
    torch.manual_seed(0)
    plain = Segmentor("resnet18_v1c", 3, head="pspnet", channels=16, output_stride=8).eval()
    torch.manual_seed(0)
    model = Segmentor("resnet18_v1c", 3, head="pspnet", channels=16, output_stride=8, auxiliary_weight=0.4).eval()
    images = 255 * torch.rand(2, 3, 64, 96)
    logits, _, auxiliary = model.outputs(images)
    assert torch.equal(logits, plain(images)) and torch.equal(logits, model(images))
    assert model.auxiliary is not None and auxiliary is not None
    second = model.encoder((images - model.mean) / model.std)[-2]
    conv, norm, _ = model.auxiliary.conv
    expected = model.auxiliary.classifier(norm(conv(second)).clamp(min=0))
    torch.testing.assert_close(auxiliary, expected)
    assert conv.out_channels == 8 and second.shape[1] == 256
    assert plain.outputs(images)[2] is None
