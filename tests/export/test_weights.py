"""Students elsewhere: timm takes the weights, ONNX Runtime and torch.export give the model's own logits."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from bpkd_search.config.load import parse
from bpkd_search.config.models import RunConfig
from bpkd_search.config.points import to_tree
from bpkd_search.errors import ExperimentError, MissingPackageError, UserError
from bpkd_search.export import weights as weights_module
from bpkd_search.export.write import export
from bpkd_search.models import Segmentor, save_weights
from bpkd_search.models.encoders import create_classifier
from bpkd_search.predict import load_student


def trained(tiny: dict[str, Any], folder: Path, encoder: str, head: str = "fpn", height: int = 64) -> Segmentor:
    """A folder as `train` leaves it, without the training."""
    tiny["student"] |= {"encoder": encoder, "head": head}
    tiny["data"] |= {"crop": [height, 96]}
    run = parse(RunConfig, {key: tiny[key] for key in ("data", "teacher", "student", "loss", "train")}, "test")
    torch.manual_seed(0)
    model = Segmentor(encoder, 3, head=head, channels=run.student.channels).eval()
    folder.mkdir()
    (folder / "config.yaml").write_text(json.dumps(to_tree(run)))
    (folder / "metrics.json").write_text(json.dumps({"miou": 0.5, "edge_miou": None, "loss": 1.0}))
    about = {"config": to_tree(run), "class_names": ["a", "b", "c"], "palette": [[0, 0, 0], [1, 2, 3], [4, 5, 6]]}
    save_weights(folder / "student.safetensors", model, about)
    return model


def images(count: int, height: int, width: int) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, height, width), generator=torch.Generator().manual_seed(7)).float()


# Pyramids whose names differ from timm's whole network in no way, by underscores, and by a prefix; and a variant.
@pytest.mark.parametrize("encoder", ["mobilenetv3_small_050", "convnext_atto", "xception41", "resnet18_v1c"])
def test_timm_takes_the_bare_weights_and_the_loader_rebuilds_the_student(
    tiny: dict[str, Any], tmp_path: Path, encoder: str
) -> None:
    model = trained(tiny, tmp_path / "run", encoder)
    [path] = export(tmp_path / "run", tmp_path / "out", 1, ["safetensors"])
    weights = load_file(path)
    assert {name.split(".")[0] for name in weights} == {"encoder", "head", "classifier"}
    whole = create_classifier(encoder)
    ours = {name.removeprefix("encoder."): w for name, w in weights.items() if name.startswith("encoder.")}
    assert whole.load_state_dict(ours, strict=False).unexpected_keys == []
    assert all(torch.equal(whole.state_dict()[name], weight) for name, weight in ours.items())
    (tmp_path / "run").rename(tmp_path / "gone")
    loaded, about = load_student(path)
    with torch.inference_mode():
        assert torch.equal(loaded(images(1, 64, 96)), model(images(1, 64, 96)))
    assert about["class_names"] == ["a", "b", "c"]
    assert (about["size"], about["miou"], about["metrics"]) == ([64, 96], 0.5, {"miou": 0.5})
    with safe_open(path, framework="np") as file:
        assert json.loads(file.metadata()["bpkd_search"])["palette"][1] == [1, 2, 3]


def test_onnx_gives_the_models_logits_at_other_batches_and_sizes(tiny: dict[str, Any], tmp_path: Path) -> None:
    onnx, onnxruntime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    model = trained(tiny, tmp_path / "run", "mobilenetv3_small_050")
    [path] = export(tmp_path / "run", tmp_path / "out", 1, ["onnx"])
    assert [p.name for p in path.parent.iterdir()] == ["trained.onnx"]
    onnx.checker.check_model(onnx.load(path), full_check=True)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    about = json.loads(session.get_modelmeta().custom_metadata_map["bpkd_search"])
    assert (about["class_names"], about["sizes"]) == (["a", "b", "c"], "any from 64")
    [given], [made] = ([value.shape for value in side] for side in (session.get_inputs(), session.get_outputs()))
    assert given == ["batch", 3, "height", "width"]
    assert made[:2] == ["batch", 3] and ["height" in made[2], "width" in made[3]] == [True, True]
    for batch in (images(1, 64, 96), images(3, 100, 90), images(2, 160, 70)):
        sizes = dict(zip(given, batch.shape, strict=True))
        assert [eval(str(side), {}, sizes) for side in made] == list(model(batch).shape)
        with torch.inference_mode():
            expected = model(batch)
        got = torch.from_numpy(session.run(["logits"], {"images": batch.numpy()})[0])
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-4 * float(expected.abs().max()))


def test_axes_that_are_free_in_steps_or_fixed_are_named_as_well() -> None:
    helper = pytest.importorskip("onnx").helper
    shapes = {"images": ["s34", 3, "32*s3", 96], "middle": ["s34", 8, "16*s3", 48], "logits": ["s34", 5, "8*s3", 24]}
    images, middle, logits = (helper.make_tensor_value_info(name, 1, shape) for name, shape in shapes.items())
    graph = helper.make_graph([], "g", [images], [logits], value_info=[middle])
    weights_module.name_axes(graph)
    named = [
        [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.value_info, *graph.output)
    ]
    assert named == [
        ["batch", 3, "height", 96],
        ["batch", 8, "16*(height//32)", 48],
        ["batch", 5, "8*(height//32)", 24],
    ]


# Networks that take any size, only sizes that halve five times, and one whose padding is computed from the size.
@pytest.mark.parametrize(
    ("encoder", "sizes", "other"),
    [
        ("resnet18", "any from 64", (3, 90, 70)),
        pytest.param("hrnet_w18_small", "multiples of 32 from 64", (3, 96, 64), marks=pytest.mark.long),
        ("tf_mobilenetv3_small_minimal_100", "64x96", (3, 64, 96)),
    ],
)
def test_torch_export_gives_the_models_logits(
    tiny: dict[str, Any], tmp_path: Path, encoder: str, sizes: str, other: tuple[int, int, int]
) -> None:
    model = trained(tiny, tmp_path / "run", encoder)
    [path] = export(tmp_path / "run", tmp_path / "out", 1, ["torch"])
    extra = {"bpkd_search.json": ""}
    program = torch.export.load(path, extra_files=extra).module()
    assert json.loads(extra["bpkd_search.json"])["sizes"] == sizes
    for batch in (images(1, 64, 96), images(*other)):
        torch.testing.assert_close(program(batch), model(batch), rtol=0, atol=1e-4)


def test_an_export_that_differs_from_the_model_is_not_kept(
    tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained(tiny, tmp_path / "run", "mobilenetv3_small_050", "fcn", height=32)
    save = torch.export.save

    def wrong(program: Any, *arguments: Any, **options: Any) -> None:
        program.state_dict["classifier.bias"].data += 1
        save(program, *arguments, **options)

    monkeypatch.setattr(torch.export, "save", wrong)
    with pytest.raises(UserError, match=r"trained: cannot be exported; tried\n  32x96: logits differ by"):
        export(tmp_path / "run", tmp_path / "out", 1, ["yaml", "torch"])
    assert list((tmp_path / "out").iterdir()) == []


def test_a_missing_package_names_the_extra(
    tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained(tiny, tmp_path / "run", "mobilenetv3_small_050")
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(
        MissingPackageError, match=r"--format onnx: needs onnxscript, .* pip install 'bpkd-search\[export\]'"
    ):
        export(tmp_path / "run", tmp_path / "out", 1, ["all"])
    assert not (tmp_path / "out").exists()


def test_a_student_that_was_not_kept_says_how_to_get_one(tiny: dict[str, Any], tmp_path: Path) -> None:
    trained(tiny, tmp_path / "run", "mobilenetv3_small_050")
    (tmp_path / "run" / "student.safetensors").unlink()
    with pytest.raises(ExperimentError, match=r"student\.safetensors: was not kept .* export the setting as yaml"):
        export(tmp_path / "run", tmp_path / "out", 1, ["safetensors"])
    assert not (tmp_path / "out").exists()
