"""Encoders that differ from timm's, and transformers at sizes that are not their own."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from bpkd_search.errors import ConfigError
from bpkd_search.models import Segmentor
from bpkd_search.models.encoders import VARIANTS, create_classifier, create_encoder


@pytest.mark.parametrize("name", ["swin_tiny_patch4_window7_224", "vit_tiny_patch16_224", "hrnet_w18_small_v2"])
def test_any_size_is_read_as_its_padding_with_the_mean_colour(name: str) -> None:
    torch.manual_seed(0)
    model = Segmentor(name, 3, head="segformer", channels=16, auxiliary_weight=0.4).eval()
    images = 255 * torch.rand(1, 3, 90, 124)
    padded = model.mean.expand(1, 3, 96, 128).clone()
    padded[..., :90, :124] = images
    logits, features, auxiliary = model.outputs(images)
    rows, columns = -(-90 // model.stride), -(-124 // model.stride)
    assert logits.shape == (1, 3, rows, columns)
    assert auxiliary is not None and auxiliary.shape[-2:] == (6, 8)
    # Each map is cut before the head: its 1x1 convolutions see maps that are resized to the finest.
    pyramid = model.encoder((padded - model.mean) / model.std)
    info = model.encoder.feature_info.reduction()
    cut = [x[..., : -(-90 // r), : -(-124 // r)] for x, r in zip(pyramid, info, strict=True)]
    torch.testing.assert_close(features, model.head(cut))


@pytest.mark.parametrize("name", ["swin_tiny_patch4_window7_224", "vit_tiny_patch16_224"])
def test_a_transformer_at_its_own_size_is_timms(name: str) -> None:
    torch.manual_seed(0)
    encoder = create_encoder(name).eval()
    whole = timm.create_model(name, pretrained=False).eval()
    whole.load_state_dict({k.removeprefix("model."): v for k, v in encoder.state_dict().items()}, strict=False)
    images = torch.rand(1, 3, 224, 224)
    expected = whole.forward_intermediates(images, intermediates_only=True)[-1]
    torch.testing.assert_close(encoder(images)[-1], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("stride", "rates"), [(8, [1, 1, 1, 2, 2, 4, 4]), (16, [1, 1, 1, 1, 1, 2, 2]), (32, [1] * 7)])
def test_only_the_first_block_of_a_stage_of_mobilenet_v2_is_dilated(stride: int, rates: list[int]) -> None:
    encoder = create_encoder("mobilenet_v2", stride).eval()
    found = [[block.conv_dw.dilation[0] for block in stage] for stage in encoder.blocks]
    assert found == [[rate] + [1] * (len(stage) - 1) for rate, stage in zip(rates, found, strict=True)]
    sizes = [x.shape[-1] for x in encoder(torch.rand(1, 3, 64, 96))]
    assert sizes == [96 // min(r, stride) for r in (2, 4, 8, 16, 32)]


def test_the_second_convolution_of_a_basic_block_is_not_dilated() -> None:
    encoder = create_encoder("resnet18_v1c", 8)
    layers = [(block.conv1.dilation[0], block.conv2.dilation[0]) for block in (*encoder.layer3, *encoder.layer4)]
    assert layers == [(1, 1), (2, 1), (2, 1), (4, 1)]
    stem = [m.kernel_size for m in encoder.conv1.modules() if isinstance(m, nn.Conv2d)]
    assert stem == [(3, 3)] * 3


@pytest.mark.parametrize("name", VARIANTS)
def test_weights_of_a_variant_have_names_of_the_whole_network(name: str) -> None:
    with torch.device("meta"):
        ours, whole = create_encoder(name).state_dict(), create_classifier(name).state_dict()
    assert ours.keys() <= whole.keys()


def test_hrnet_has_one_stride() -> None:
    with pytest.raises(ConfigError, match="output_stride: got 8, hrnetv2_w18_small works at 32 only"):
        create_encoder("hrnetv2_w18_small", 8)


def test_a_misspelt_variant_comes_with_the_right_one() -> None:
    with pytest.raises(ConfigError, match=r"did you mean .*resnet101_v1c"):
        create_encoder("resnet101v1c")
