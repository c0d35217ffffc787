"""Files of other software: each is named, with what to do about it, in one sentence."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from torchvision.models.segmentation import lraspp_mobilenet_v3_large

from bpkd_search.errors import CheckpointError
from bpkd_search.models import Segmentor, load_encoder, load_segmentor, save_weights
from bpkd_search.models.formats import describe

ENCODER = "mobilenetv3_small_050"


def small(classes: int = 5) -> Segmentor:
    torch.manual_seed(0)
    return Segmentor(ENCODER, classes, head="fpn", channels=16)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["encoder.conv1.weight", "segmentation_head.0.weight"], "is of segmentation_models_pytorch; as a teacher, it loads with"),
        (["segformer.encoder.block.0.0.layer_norm_1.weight", "decode_head.classifier.weight"], "is of Hugging Face"),
        (
            ["backbone.patch_embed.projection.weight", "decode_head.conv_seg.weight"],
            "with a backbone or head that is not",
        ),
        (["model.encoder.a.weight", "model.classifier.weight"], "begin with 'model.'; save its state dict without"),
        (["backbone.layer1.0.conv1.weight", "head.fc.weight"], "is a backbone of mmsegmentation without a head"),
        (["conv1.weight", "fc.weight"], "is an image classifier, which can only start an encoder, as `weights`"),
        (["something.weight"], None),
    ],
)
def test_names_tell_the_software(names: list[str], said: str | None, tmp_path: Path) -> None:
    weights = {name: torch.zeros(2, 2, 1, 1) for name in names}
    got = describe(weights)
    assert got is None if said is None else got is not None and said in got
    torch.save(weights, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match=r"other\.pth: ") as caught:
        load_segmentor(small(), tmp_path / "other.pth")
    assert got is None or got in str(caught.value)
    assert "keys missing" not in str(caught.value) or said is None


def test_networks_of_timm_and_torchvision_are_told_apart(tmp_path: Path) -> None:
    torch.save(timm.create_model(ENCODER).state_dict(), tmp_path / "classifier.pth")
    torch.save(lraspp_mobilenet_v3_large(weights=None, weights_backbone=None).state_dict(), tmp_path / "lraspp.pth")
    with pytest.raises(CheckpointError, match="is an image classifier"):
        load_segmentor(small(), tmp_path / "classifier.pth")
    with pytest.raises(CheckpointError, match="is a segmentation network of torchvision; as a teacher"):
        load_segmentor(small(), tmp_path / "lraspp.pth")


def test_our_own_files_have_no_description() -> None:
    assert describe(small().state_dict()) is None


def test_a_checkpoint_of_a_run_is_told_how_to_become_weights(tmp_path: Path) -> None:
    state = {"epoch": 1, "student": small().state_dict(), "criterion": {}, "optimizer": {}}
    torch.save(state, tmp_path / "checkpoint.pt")
    with pytest.raises(CheckpointError, match="from which training continues; `bpkd-search export` writes"):
        load_segmentor(small(), tmp_path / "checkpoint.pt")


def test_another_number_of_classes_is_said_first(tmp_path: Path) -> None:
    save_weights(tmp_path / "w.safetensors", small(5))
    with pytest.raises(CheckpointError, match=r"w\.safetensors: has 5 classes, the model 7; does not fit the model"):
        load_segmentor(small(7), tmp_path / "w.safetensors")


class HistoryBuffer:
    """Stands for the objects that mmengine saves beside the weights."""


def test_pickled_objects_are_refused_with_the_way_to_save_the_tensors(tmp_path: Path) -> None:
    torch.save({"state_dict": small().state_dict(), "message_hub": HistoryBuffer()}, tmp_path / "iter.pth")
    with pytest.raises(CheckpointError) as caught:
        load_segmentor(small(), tmp_path / "iter.pth")
    # The advice is code that works where the file opens.
    advice = str(caught.value).partition("where it opens: ")[2]
    assert advice == "torch.save(torch.load('iter.pth', weights_only=False)['state_dict'], 'iter-tensors.pth')"
    torch.save(torch.load(tmp_path / "iter.pth", weights_only=False)["state_dict"], tmp_path / "iter-tensors.pth")
    load_segmentor(small(), tmp_path / "iter-tensors.pth")


def test_an_encoder_starts_from_that_of_a_whole_network(tmp_path: Path) -> None:
    model = small()
    save_weights(tmp_path / "w.safetensors", model)
    other = Segmentor(ENCODER, 3, head="fcn", channels=8)
    load_encoder(other.encoder, tmp_path / "w.safetensors")
    assert all(torch.equal(x, other.encoder.state_dict()[k]) for k, x in model.encoder.state_dict().items())


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "swin_tiny_patch4_window7_224"])
def test_a_transformer_starts_from_timms_file(name: str, tmp_path: Path) -> None:
    whole = timm.create_model(name)
    torch.save(whole.state_dict(), tmp_path / "timm.pth")
    model = Segmentor(name, 3, head="segformer", channels=16)
    load_encoder(model.encoder, tmp_path / "timm.pth")
    state = whole.state_dict()
    assert all(torch.equal(x, state[k.removeprefix("model.")]) for k, x in model.encoder.state_dict().items())
