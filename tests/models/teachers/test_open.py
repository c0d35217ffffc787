"""Teachers of other software give the logits that their own software gives."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bpkd_search.config.networks import Input, Teacher
from bpkd_search.config.software import software_of, teacher_title
from bpkd_search.errors import CheckpointError, ConfigError, MissingPackageError
from bpkd_search.models.teachers.huggingface import read_input
from bpkd_search.models.teachers.open import Probe, open_network
from tests.models.teachers.foreign_networks import (
    images,
    normalised,
    save_graphs,
    save_mask2former,
    save_segformer,
    save_smp,
    small,
)

CPU = torch.device("cpu")
SMALL = "tests.models.teachers.foreign_networks:small"
NAMES = ("road", "sky", "tree", "car", "person")


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def own(function: str, **arguments: Any) -> Teacher:
    return Teacher(factory=function, arguments=arguments)


def logits_of(teacher: Teacher, batch: Tensor, ours: Any = None, path: Path | None = None) -> Tensor:
    path = path or teacher.checkpoint or Path()
    net = open_network(teacher, path, CPU, ours)
    with torch.inference_mode():
        logits = net(batch)
        assert torch.equal(net.eval()(batch.float(), return_features=True)[0], logits)
    assert (
        logits.shape[1:] == Probe(teacher, path or teacher.checkpoint or Path("none")).shape(*batch.shape[-2:]) or ours
    )
    return logits


def close(got: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item())


class TestHuggingFace:
    @pytest.fixture(autouse=True)
    def _installed(self) -> None:
        pytest.importorskip("transformers")

    @pytest.mark.parametrize("bgr", [False, True])
    def test_a_segformer_reads_what_its_processor_says(self, tmp_path: Path, bgr: bool) -> None:
        net = save_segformer(tmp_path, NAMES, bgr=bgr)
        batch = images(60, 90)
        seen = normalised(batch.flip(1) if bgr else batch, [0.5, 0.4, 0.3], [0.5, 0.6, 0.7])
        with torch.inference_mode():
            expected = net(seen).logits
        close(logits_of(Teacher(checkpoint=tmp_path), batch), expected)

    def test_masks_of_queries_become_scores_of_pixels(self, tmp_path: Path) -> None:
        net = save_mask2former(tmp_path, NAMES)
        batch = images(64, 64)
        with torch.inference_mode():
            out = net(normalised(batch))
            got = logits_of(Teacher(checkpoint=tmp_path), batch)
            # The published form of its inference, one query after the other.
            scores = torch.zeros_like(got)
            for query in range(6):
                share = out.class_queries_logits[:, query].softmax(-1)[:, :-1]
                scores += share[:, :, None, None] * out.masks_queries_logits[:, query, None].sigmoid()
        close(got, scores.log())
        close(got.softmax(1), scores / scores.sum(1, keepdim=True))

    def test_weights_that_are_not_there_are_an_error(self, tmp_path: Path) -> None:
        from safetensors.torch import load_file, save_file

        save_segformer(tmp_path, NAMES)
        state = load_file(tmp_path / "model.safetensors")
        del state["decode_head.classifier.weight"]
        save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(
            CheckpointError, match=r"1 weights of SegformerForSemanticSegmentation are missing.*classif"
        ):
            open_network(Teacher(checkpoint=tmp_path), tmp_path, CPU)

    def test_more_names_than_the_weights_have_classes_are_an_error(self, tmp_path: Path) -> None:
        save_segformer(tmp_path, NAMES)
        config = json.loads((tmp_path / "config.json").read_text())
        config["id2label"][str(len(NAMES))] = "tram"
        (tmp_path / "config.json").write_text(json.dumps(config))
        with pytest.raises(CheckpointError, match=r"2 weights of Segformer.* have other shapes: .*classifier\.bias"):
            open_network(Teacher(checkpoint=tmp_path), tmp_path, CPU)

    @pytest.mark.parametrize(
        ("architecture", "said"),
        [
            ("OneFormerForUniversalSegmentation", "needs a task in words"),
            ("SegformerForImageClassification", "must be a network for semantic or universal"),
            ("NobodysForSemanticSegmentation", r"that transformers .* does not have"),
        ],
    )
    def test_networks_that_do_not_segment_are_refused(self, tmp_path: Path, architecture: str, said: str) -> None:
        (tmp_path / "config.json").write_text(f'{{"architectures": ["{architecture}"]}}')
        with pytest.raises(CheckpointError, match=said):
            open_network(Teacher(checkpoint=tmp_path), tmp_path, CPU)

    def test_a_model_type_of_another_network_is_refused(self, tmp_path: Path) -> None:
        save_segformer(tmp_path, NAMES)
        config = json.loads((tmp_path / "config.json").read_text())
        (tmp_path / "config.json").write_text(json.dumps(config | {"model_type": "nobodys"}))
        with pytest.raises(
            CheckpointError, match=r"^teacher\.checkpoint: .* model_type 'nobodys', must be 'segformer'"
        ):
            open_network(Teacher(checkpoint=tmp_path), tmp_path, CPU)

    def test_pickles_are_refused_with_the_way_out(self, tmp_path: Path) -> None:
        save_segformer(tmp_path, NAMES)
        (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
        with pytest.raises(CheckpointError, match=r"holds no \.safetensors; if you trust its \.bin"):
            open_network(Teacher(checkpoint=tmp_path), tmp_path, CPU)

    def test_a_hub_without_a_network_is_one_sentence(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from bpkd_search.training.probe import source_of

        with pytest.raises(
            CheckpointError, match=r"^teacher\.checkpoint: hf:nobody/nothing: is not in the local cache"
        ) as caught:
            source_of(Teacher(checkpoint=Path("hf:nobody/nothing")))
        assert "\n" not in str(caught.value)


class TestSmp:
    @pytest.fixture(autouse=True)
    def _installed(self) -> None:
        pytest.importorskip("segmentation_models_pytorch")

    def test_a_folder_gives_logits_even_where_it_was_built_to_give_probabilities(self, tmp_path: Path) -> None:
        net = save_smp(tmp_path, activation="softmax2d")
        batch = images()
        with torch.inference_mode():
            expected = net(normalised(batch))
        got = logits_of(Teacher(checkpoint=tmp_path), batch)
        close(got.softmax(1), expected)
        assert got.sum(1).sub(1).abs().max() > 0.01

    def test_logits_of_every_pixel_are_averaged_to_a_stride(self, tmp_path: Path) -> None:
        net = save_smp(tmp_path)
        batch = images(40, 70)
        with torch.inference_mode():
            expected = net(normalised(batch))
        close(logits_of(Teacher(checkpoint=tmp_path), batch), expected)
        coarse = logits_of(Teacher(checkpoint=tmp_path, stride=4), batch)
        close(coarse, F.avg_pool2d(expected, 4, ceil_mode=True))

    def test_networks_that_need_multiples_are_known(self, tmp_path: Path) -> None:
        import segmentation_models_pytorch as smp

        net = smp.FPN("resnet18", encoder_weights=None, classes=3, decoder_pyramid_channels=8).eval()
        net.save_pretrained(tmp_path)
        assert logits_of(Teacher(checkpoint=tmp_path), images(40, 70)).shape == (2, 3, 40, 70)

    def test_a_folder_that_cannot_be_built_names_the_key_and_its_file(self, tmp_path: Path) -> None:
        save_smp(tmp_path)
        config = json.loads((tmp_path / "config.json").read_text())
        (tmp_path / "config.json").write_text(json.dumps(config | {"encoder_name": "resnet_18"}))
        with pytest.raises(ConfigError, match=r"teacher\.checkpoint: .*config\.json: smp .* cannot build .*resnet_18"):
            open_network(Teacher(checkpoint=tmp_path), tmp_path, CPU)

    def test_a_state_dict_needs_only_the_name_of_its_network(self, tmp_path: Path) -> None:
        net = save_smp(tmp_path)
        torch.save({"state_dict": net.state_dict()}, tmp_path / "unet.pth")
        described = {"arch": "unet", "encoder_name": "resnet18", "decoder_channels": [32, 16, 16, 8, 8]}
        teacher = Teacher(checkpoint=tmp_path / "unet.pth", smp=described)
        with torch.inference_mode():
            close(logits_of(teacher, images()), net(normalised(images())))
        with pytest.raises(CheckpointError, match=r"unet\.pth: does not fit the network of teacher\.smp: "):
            open_network(
                Teacher(checkpoint=tmp_path / "unet.pth", smp={"encoder_name": "resnet18"}), tmp_path / "unet.pth", CPU
            )
        with pytest.raises(ConfigError, match=r"teacher\.smp: smp .* cannot build .*resnet_18"):
            open_network(
                Teacher(checkpoint=tmp_path / "unet.pth", smp={"encoder_name": "resnet_18"}), tmp_path / "unet.pth", CPU
            )


class TestGraphs:
    @pytest.mark.parametrize("name", ["net.pt", "net.pt2", "net.onnx"])
    def test_graphs_of_any_size(self, tmp_path: Path, name: str) -> None:
        if name.endswith("onnx"):
            pytest.importorskip("onnxruntime")
        save_graphs(tmp_path, small())
        batch = images(60, 88, 3)
        with torch.inference_mode():
            close(logits_of(Teacher(checkpoint=tmp_path / name), batch), small()(normalised(batch)))
            caffe = Input(mean=(104.0, 117.0, 123.0), std=(1.0, 2.0, 3.0), channels="bgr", range=255)
            seen = (batch.flip(1).float() - torch.tensor([104.0, 117.0, 123.0])[:, None, None]) / torch.tensor(
                [1.0, 2.0, 3.0]
            )[:, None, None]
            close(logits_of(Teacher(checkpoint=tmp_path / name, input=caffe), batch), small()(seen))

    def test_torchscript_in_half_precision_gets_such_images_and_its_faults_are_told(self, tmp_path: Path) -> None:
        net = small().half()
        torch.jit.script(net).save(tmp_path / "half.pt")
        batch = images(60, 88)
        with torch.inference_mode():
            got = logits_of(Teacher(checkpoint=tmp_path / "half.pt"), batch)
            torch.testing.assert_close(got, net(normalised(batch).half()))
        torch.jit.script(nn.Sequential(nn.Conv2d(5, 5, 1))).save(tmp_path / "five.pt")
        said = r"five\.pt cannot read an image of 32x48: .*expected input.* to have 5 channels"
        with pytest.raises(ConfigError, match=said):
            Probe(Teacher(checkpoint=tmp_path / "five.pt"), tmp_path / "five.pt").shape(32, 48)

    @pytest.mark.parametrize("name", ["net.pt2", "net.onnx"])
    def test_graphs_of_one_size_and_one_image_at_a_time(self, tmp_path: Path, name: str) -> None:
        if name.endswith("onnx"):
            pytest.importorskip("onnxruntime")
        save_graphs(tmp_path, small(), fixed=True)
        teacher = Teacher(checkpoint=tmp_path / name)
        batch = images(count=3)
        with torch.inference_mode():
            close(logits_of(teacher, batch), small()(normalised(batch)))
        with pytest.raises(
            ConfigError,
            match=r"cannot read an image of 32x48: reads images of 64x96 alone.*: set data\.crop to \[64, 96\]",
        ):
            Probe(teacher, tmp_path / name).shape(32, 48)

    def test_a_program_with_pickled_objects_is_not_loaded(self, tmp_path: Path) -> None:
        save_graphs(tmp_path, small())

        class Harmful:
            def __reduce__(self) -> tuple[Any, ...]:
                return Path.touch, (tmp_path / "ran",)

        buffer = io.BytesIO()
        torch.save((Harmful(),), buffer)
        harmful = {"sample_inputs/model.pt": buffer.getvalue(), "constants/opaque_obj_0": pickle.dumps(Harmful())}
        for name, data in harmful.items():
            with zipfile.ZipFile(tmp_path / "net.pt2") as old, zipfile.ZipFile(tmp_path / "bad.pt2", "w") as new:
                for entry in old.namelist():
                    if not entry.endswith(name):
                        new.writestr(entry, old.read(entry))
                new.writestr(f"net/data/{name}", data)
            with pytest.raises(CheckpointError, match=r"bad\.pt2: holds objects or machine code .*rejected"):
                open_network(Teacher(checkpoint=tmp_path / "bad.pt2"), tmp_path / "bad.pt2", CPU)
        assert not (tmp_path / "ran").exists()

    def test_damaged_files_are_one_sentence(self, tmp_path: Path) -> None:
        pytest.importorskip("onnxruntime")
        for name in ("net.pt2", "net.onnx"):
            (tmp_path / name).write_bytes(b"nothing")
            with pytest.raises(CheckpointError, match=rf"^teacher\.checkpoint: .*{name}: ") as caught:
                open_network(Teacher(checkpoint=tmp_path / name), tmp_path / name, CPU)
            assert "\n" not in str(caught.value)


class Output(nn.Module):
    """A network that returns what it is told to, as torchvision's and others do."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.net, self.kind = small(), kind

    def forward(self, x: Tensor) -> Any:
        logits = self.net(x)
        return {
            "mapping": {"out": logits, "aux": None},
            "tuple": (logits, None),
            "flat": logits.mean((2, 3)),
            "text": "logits",
        }[self.kind]


def leaving() -> nn.Module:
    raise SystemExit(3)


def printing() -> nn.Module:
    print("loaded")
    return small()


def raising() -> nn.Module:
    raise RuntimeError("no such weights\nmore")


def number() -> int:
    return 7


def test_images_are_padded_to_multiples_with_the_mean() -> None:
    batch = images(40, 70)
    mean = torch.tensor([124, 116, 104], dtype=torch.uint8)  # of ImageNet
    padded = mean[None, :, None, None].repeat(2, 1, 64, 96)
    padded[..., :40, :70] = batch
    teacher = own(SMALL).model_copy(update={"input": Input(multiple=32)})
    with torch.inference_mode():
        close(logits_of(teacher, batch), small()(normalised(padded))[..., :10, :18])


class TestFunction:
    HERE = "tests.models.teachers.test_open"

    @pytest.mark.parametrize("kind", ["mapping", "tuple"])
    def test_what_a_function_returns(self, kind: str) -> None:
        teacher = own(f"{self.HERE}:Output", kind=kind)
        with torch.inference_mode():
            close(logits_of(teacher, images()), small()(normalised(images())))

    def test_what_a_function_prints_is_not_standard_output(self, capsys: pytest.CaptureFixture[str]) -> None:
        open_network(own(f"{self.HERE}:printing"), Path("none"), CPU)
        assert capsys.readouterr() == ("", "loaded\n")

    def test_other_weights_than_before_are_an_error(self, tmp_path: Path) -> None:
        torch.save(small(5, seed=3).state_dict(), tmp_path / "w.pth")
        teacher = own(SMALL)
        with torch.inference_mode():
            close(logits_of(teacher, images(), path=tmp_path / "w.pth"), small(5, seed=3)(normalised(images())))
        with pytest.raises(CheckpointError, match=r"does not fit the network of .*:small: "):
            open_network(own(SMALL, classes=4), tmp_path / "w.pth", CPU)

    @pytest.mark.parametrize(
        ("name", "arguments", "said"),
        [
            ("raising", {}, "raised RuntimeError: no such weights"),
            ("leaving", {}, "raised SystemExit: 3"),
            ("number", {}, "returned int, must return a torch"),
            ("Output", {"what": 1}, r"teacher\.arguments\.what: .* has no such argument; valid: kind"),
            ("Output", {"kind": "flat"}, r"cannot read an image of 64x96: returns a tensor of shape \[1, 5\]"),
            ("Output", {"kind": "text"}, "returns str, must return logits"),
        ],
    )
    def test_what_a_function_does_wrong_is_one_sentence(self, name: str, arguments: dict[str, Any], said: str) -> None:
        with pytest.raises(ConfigError, match=said) as caught:
            Probe(own(f"{self.HERE}:{name}", **arguments), Path("none")).shape(64, 96)
        assert all("\n" not in fault for fault in caught.value.faults)


def test_the_software_is_told_from_the_file(tmp_path: Path) -> None:
    save_graphs(tmp_path, small())
    torch.save(small().state_dict(), tmp_path / "own.pt")
    found = {
        name: software_of(Teacher(checkpoint=tmp_path / name)) for name in ("net.pt", "net.pt2", "net.onnx", "own.pt")
    }
    assert found == {"net.pt": "torchscript", "net.pt2": "export", "net.onnx": "onnx", "own.pt": "own"}
    (tmp_path / "maps" / "val").mkdir(parents=True)
    with pytest.raises(CheckpointError, match="holds no teacher; a folder must be one of `save_pretrained`"):
        software_of(Teacher(checkpoint=tmp_path / "maps"))
    (tmp_path / "maps" / "val" / "a.npy").touch()
    assert software_of(Teacher(checkpoint=tmp_path / "maps")) == "logits"
    assert teacher_title({"checkpoint": str(tmp_path / "net.onnx")}) == "net.onnx (ONNX)"
    assert teacher_title({"encoder": "resnet18", "head": "fpn", "checkpoint": "gone.pth"}) == "resnet18 + fpn"
    assert teacher_title({"factory": "a.b:c", "arguments": {"x": 1}}) == "a.b:c"


def test_a_package_that_is_not_installed_names_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    (tmp_path / "config.json").write_text('{"architectures": ["SegformerForSemanticSegmentation"]}')
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingPackageError, match=r"pip install 'bpkd-search\[huggingface\]'"):
        open_network(Teacher(checkpoint=tmp_path), tmp_path, CPU)


def test_a_function_s_faults_name_its_key_and_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [
        "from torch import nn",
        "class Net(nn.Conv2d):",
        "    input = {'mean': [1, 2], 'rnage': 255}",
        "def odd(): return Net(3, 8, 3)",
        "def flat(): return nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten())",
    ]
    (tmp_path / "odd_teacher.py").write_text("\n".join(lines))
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError) as caught:
        Probe(Teacher(factory="odd_teacher:odd"), Path())
    said = str(caught.value)
    assert "teacher.factory: odd_teacher:odd returned a module whose input.mean.2: is required" in said
    assert "input.rnage: unknown key; did you mean range?" in said
    with pytest.raises(ConfigError, match=r"odd_teacher:flat cannot read an image of 32x48: returns a tensor of shape"):
        Probe(Teacher(factory="odd_teacher:flat"), Path()).shape(32, 48)
    (tmp_path / "weights.pt").write_bytes(b"abc")
    spoilt = Teacher(factory="odd_teacher:flat", checkpoint=tmp_path / "weights.pt")
    with pytest.raises(CheckpointError, match=r"teacher\.checkpoint: .*weights\.pt: is not a readable PyTorch file"):
        Probe(spoilt, tmp_path / "weights.pt")


@pytest.mark.parametrize(
    ("std", "expected"), [(0.5, (127.5,) * 3), ([0.1, 0.2, 0.4], (25.5, 51.0, 102.0)), ([0.5], None), ([1, 0, 1], None)]
)
def test_a_preprocessor_may_give_one_number_for_all_channels(tmp_path: Path, std: Any, expected: Any) -> None:
    tree = {"do_normalize": True, "image_mean": [0.5, 0.5, 0.5], "image_std": std}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(tree))
    if expected is None:
        with pytest.raises(CheckpointError, match=r"image_std .* must be three numbers"):
            read_input(tmp_path)
    else:
        assert read_input(tmp_path).in_bytes()[1] == pytest.approx(expected)
