"""A student from its file alone, and its pictures: classes, colours and sizes, pixel by pixel."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch.nn import functional as F

import bpkd_search
from bpkd_search.config.load import parse
from bpkd_search.config.models import RunConfig
from bpkd_search.config.points import to_tree
from bpkd_search.data.transforms import EvalTransform
from bpkd_search.errors import CheckpointError, DataError
from bpkd_search.models import Segmentor, read_about, save_weights
from bpkd_search.predict import load_student, predict
from bpkd_search.training.train import train

PALETTE = [[10, 20, 30], [200, 0, 0], [0, 200, 100]]


def about(tiny: dict[str, Any], **other: Any) -> dict[str, Any]:
    run = {key: tiny[key] for key in ("data", "teacher", "student", "loss", "train")}
    run["data"] = {"resize": [32, 48], **run["data"]}
    names = ["sky", "road", "tree"]
    return {"config": to_tree(parse(RunConfig, run, "t")), "class_names": names, "palette": PALETTE, **other}


@pytest.fixture
def student(tiny: dict[str, Any], tmp_path: Path) -> Path:
    torch.manual_seed(0)
    model = Segmentor("mobilenetv3_small_050", 3, channels=8)
    with torch.no_grad():  # spread, so that every class is predicted somewhere
        model.classifier.weight.mul_(50)
    save_weights(tmp_path / "student.safetensors", model, about(tiny))
    return tmp_path / "student.safetensors"


def picture(path: Path, height: int, width: int) -> np.ndarray:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(height).integers(0, 255, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
    image = np.kron(pixels, np.ones((8, 8, 1), np.uint8))[:height, :width]
    Image.fromarray(image).save(path)
    return image


def test_masks_and_overlays_show_what_the_model_says_at_the_images_size(student: Path, tmp_path: Path) -> None:
    images = {"a": picture(tmp_path / "in" / "a.png", 70, 51), "sub/b": picture(tmp_path / "in/sub/b.png", 20, 90)}
    files = predict(student, tmp_path / "in", tmp_path / "out")
    wanted = [tmp_path / "out" / f"{name}_{kind}.png" for name in images for kind in ("mask", "overlay")]
    assert files == wanted
    model, _ = load_student(student)
    seen = set()
    for name, image in images.items():
        small, _ = EvalTransform((32, 48))(
            torch.from_numpy(image).permute(2, 0, 1), torch.zeros(image.shape[:2]).byte()
        )
        logits = F.interpolate(model(small[None]), image.shape[:2], mode="bilinear")
        ids = logits.argmax(1)[0].numpy()
        mask = Image.open(tmp_path / "out" / f"{name}_mask.png")
        assert np.array_equal(np.array(mask), ids)
        assert np.array_equal(np.array(mask.convert("RGB")), np.array(PALETTE, np.uint8)[ids])
        overlay = np.array(Image.open(tmp_path / "out" / f"{name}_overlay.png"))
        assert np.array_equal(overlay, np.rint(image / 2 + np.array(PALETTE)[ids] / 2).astype(np.uint8))
        seen |= set(ids.flatten().tolist())
    assert len(seen) > 1


def test_windows_and_flips_of_the_header_are_those_of_the_masks(tiny: dict[str, Any], tmp_path: Path) -> None:
    how = {"mode": "slide", "crop": [32, 32], "stride": [32, 16], "flip": True}
    model, file = Segmentor("mobilenetv3_small_050", 3, channels=8).eval(), tmp_path / "student.safetensors"
    image = picture(tmp_path / "a.png", 70, 51)
    small, _ = EvalTransform((32, 48))(torch.from_numpy(image).permute(2, 0, 1), torch.zeros(image.shape[:2]).byte())
    with torch.no_grad():  # every class is predicted somewhere
        model.classifier.weight.mul_(50)
        model.classifier.bias -= model(small[None]).mean((0, 2, 3))
    save_weights(file, model, about({**tiny, "data": {**tiny["data"], "eval": how}}))
    mask, _ = predict(file, tmp_path / "a.png", tmp_path / "out")
    mean = torch.zeros(3, 32, 48)
    for flip in (False, True):
        total, times = torch.zeros(3, 32, 48), torch.zeros(48)
        seen = torch.from_numpy(small.numpy()[..., ::-1].copy()) if flip else small
        for left in (0, 16):
            logits = model(seen[None, :, :, left : left + 32])
            total[..., left : left + 32] += F.interpolate(logits, (32, 32), mode="bilinear")[0]
            times[left : left + 32] += 1
        probabilities = (total / times).softmax(0)
        mean += (probabilities.flip(-1) if flip else probabilities) / 2
    expected = F.interpolate(mean[None], image.shape[:2], mode="bilinear")[0].argmax(0).numpy()
    assert len(np.unique(expected)) > 1
    assert (np.array(Image.open(mask)) == expected).mean() > 0.999


def test_a_header_without_a_way_of_evaluation_gives_the_masks_of_the_whole_image(
    student: Path, tiny: dict[str, Any], tmp_path: Path
) -> None:
    image = picture(tmp_path / "a.png", 70, 51)
    header = about(tiny)
    del header["config"]["data"]["eval"]
    older = tmp_path / "older.safetensors"
    save_weights(older, load_student(student)[0], header)
    mask, _ = predict(older, tmp_path / "a.png", tmp_path / "out")
    small, _ = EvalTransform((32, 48))(torch.from_numpy(image).permute(2, 0, 1), torch.zeros(image.shape[:2]).byte())
    logits = load_student(older)[0](small[None])
    assert np.array_equal(np.array(Image.open(mask)), F.interpolate(logits, (70, 51), mode="bilinear").argmax(1)[0])


def test_a_single_file_and_nothing_replaced(student: Path, tmp_path: Path) -> None:
    picture(tmp_path / "in" / "a.jpg", 40, 40)
    files = predict(student, tmp_path / "in" / "a.jpg", tmp_path / "out")
    before = [p.read_bytes() for p in files]
    with pytest.raises(DataError, match=r"a_mask\.png: exists already; choose another --out"):
        predict(student, tmp_path / "in", tmp_path / "out")
    assert [p.read_bytes() for p in files] == before


def test_a_call_does_the_work_and_tells_of_each_file_as_it_is_written(student: Path, tmp_path: Path) -> None:
    for name in "ab":
        picture(tmp_path / "in" / f"{name}.png", 20, 30)
    told: list[Path] = []

    def on_file(path: Path) -> None:
        assert path.is_file() and len(list((tmp_path / "out").iterdir())) == len(told) + 1
        told.append(path)

    files = bpkd_search.predict(str(student), str(tmp_path / "in"), str(tmp_path / "out"), on_file)
    assert files == told and len(files) == 4
    bpkd_search.predict(student, tmp_path / "in", tmp_path / "again")
    assert sorted(path.name for path in (tmp_path / "again").iterdir()) == sorted(path.name for path in files)


def test_damaged_images_are_named_and_the_others_done(student: Path, tmp_path: Path) -> None:
    picture(tmp_path / "in" / "good.png", 40, 40)
    (tmp_path / "in" / "bad.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"1 of 2 images cannot be read:\n.*bad\.png"):
        predict(student, tmp_path / "in", tmp_path / "out")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["good_mask.png", "good_overlay.png"]


def test_images_that_are_not_there(student: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no such directory: .*nowhere"):
        predict(student, tmp_path / "nowhere", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty: holds no images \(\.png, "):
        predict(student, tmp_path / "empty", tmp_path / "out")


def test_what_train_writes_is_loaded_without_its_folder(tiny: dict[str, Any], tmp_path: Path) -> None:
    tree = {key: tiny[key] for key in ("data", "teacher", "student", "loss")}
    run = parse(RunConfig, {**tree, "train": {**tiny["train"], "epochs": 1}}, "test")
    metrics = train(run, tmp_path / "run", lambda line: None)
    moved = (tmp_path / "run" / "student.safetensors").rename(tmp_path / "moved.safetensors")
    model, said = load_student(moved)
    assert not model.training
    assert (said["miou"], said["size"], len(said["class_names"])) == (metrics["miou"], [32, 48], model.num_classes)
    assert said["config"] == to_tree(run)
    # The scores are those of these weights.
    from bpkd_search.training.evaluation import evaluate
    from bpkd_search.training.forms import Form
    from bpkd_search.training.inputs import prepare_views

    store = prepare_views(run.data, Form(2, "stored"), lambda line: None)
    assert evaluate(model, store, torch.device("cpu"), run.data.evaluation).miou == pytest.approx(
        metrics["miou"], abs=1e-12
    )
    assert [list(colour) for colour in store.palette] == said["palette"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"class_names": None}, "header lacks class_names"),
        ({"class_names": ["a"]}, "1 classes and 3 colours"),
        ({"palette": [[0, 0, 900]] * 3}, "header cannot be used"),
        ({"palette": "red"}, "header cannot be used"),
        ({"class_names": list("abcd"), "palette": [[0, 0, 0]] * 4}, "does not fit mobilenetv3_small_050"),
        ({"config": {"student": {"encoder": "resnet18", "shape": 3}, "data": {}}}, "header cannot be used"),
        ({"config": []}, "header cannot be used"),
    ],
)
def test_headers_that_do_not_describe_the_weights_are_refused(
    tiny: dict[str, Any], tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    path = tmp_path / "s.safetensors"
    header = {k: v for k, v in about(tiny, **change).items() if v is not None}
    save_weights(path, Segmentor("mobilenetv3_small_050", 3, channels=8), header)
    with pytest.raises(CheckpointError, match=said) as e:
        load_student(path)
    assert str(path) in str(e.value)


def test_files_that_are_no_students(tmp_path: Path) -> None:
    path = tmp_path / "s.safetensors"
    save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(CheckpointError, match=r"is not a student of .* lacks config, class_names, palette"):
        load_student(path)
    save_file({"x": torch.zeros(1)}, path, metadata={"bpkd_search": json.dumps([1])})
    with pytest.raises(CheckpointError, match="is not a student"):
        load_student(path)
    path.write_bytes(b"\x10garbage")
    with pytest.raises(CheckpointError, match="is not a readable safetensors file"):
        load_student(path)
    with pytest.raises(CheckpointError, match="no such weights file"):
        load_student(tmp_path / "none.safetensors")


def test_the_header_keeps_what_was_given(student: Path, tiny: dict[str, Any]) -> None:
    assert read_about(student)["palette"] == PALETTE
