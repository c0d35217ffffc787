"""Weights of mmsegmentation: logits equal its own, recorded and live, and what does not fit is named."""

from __future__ import annotations

import os
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from bpkd_search.errors import CheckpointError
from bpkd_search.models import Segmentor, load_encoder, load_segmentor
from bpkd_search.models.build import build_model
from bpkd_search.models.encoders import create_encoder
from bpkd_search.models.mmsegmentation import network_of
from bpkd_search.models.paper import NETWORKS
from tests.models.mmsegmentation import CONFIGS, images, original, outputs_of, recorded, seeded

SMALL = ("pspnet_r18", "hrnetv2_w18s", "deeplabv3plus_mv2", "isanet_r18")
LARGE = [pytest.param(name, marks=pytest.mark.long) for name in CONFIGS if name not in SMALL]
CONFIG = """data_preprocessor = dict(
    bgr_to_rgb=True,
    mean=[
        123.675,
        116.28,
        103.53,
    ])"""
# What its versions 0.x and 1.x save beside the weights.
META_0 = {"mmseg_version": "0.30.0", "config": "img_norm_cfg = dict(to_rgb=True)", "CLASSES": ["road"], "iter": 80000}
META_1 = {"mmseg_version": "1.2.2", "cfg": CONFIG, "dataset_meta": {"classes": ("road",)}, "iter": 80000}


def close(got: Tensor, expected: Tensor) -> None:
    assert got.shape == expected.shape
    assert (got - expected).abs().max() <= 1e-4 * expected.abs().max()


def weights_of(name: str) -> OrderedDict[str, Tensor]:
    return OrderedDict(seeded(recorded(name)[0]))


@pytest.fixture(scope="module")
def pspnet() -> OrderedDict[str, Tensor]:
    return weights_of("pspnet_r18")


@pytest.mark.parametrize("name", [*SMALL, *LARGE])
def test_logits_are_those_recorded_of_mmsegmentation(name: str, tmp_path: Path) -> None:
    shapes, logits, auxiliary = recorded(name)
    torch.save({"meta": META_1, "state_dict": seeded(shapes)}, tmp_path / "theirs.pth")
    model = build_model(NETWORKS[name], 19, 0).eval()
    load_segmentor(model, tmp_path / "theirs.pth")
    with torch.inference_mode():
        got, _, second = model.outputs(images())
    close(got, logits)
    assert (second is None) is (auxiliary is None)
    if second is not None and auxiliary is not None:
        close(second, auxiliary)


@pytest.mark.skipif("BPKD_SEARCH_MMSEG" not in os.environ, reason="needs mmsegmentation: make test-mmseg")
@pytest.mark.parametrize("name", CONFIGS)
def test_recorded_logits_are_those_of_the_installed_mmsegmentation(name: str) -> None:
    theirs = original(name)
    shapes, logits, auxiliary = recorded(name)
    assert {key: list(x.shape) for key, x in theirs.state_dict().items()} == shapes
    got, second = outputs_of(theirs)
    close(got, logits)
    if auxiliary is not None and second is not None:
        close(second, auxiliary)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_file_tells_which_network_it_is_of(name: str) -> None:
    spec = NETWORKS[name]
    weights = {key: torch.empty(shape, device="meta") for key, shape in recorded(name)[0].items()}
    network = network_of(weights)
    assert network is not None
    assert (network.encoder, network.head, network.channels) == (spec.encoder, spec.head, spec.channels)
    assert network.classes == 19


@pytest.mark.parametrize("meta", [META_0, META_1])
def test_a_teacher_without_an_auxiliary_head_leaves_theirs_out(
    pspnet: dict[str, Tensor], meta: dict[str, Any], tmp_path: Path
) -> None:
    torch.save({"meta": meta, "state_dict": pspnet, "optimizer": {"state": {}}}, tmp_path / "theirs.pth")
    model = build_model(NETWORKS["pspnet_r18"].model_copy(update={"auxiliary_weight": 0}), 19, 0).eval()
    load_segmentor(model, tmp_path / "theirs.pth")
    with torch.inference_mode():
        close(model(images()), recorded("pspnet_r18")[1])


def test_unknown_and_missing_keys_are_named(pspnet: dict[str, Tensor], tmp_path: Path) -> None:
    wrong = dict(pspnet)
    wrong["decode_head.extra.conv.weight"] = wrong.pop("decode_head.bottleneck.conv.weight")
    torch.save({"state_dict": wrong}, tmp_path / "theirs.pth")
    with pytest.raises(CheckpointError, match=r"1 keys missing: head\.fuse\.0\.weight; 1 unknown keys: head\.extra\.0"):
        load_segmentor(build_model(NETWORKS["pspnet_r18"], 19, 0), tmp_path / "theirs.pth")


def test_another_network_is_told_what_the_file_loads_with(pspnet: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save({"state_dict": pspnet}, tmp_path / "theirs.pth")
    model = Segmentor("resnet18", 19, head="psp", channels=64)
    said = r"is of mmsegmentation and loads with encoder: resnet18_v1c, head: pspnet, channels: 128 and 19 classes"
    with pytest.raises(CheckpointError, match=said):
        load_segmentor(model, tmp_path / "theirs.pth")


def test_another_number_of_classes_is_said_first(pspnet: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save({"state_dict": pspnet}, tmp_path / "theirs.pth")
    said = r"theirs\.pth: has 19 classes, the model 8; does not fit the model; 4 shapes differ: classifier\.weight"
    with pytest.raises(CheckpointError, match=said):
        load_segmentor(build_model(NETWORKS["pspnet_r18"], 8, 0), tmp_path / "theirs.pth")


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (CONFIG.replace("True", "False"), "with blue first"),
        ("img_norm_cfg = dict(mean=[103.53, 116.28, 123.675], std=[1.0, 1.0, 1.0], to_rgb=False)", "with blue first"),
        ("img_norm_cfg = dict(mean=[127.5, 127.5, 127.5], std=[127.5, 127.5, 127.5])", r"normalised with mean \[127.5"),
        ("img_norm_cfg = dict(std=[1.0, 1.0, 1.0])", r"normalised with std \[1.0"),
    ],
)
def test_other_images_than_ours_are_refused(pspnet: dict[str, Tensor], config: str, said: str, tmp_path: Path) -> None:
    torch.save({"meta": {"cfg": config}, "state_dict": pspnet}, tmp_path / "theirs.pth")
    with pytest.raises(CheckpointError, match=said):
        load_segmentor(build_model(NETWORKS["pspnet_r18"], 19, 0), tmp_path / "theirs.pth")


@pytest.mark.parametrize("name", ["pspnet_r18", "deeplabv3plus_mv2"])
def test_an_encoder_starts_from_their_backbone(name: str, tmp_path: Path) -> None:
    spec, weights = NETWORKS[name], weights_of(name)
    backbone = {key: x for key, x in weights.items() if key.startswith("backbone.")}
    plain = {key.removeprefix("backbone."): x for key, x in backbone.items()}
    torch.save({"state_dict": weights}, tmp_path / "whole.pth")
    torch.save({"state_dict": {**backbone, "head.fc.weight": torch.zeros(10, 5)}}, tmp_path / "classifier.pth")
    torch.save({"state_dict": {**plain, "fc.weight": torch.zeros(10, 5)}}, tmp_path / "plain.pth")
    model = build_model(spec, 19, 0)
    load_segmentor(model, tmp_path / "whole.pth")
    encoder = create_encoder(spec.encoder, spec.output_stride)
    fresh = {key: x.clone() for key, x in encoder.state_dict().items()}
    for file in ("whole.pth", "classifier.pth", "plain.pth"):
        encoder.load_state_dict(fresh)
        load_encoder(encoder, tmp_path / file)
        assert all(torch.equal(encoder.state_dict()[key], x) for key, x in model.encoder.state_dict().items())
