"""Segmentors and their weights: what loads, and what is refused with its keys named."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from bpkd_search.errors import CheckpointError, ConfigError
from bpkd_search.models import Segmentor, load_encoder, load_segmentor, read_about, save_weights
from bpkd_search.models.checkpoint import read_weights
from bpkd_search.models.encoders import create_encoder
from bpkd_search.models.heads import HEADS

ENCODER = "mobilenetv3_small_050"


def small(head: str = "fpn", classes: int = 5) -> Segmentor:
    torch.manual_seed(0)
    return Segmentor(ENCODER, classes, head=head, channels=16)


@pytest.mark.parametrize("head", HEADS)
def test_logits_classify_the_features_at_the_stated_stride(head: str) -> None:
    model = small(head).eval()
    images = torch.randint(0, 256, (2, 3, 64, 96), dtype=torch.uint8)
    logits, features = model(images, return_features=True)
    assert logits.shape == (2, 5, 64 // model.stride, 96 // model.stride)
    assert torch.equal(model.classifier(features), logits)


def test_bytes_and_floats_are_normalised_alike_with_the_encoders_own_figures() -> None:
    model = small().eval()
    images = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    settings = timm.get_pretrained_cfg(ENCODER)
    mean, std = (torch.tensor(getattr(settings, name)).view(3, 1, 1) for name in ("mean", "std"))
    normalised = (images.float() / 255 - mean) / std
    expected = model.classifier(model.head(model.encoder(normalised)))
    torch.testing.assert_close(model(images), expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(model(images), model(images.float()))


def test_a_finer_output_stride_makes_a_finer_deep_map() -> None:
    assert create_encoder("resnet18", 8).feature_info.reduction()[-1] == 8
    assert create_encoder("resnet18", 32).feature_info.reduction()[-1] == 32


def test_unknown_encoders_are_refused_with_what_comes_close() -> None:
    with pytest.raises(ConfigError, match="resnet18"):
        create_encoder("resnet_18")


def test_weights_come_back_and_say_what_they_are(tmp_path: Path) -> None:
    path, model, other = tmp_path / "w.safetensors", small(), small()
    save_weights(path, model, {"miou": 0.5})
    with torch.no_grad():
        other.classifier.weight.zero_()
    load_segmentor(other, path)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True))
    assert read_about(path) == {"miou": 0.5}
    assert [p.name for p in tmp_path.iterdir()] == ["w.safetensors"]


def test_another_class_count_is_refused_with_both_shapes(tmp_path: Path) -> None:
    save_weights(tmp_path / "w.safetensors", small(classes=5))
    with pytest.raises(CheckpointError, match=r"classifier.weight is \[5, 16, 1, 1\], the model's is \[7, 16, 1, 1\]"):
        load_segmentor(small(classes=7), tmp_path / "w.safetensors")


def test_another_architecture_is_refused_with_keys(tmp_path: Path) -> None:
    save_weights(tmp_path / "w.safetensors", small("fpn"))
    with pytest.raises(CheckpointError, match=r"keys missing: head\.body.*unknown keys: head\.lateral"):
        load_segmentor(small("fcn"), tmp_path / "w.safetensors")


def test_nothing_is_loaded_from_a_file_that_does_not_fit(tmp_path: Path) -> None:
    model = small(classes=7)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    save_weights(tmp_path / "w.safetensors", small(classes=5))
    with pytest.raises(CheckpointError):
        load_segmentor(model, tmp_path / "w.safetensors")
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("evil-was-here",)


def test_a_pickle_with_code_is_refused_and_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": Evil()}, "evil.pt")
    Path("plain.pth").write_bytes(pickle.dumps(Evil()))
    for name in ("evil.pt", "plain.pth"):
        with pytest.raises(CheckpointError, match=rf"{name}.*(rejected|not a readable)"):
            read_weights(Path(name))
    assert not Path("evil-was-here").exists()


@pytest.mark.parametrize("wrap", [lambda w: w, lambda w: {"state_dict": w}, lambda w: {"model": w, "epoch": 3}])
@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
def test_pytorch_files_are_read_in_their_usual_forms(tmp_path: Path, wrap, prefix: str) -> None:
    model = small()
    weights = {f"{prefix}{k}": v for k, v in model.state_dict().items()}
    torch.save(wrap(weights), tmp_path / "w.pth")
    assert read_weights(tmp_path / "w.pth").keys() == model.state_dict().keys()


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt"])
def test_truncated_and_missing_files_are_named(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    with pytest.raises(CheckpointError, match="no such weights file"):
        read_weights(path)
    if name.endswith("pt"):
        torch.save(small().state_dict(), path)
    else:
        save_weights(path, small())
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=f"{name}: is not a readable"):
        read_weights(path)


def test_an_encoder_starts_from_timms_own_file_whatever_the_pyramid_calls_its_parts(tmp_path: Path) -> None:
    full = timm.create_model("convnext_atto", pretrained=False)
    save_file(full.state_dict(), tmp_path / "convnext.safetensors")
    encoder = create_encoder("convnext_atto")
    load_encoder(encoder, tmp_path / "convnext.safetensors")
    images = torch.rand(1, 3, 64, 64)
    expected = full.eval().forward_intermediates(images, intermediates_only=True)[-1]
    torch.testing.assert_close(encoder.eval()(images)[-1], expected)


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "tf_efficientnet_lite2", "mobilenetv2_100"])
def test_real_imagenet_weights_load_completely(shared: Path, name: str) -> None:
    encoder = create_encoder(name)
    load_encoder(encoder, shared / "weights" / f"{name}.safetensors")
    weights = read_weights(shared / "weights" / f"{name}.safetensors")
    assert all(torch.equal(v, weights[k]) for k, v in encoder.state_dict().items() if k in weights)
    with pytest.raises(CheckpointError, match="keys missing"):
        load_encoder(create_encoder("resnet18"), shared / "weights" / f"{name}.safetensors")


def test_files_of_weights_have_no_auxiliary_head(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Segmentor(ENCODER, 5, head="fpn", channels=16, auxiliary_weight=0.4)
    save_weights(tmp_path / "w.safetensors", model)
    assert read_weights(tmp_path / "w.safetensors").keys() == small().state_dict().keys()
