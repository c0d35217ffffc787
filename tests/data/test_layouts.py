"""Public layouts against real samples, and against tiny copies of the PASCAL layout."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bpkd_search.data import KINDS, find_faults, open_split
from bpkd_search.data.classes import ADE20K, PASCAL_CONTEXT, VOC, colour_map
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


def test_list_that_is_missing_or_names_absent_samples(pascal: Path) -> None:
    with pytest.raises(DataError, match=r"Segmentation/val.txt; expected layout"):
        open_split("voc", "val", root=pascal)
    (pascal / "ImageSets/Segmentation/val.txt").write_text("a\nwithout_mask\nnothing\n")
    with pytest.raises(DataError, match=r"(?s)without_mask: no mask.*nothing: neither image nor mask"):
        open_split("voc", "val", root=pascal)


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"folder"}))
def test_unknown_split_lists_the_valid_ones(kind: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"got split 'trian', must be one of train, val"):
        open_split(kind, "trian", root=tmp_path)


@pytest.mark.parametrize("kind", ["camvid", "cityscapes", "ade20k", "voc", "pascal_context"])
def test_wrong_root_says_the_layout(kind: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no such directory: .*expected layout: <root>/"):
        open_split(kind, "train", root=tmp_path)


def test_class_lists() -> None:
    assert [len(names) for names in (VOC, PASCAL_CONTEXT, ADE20K)] == [21, 59, 150]
    # The published first colours of PASCAL VOC: background, aeroplane, bicycle, bird; then tvmonitor.
    assert colour_map(4) == ((0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0))
    assert colour_map(21)[20] == (0, 64, 128)
    assert len(set(colour_map(255))) == 255
