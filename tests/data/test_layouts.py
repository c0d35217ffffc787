"""Public layouts against real samples, and against tiny copies of the PASCAL layout."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from bpkd_search.data import KINDS, Dataset, find_faults, open_split
from bpkd_search.data.classes import ADE20K, COCO_STUFF, PASCAL_CONTEXT, VOC, colour_map
from bpkd_search.errors import DataError


def test_camvid_counts_and_ids(shared: Path) -> None:
    train, val = (open_split("camvid", split, root=shared / "data/camvid") for split in ("train", "val"))
    assert (len(train), len(val), len(train.class_names)) == (367, 101, 11)
    seen = np.zeros(256, dtype=np.int64)
    for index in range(0, len(val), 5):
        image, label = val[index]
        assert (tuple(image.shape), tuple(label.shape)) == ((3, 360, 480), (360, 480))
        path = shared / "data/camvid/valannot" / f"{val.names[index]}.png"
        stored = np.array(Image.open(path))
        np.testing.assert_array_equal(label.numpy(), np.where(stored == 11, 255, stored))
        seen += np.bincount(label.numpy().ravel(), minlength=256)
    assert np.flatnonzero(seen).tolist() == [*range(11), 255]


def test_camvid_whole_val_split_is_sound(shared: Path) -> None:
    assert find_faults(open_split("camvid", "val", root=shared / "data/camvid")) == []


def test_cityscapes_raw_ids_agree_with_train_ids(shared: Path) -> None:
    root = shared / "data/cityscapes_sample"
    raw = open_split("cityscapes", "val", root=root)
    converted = open_split("cityscapes", "val", root=root, labels="labelTrainIds")
    assert raw.names == converted.names == ["frankfurt/frankfurt_000000_000294"]
    assert len(raw.class_names) == 19
    # The sample's two masks were resized separately, which is all that sets them apart.
    assert int((raw[0][1] != converted[0][1]).sum()) == 77
    assert raw.identity() != converted.identity()


def test_ade20k_counts_classes_from_one(shared: Path) -> None:
    root = shared / "data/ade20k_sample"
    data = open_split("ade20k", "val", root=root)
    assert (len(data), len(data.class_names)) == (3, 150)
    for index, name in enumerate(data.names):
        stored = np.array(Image.open(root / "annotations/validation" / f"{name}.png"))
        # In uint8, 0 - 1 is 255: the very encoding that is wanted.
        np.testing.assert_array_equal(data[index][1].numpy(), stored - np.uint8(1))


@pytest.fixture
def pascal(tmp_path: Path) -> Path:
    stored = np.array([[0, 1, 20, 255]], dtype=np.uint8)
    for folder in ("SegmentationClass", "SegmentationClassAug", "SegmentationClassContext"):
        (tmp_path / folder).mkdir()
        for name in ("a", "b", "c"):
            Image.fromarray(stored).save(tmp_path / folder / f"{name}.png")
    (tmp_path / "JPEGImages").mkdir()
    for name in ("a", "b", "c", "without_mask"):
        Image.new("RGB", (4, 1)).save(tmp_path / "JPEGImages" / f"{name}.jpg")
    for task in ("Segmentation", "SegmentationContext"):
        (tmp_path / "ImageSets" / task).mkdir(parents=True)
        (tmp_path / "ImageSets" / task / "train.txt").write_text("b\na\n")
    (tmp_path / "ImageSets/Segmentation/trainaug.txt").write_text("a\nb\nc\n")
    return tmp_path


def test_voc_and_pascal_context(pascal: Path) -> None:
    voc = open_split("voc", "train", root=pascal)
    assert (voc.names, len(voc.class_names)) == (["b", "a"], 21)
    assert voc[0][1].tolist() == [[0, 1, 20, 255]]
    assert len(open_split("voc", "train", root=pascal, augmented=True)) == 3
    context = open_split("pascal_context", "train", root=pascal)
    assert (len(context.class_names), context[0][1].tolist()) == (59, [[255, 0, 19, 255]])
    context = open_split("pascal_context", "train", root=pascal, background=True)
    assert (len(context.class_names), context[0][1].tolist()) == (60, [[0, 1, 20, 255]])


# Label ids of labels.txt: the first and last class, those around the first one without pixels, and unlabelled.
LABELS = {1: "person", 11: "fire hydrant", 13: "stop sign", 92: "banner", 182: "wood", 0: None}


def coco(root: Path, images: str, name: str) -> np.ndarray:
    """Save an image; return label ids."""
    ids = np.array([list(LABELS)], dtype=np.uint8)
    (root / images).mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (ids.shape[1], 1)).save(root / images / f"{name}.jpg")
    return ids


def save_mask(path: Path, ids: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(ids).save(path)


def named(data: Dataset, index: int = 0) -> list[str | None]:
    return [None if value == 255 else data.class_names[value] for value in data[index][1].ravel().tolist()]


@pytest.mark.parametrize("split", ["train", "val"])
def test_coco_stuff_original_and_converted_masks(tmp_path: Path, split: str) -> None:
    ids = coco(tmp_path, f"images/{split}2017", "000000000009")
    folder = tmp_path / f"annotations/{split}2017"
    # stuffthingmaps: the label id minus 1, so that 0 becomes 255.
    save_mask(folder / "000000000009.png", ids - np.uint8(1))
    converted = np.array([[COCO_STUFF.index(name) if name else 255 for name in LABELS.values()]], dtype=np.uint8)
    save_mask(folder / "000000000009_labelTrainIds.png", converted)
    for labels in ("original", "labelTrainIds"):
        data = open_split("coco_stuff", split, root=tmp_path, labels=labels)
        assert (data.names, named(data)) == (["000000000009"], list(LABELS.values()))
    # An id of COCO without pixels (street sign, 12) is no class.
    save_mask(folder / "000000000009.png", np.full_like(ids, 11))
    with pytest.raises(DataError, match="mask holds ids 11, valid are 0-10, 12-24"):
        open_split("coco_stuff", split, root=tmp_path)[0]
    with pytest.raises(DataError, match="coco_stuff labels: got 'ids', must be original or labelTrainIds"):
        open_split("coco_stuff", split, root=tmp_path, labels="ids")


def test_coco_stuff_10k_matlab_and_converted_masks(tmp_path: Path) -> None:
    name = "COCO_train2014_000000000077"
    ids = coco(tmp_path, "images", name)
    (tmp_path / "annotations").mkdir()
    savemat(tmp_path / f"annotations/{name}.mat", {"S": ids.astype(np.uint16), "names": ["unlabeled"]})
    (tmp_path / "imageLists").mkdir()
    (tmp_path / "imageLists/test.txt").write_text(f"{name}\n")
    data = open_split("coco_stuff10k", "val", root=tmp_path)
    assert (data.names, named(data)) == ([name], list(LABELS.values()))
    (tmp_path / f"annotations/{name}.mat").write_bytes(b"MATLAB 5.0 MAT-file")
    with pytest.raises(DataError, match=rf"annotations/{name}.mat: cannot read mask"):
        data[0]

    coco(tmp_path / "mmseg", "images/train2014", name)
    converted = np.array([[COCO_STUFF.index(label) + 1 if label else 0 for label in LABELS.values()]], dtype=np.uint8)
    save_mask(tmp_path / f"mmseg/annotations/train2014/{name}_labelTrainIds.png", converted)
    data = open_split("coco_stuff10k", "train", root=tmp_path / "mmseg", labels="labelTrainIds")
    assert named(data) == list(LABELS.values())


def test_lists_of_names_may_hold_spaces_and_the_mark_of_an_editor(pascal: Path) -> None:
    listed = pascal / "ImageSets/Segmentation/train.txt"
    for part, suffix in (("JPEGImages", ".jpg"), ("SegmentationClass", ".png")):
        (pascal / part / f"b{suffix}").rename(pascal / part / f"straße 7 b{suffix}")
    listed.write_bytes("\ufeffstraße 7 b\r\n\r\na \r\n".encode())
    assert open_split("voc", "train", root=pascal).names == ["straße 7 b", "a"]
    listed.write_bytes("straße 7 b\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"train\.txt: is not text in UTF-8"):
        open_split("voc", "train", root=pascal)


def test_voc_masks_are_palette_images_whose_indices_are_the_classes(tmp_path: Path) -> None:
    ids = np.array([[0, 15, 20, 255]], dtype=np.uint8)
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (tmp_path / folder).mkdir(parents=True)
    Image.new("RGB", (4, 1)).save(tmp_path / "JPEGImages/2007_000032.jpg")
    mask = Image.fromarray(ids).convert("P")
    mask.putdata(ids.ravel().tolist())
    mask.putpalette([channel for colour in colour_map(256) for channel in colour])
    mask.save(tmp_path / "SegmentationClass/2007_000032.png")
    (tmp_path / "ImageSets/Segmentation/val.txt").write_text("2007_000032\n")
    data = open_split("voc", "val", root=tmp_path)
    assert named(data) == ["background", "person", "tvmonitor", None]


def test_list_that_is_missing_or_names_absent_samples(pascal: Path) -> None:
    with pytest.raises(DataError, match=r"Segmentation/val.txt; expected layout"):
        open_split("voc", "val", root=pascal)
    (pascal / "ImageSets/Segmentation/val.txt").write_text("a\nwithout_mask\nnothing\n")
    with pytest.raises(DataError, match=r"(?s)without_mask: no mask.*nothing: neither image nor mask"):
        open_split("voc", "val", root=pascal)


@pytest.mark.parametrize("kind", sorted(name for name, kind in KINDS.items() if kind.splits))
def test_unknown_split_lists_the_valid_ones(kind: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"got split 'trian', must be one of train, val"):
        open_split(kind, "trian", root=tmp_path)


@pytest.mark.parametrize("kind", [name for name, kind in KINDS.items() if kind.needs_root and not kind.required])
def test_wrong_root_says_the_layout(kind: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no such directory: .*expected layout: <root>/"):
        open_split(kind, "train", root=tmp_path)


def test_class_lists() -> None:
    assert [len(names) for names in (VOC, PASCAL_CONTEXT, ADE20K, COCO_STUFF)] == [21, 59, 150, 171]
    assert len(set(COCO_STUFF)) == 171
    # The first and last rows of color150.
    assert (ADE20K["wall"], ADE20K["sky"], ADE20K["flag"]) == ((120, 120, 120), (6, 230, 230), (92, 0, 255))
    # The published first colours of PASCAL VOC: background, aeroplane, bicycle, bird; then tvmonitor.
    assert colour_map(4) == ((0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0))
    assert colour_map(21)[20] == (0, 64, 128)
    assert len(set(colour_map(255))) == 255
