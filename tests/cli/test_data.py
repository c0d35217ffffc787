"""`bpkd-search data`: every planted fault is found by name, a sound data set has none, pictures show what is there."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image, ImageEnhance

from bpkd_search.config import load_run
from bpkd_search.data import open_split
from bpkd_search.pictures.contact_sheet import paint, samples_of
from bpkd_search.training.forms import first_form
from bpkd_search.training.inputs import view_recipe
from tests.mounts import read_only

NAMES = ["sky", "building", "road", "pavement", "tree", "pole", "sign", "vehicle"]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn scenes as a folder data set without a fault, small enough to be read in a moment."""
    root = tmp_path_factory.mktemp("data") / "sound"
    for split, count in (("train", 12), ("val", 4)):
        data = open_split("synthetic", split, height=48, width=64, **{f"{split}_images": count})
        for part in ("images", "masks"):
            (root / part / split).mkdir(parents=True)
        for index in range(count):
            image, label = data[index]
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(root / f"images/{split}/{split[0]}{index:02d}.png")
            Image.fromarray(label.numpy()).save(root / f"masks/{split}/{split[0]}{index:02d}.png")
    return root


@pytest.fixture
def root(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "set"))


@pytest.fixture
def space(root: Path, tmp_path: Path) -> Path:
    path = tmp_path / "space.yaml"
    data: dict[str, Any] = {"kind": "folder", "root": str(root), "crop": [32, 48], "folder": {"class_names": NAMES}}
    path.write_text(yaml.safe_dump({"data": {**data, "views_dir": str(tmp_path / "kept")}}))
    return path


def masks_of(root: Path, split: str) -> np.ndarray:
    return np.stack([np.array(Image.open(path)) for path in sorted((root / "masks" / split).iterdir())])


def test_a_sound_data_set_is_said_to_be_sound(call, space: Path, root: Path) -> None:
    code, out, err = call("data", "check", space, "--strict")
    assert code == 0, out
    lines = out.splitlines()
    masks = masks_of(root, "train")
    assert lines[1].split() == ["train", "12", "48x64", f"{(masks != 255).mean():.1%}"]
    assert lines[-1].startswith("folder: 16 images read in") and lines[-1].endswith(": sound")
    assert "test: is not read: no such directory" in err
    share, images = (masks == 2).sum() / (masks != 255).sum(), (masks == 2).any((1, 2)).sum()
    (row,) = [line.split() for line in lines if line.split()[1:2] == ["road"]]
    assert row[2:4] == [f"{share:.2%}", str(images)]


def test_every_planted_fault_is_found_by_name(call, space: Path, root: Path, tmp_path: Path) -> None:
    def image(path: str) -> Image.Image:
        return Image.open(root / path).copy()

    whole = (root / "images/train/t00.png").read_bytes()
    (root / "images/train/t00.png").write_bytes(whole[: len(whole) // 2])
    (root / "images/train/t01.png").write_bytes(b"<html>not found</html>")
    image("masks/train/t02.png").crop((0, 0, 60, 48)).save(root / "masks/train/t02.png")
    wrong = np.array(image("masks/train/t03.png"))
    wrong[:2, :5] = 77
    Image.fromarray(wrong).save(root / "masks/train/t03.png")
    (root / "masks/train/t04.png").unlink()
    (root / "images/val/v00.png").unlink()
    shutil.copy(root / "images/train/t05.png", root / "images/train/t06.png")
    shutil.copy(root / "images/train/t07.png", root / "images/val/v01.png")
    ImageEnhance.Brightness(image("images/train/t08.png")).enhance(1.1).save(root / "images/val/v02.png")
    Image.fromarray(np.full((48, 64), 255, np.uint8)).save(root / "masks/train/t09.png")
    image("images/train/t10.png").convert("L").save(root / "images/train/t10.png")
    image("masks/train/t11.png").convert("RGB").save(root / "masks/train/t11.png")
    Image.fromarray(np.full((48, 64), 9000, np.uint16)).save(root / "images/val/v03.png")

    code, out, _ = call("data", "check", space, "--json", tmp_path / "report.json", "--workers", "2")
    assert code == 1
    report = json.loads((tmp_path / "report.json").read_text())
    found = {(each["level"], each["kind"], *each["splits"]): each["items"] for each in report["findings"]}

    def only(level: str, kind: str, *splits: str) -> str:
        (item,) = found[(level, kind, *splits)]
        assert item in out
        return str(item)

    truncated, no_image, coloured = found["fault", "unreadable", "train"]
    assert "images/train/t00.png: cannot read image: " in truncated
    assert "images/train/t01.png: cannot read image: is not an image" in no_image
    assert "masks/train/t11.png: mask has mode RGB (colour-coded?)" in coloured
    assert "images/val/v03.png: image mode is I;16" in only("fault", "unreadable", "val")
    assert "masks/train/t02.png: mask is 60x48 (width x height), its image 64x48" in only("fault", "sizes", "train")
    assert only("fault", "outside", "train") == "t03: 77 (10 px)"
    assert only("fault", "unpaired", "train") == "t04: no mask for its image"
    assert only("fault", "unpaired", "val") == "v00: no image for its mask"
    assert only("fault", "duplicate", "train") == "train t05 = train t06"
    assert only("fault", "leak", "train", "val") == "train t07 = val v01"
    assert only("warning", "near", "train", "val").startswith("val v02 ~ train t08: ")
    assert only("warning", "void", "train") == "t09"
    assert only("note", "form", "train") == "t10"
    assert "1 images are grey: read as three equal channels" in out
    assert report["splits"]["train"]["sizes"] == {"48x64": 9, "48x60": 1}

    code, _, err = call("data", "check", space, "--json", tmp_path / "report.json")
    assert code == 2 and "exists already" in err


def test_warnings_alone_fail_only_strict_checks(call, space: Path) -> None:
    more = ("--set", f"data.folder.class_names={json.dumps([*NAMES, 'tram'])}")
    code, out, _ = call("data", "check", space, *more)
    assert code == 0
    assert "warning: val: 1 of 9 classes never occur\n  tram\n" in out
    assert out.splitlines()[-1].endswith("0 kind(s) of faults, 2 of warnings")
    assert call("data", "check", space, *more, "--strict")[0] == 1


def test_photos_that_viewers_turn_are_pointed_out(call, space: Path, root: Path) -> None:
    for number, turned in enumerate((1, 3, 6)):
        exif, path = Image.Exif(), root / f"images/train/t{number:02d}"
        exif[0x0112] = turned
        Image.open(path.with_suffix(".png")).save(path.with_suffix(".jpg"), exif=exif)
        path.with_suffix(".png").unlink()
    # Turned by a quarter, the sides are exchanged: that the mask fits shows that it is of the image as stored.
    code, out, _ = call("data", "check", space)
    assert code == 0
    assert "warning: train: 1 images have an EXIF orientation, which is not applied" in out
    assert "masks are of the image as stored\n  t01\n" in out


def test_long_lists_end_in_a_count_and_have_every_item_in_the_file(call, space: Path, root: Path) -> None:
    for index in range(25):
        Image.new("RGB", (64, 48)).save(root / f"images/train/x{index:02d}.png")
    code, out, _ = call("data", "check", space, "--json", root / "report.json")
    assert code == 1 and "25 samples without image or mask" in out and "... and 5 more" in out
    report = json.loads((root / "report.json").read_text())
    assert len(report["findings"][0]["items"]) == 25


def test_the_test_split_is_read_where_there_is_one(call, space: Path, root: Path) -> None:
    for part in ("images", "masks"):
        shutil.copytree(root / part / "val", root / part / "test")
    code, out, err = call("data", "check", space)
    assert (code, err) == (1, "")
    assert "fault: val and test: 4 images are in each of them" in out
    code, _, err = call("data", "check", space, "--set", "data.test_split=other")
    assert code == 2 and "images/other" in err


def test_colours_outside_the_palette_are_named(call, space: Path, root: Path) -> None:
    palette = np.arange(24, dtype=np.uint8).reshape(8, 3) * 10
    colours = np.zeros((256, 3), np.uint8)
    colours[:8], colours[255] = palette, (255, 255, 255)
    for path in [*(root / "masks").rglob("*.png")]:
        Image.fromarray(colours[np.array(Image.open(path))]).save(path)
    mask = np.array(Image.open(root / "masks/val/v02.png"))
    mask[0, :3] = (1, 2, 3)
    Image.fromarray(mask).save(root / "masks/val/v02.png")
    settings = {"palette": palette.tolist(), "encoding": "colours", "ignore_colours": [[255, 255, 255]]}
    more = [part for key, value in settings.items() for part in ("--set", f"data.folder.{key}={json.dumps(value)}")]
    code, out, _ = call("data", "check", space, *more)
    assert code == 1
    assert "fault: val: 1 masks hold colours outside the classes: #010203 (3 px)\n  v02: #010203 (3 px)\n" in out


def test_void_training_data_is_a_fault_before_anything_is_trained(call, space: Path, root: Path) -> None:
    for path in (root / "masks/train").iterdir():
        Image.fromarray(np.full((48, 64), 255, np.uint8)).save(path)
    code, out, _ = call("data", "check", space)
    assert code == 1 and "fault: train: every pixel of every mask is ignored" in out
    small = ("--set", "teacher.encoder=mobilenetv3_small_050", "--set", "student.encoder=mobilenetv3_small_050")
    code, _, err = call("teacher", space, *small)
    assert code == 2, err
    assert "every pixel of all 12 masks is ignored, from t00 to t11" in err and "epoch" not in err


def test_camvid_is_sound_and_its_splits_do_not_look_alike(call, shared: Path) -> None:
    """Its val frames are a stretch of a sequence that is also in train, seconds apart: too far for the hash."""
    code, out, _ = call("data", "check", "camvid", "--set", f"data.root={shared / 'data/camvid'}")
    assert code == 0
    assert out.splitlines()[1].split() == ["train", "367", "360x480", "96.1%"]
    assert "none look alike; the nearest: val 0016E5_08055 ~ train 0016E5_07500: 8 of 64 bits differ" in out


def test_data_sets_without_files_are_checked_too(call) -> None:
    code, out, _ = call("data", "check", "quickstart", "--set", "data.synthetic.train_images=8")
    assert code == 0 and "synthetic: " in out


def test_a_missing_data_set_is_bad_input(call, space: Path, tmp_path: Path) -> None:
    code, out, err = call("data", "check", space, "--set", f"data.root={tmp_path / 'nowhere'}")
    assert (code, out) == (2, "") and "no such directory" in err


def test_pictures_show_images_with_their_classes(call, space: Path, root: Path, tmp_path: Path) -> None:
    out = tmp_path / "sheet.png"
    assert call("data", "show", space, "--out", out, "--count", "3") == (0, f"{out}\n", "")
    sheet = np.array(Image.open(out))
    assert sheet.shape[1] == 3 * (260 + 12) + 12
    # Each image is there as a whole, enlarged by its nearest pixel; images 0, 4 and 8 of 12.
    for column, name in enumerate(("t00", "t04", "t08")):
        image = (
            Image.open(root / f"images/train/{name}.png").convert("RGB").resize((260, 195), Image.Resampling.NEAREST)
        )
        left = 12 + column * 272
        np.testing.assert_array_equal(sheet[39 : 39 + 195, left : left + 260], np.array(image))
    code, _, err = call("data", "show", space, "--out", out)
    assert code == 2 and "exists already; choose another --out" in err
    again = tmp_path / "crops.png"
    assert call("data", "show", space, "--out", again, "--crops", "--count", "2")[0] == 0
    for arguments, message in (
        (("--crops", "--split", "val"), "only the training split is cropped, got --split val"),
        (("--split", "other"), "images/other"),
    ):
        code, _, err = call("data", "show", space, "--out", tmp_path / "new.png", *arguments)
        assert code == 2 and message in err
    code, _, err = call("data", "show", space, "--out", tmp_path / "sheet.pdf")
    assert code == 2 and "must end in .png" in err


def test_crops_are_those_of_the_first_epoch(space: Path) -> None:
    run = load_run(space)
    _, samples = samples_of(run, "train", 12, crops=True)
    form = first_form(run)
    recipe = view_recipe(run.data, form)
    for index, (name, image, label) in enumerate(samples):
        expected = recipe.view(index, 0)
        assert name == f"t{index:02d}" and torch.equal(image, expected[0]) and torch.equal(label, expected[1])


def test_ignored_pixels_are_white_and_grey_and_others_of_their_class() -> None:
    label = torch.full((40, 60), 255, dtype=torch.uint8)
    label[:20] = 1
    painted = paint(torch.full((3, 40, 60), 100, dtype=torch.uint8), label, [(0, 0, 0), (200, 0, 50)])
    assert (painted[:20] == (160, 40, 70)).all()
    assert {tuple(pixel) for pixel in painted[20:].reshape(-1, 3).tolist()} == {(255, 255, 255), (120, 120, 124)}


def test_a_data_set_that_cannot_be_written_is_read_all_the_same(call, space: Path, root: Path, tmp_path: Path) -> None:
    networks = {name: {"encoder": "mobilenetv3_small_050", "channels": 8} for name in ("teacher", "student")}
    networks["teacher"]["train"] = {"epochs": 1, "batch_size": 4}
    tree = yaml.safe_load(space.read_text())
    space.write_text(yaml.safe_dump({**tree, **networks, "train": {"epochs": 1, "batch_size": 4}}))
    with read_only(root):
        assert call("data", "check", space)[0] == 0
        assert call("data", "show", space, "--out", tmp_path / "sheet.png")[0] == 0
        code, _, err = call("train", space, "--out", tmp_path / "run")
        assert code == 0, err
