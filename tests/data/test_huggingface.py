"""Data sets saved by Hugging Face `datasets`: images and masks as they were put in, errors with row and column."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bpkd_search.data import Dataset, open_split
from bpkd_search.errors import DataError
from tests.mounts import read_only

library = pytest.importorskip("datasets")

NAMES = ["sky", "road", "car"]
RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (3, 6, 8, 3), dtype=np.uint8)
MASKS = np.where(RNG.random((3, 6, 8)) < 0.2, 255, RNG.integers(0, 3, (3, 6, 8))).astype(np.uint8)


def rows(masks: Any, feature: Any) -> Any:
    columns = {"image": [Image.fromarray(image) for image in IMAGES[: len(masks)]], "label": masks}
    return library.Dataset.from_dict(columns, features=library.Features({"image": library.Image(), "label": feature}))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    train = rows([Image.fromarray(mask) for mask in MASKS], library.Image())
    validation = rows(MASKS[:2].astype(np.int64).tolist(), library.Array2D((6, 8), "int64"))
    library.DatasetDict(train=train, validation=validation).save_to_disk(str(tmp_path / "saved"))
    return tmp_path / "saved"


def opened(root: Path, split: str = "train", **options: Any) -> Dataset:
    return open_split("huggingface", split, root=root, class_names=NAMES, **options)


@pytest.mark.parametrize(("split", "count"), [("train", 3), ("val", 2)])
def test_masks_as_images_and_as_arrays_hold_what_was_saved(root: Path, split: str, count: int) -> None:
    data = opened(root, split)
    assert (len(data), data.class_names) == (count, tuple(NAMES))
    for index, (image, label) in enumerate(data[i] for i in range(count)):
        np.testing.assert_array_equal(image.permute(1, 2, 0).numpy(), IMAGES[index])
        np.testing.assert_array_equal(label.numpy(), MASKS[index])
    _, label = opened(root, split, id_map={0: 255, 1: 0, 2: 2})[0]
    np.testing.assert_array_equal(label.numpy(), np.array([255, 0, 2, *[255] * 253], dtype=np.uint8)[MASKS[0]])


def test_masks_of_floats_hold_whole_numbers(tmp_path: Path) -> None:
    masks = MASKS[:2].astype(np.float64)
    rows(masks.tolist(), library.Array2D((6, 8), "float32")).save_to_disk(str(tmp_path / "train"))
    np.testing.assert_array_equal(opened(tmp_path)[1][1].numpy(), MASKS[1])
    masks[1, 2, 3] = 0.75
    rows(masks.tolist(), library.Array2D((6, 8), "float32")).save_to_disk(str(tmp_path / "new/train"))
    with pytest.raises(DataError, match=r"row 1, label: mask holds 0\.75, must hold whole numbers"):
        opened(tmp_path / "new")[1]


def test_identity_follows_content_not_place(root: Path, tmp_path: Path) -> None:
    first = opened(root).identity()
    moved = Path(shutil.move(root, tmp_path / "moved"))
    assert opened(moved).identity() == first == opened(moved).identity(tmp_path / "cache")
    assert opened(moved, "val").identity() != first
    assert opened(moved, id_map={0: 1, 1: 0, 2: 2}).identity() != first


def test_a_damaged_image_and_a_wrong_id_are_named_with_their_row(tmp_path: Path) -> None:
    features = library.Features({"image": library.Image(), "label": library.Array2D((6, 8), "int64")})
    damaged = {"image": [{"bytes": b"no image", "path": None}], "label": [np.full((6, 8), 7).tolist()]}
    library.Dataset.from_dict(damaged, features=features).save_to_disk(str(tmp_path / "train"))
    with pytest.raises(DataError, match=r"train, row 0, image: cannot read image: is not an image"):
        opened(tmp_path)[0]
    rows(np.full((1, 6, 8), 7).tolist(), library.Array2D((6, 8), "int64")).save_to_disk(str(tmp_path / "validation"))
    with pytest.raises(DataError, match="validation, row 0, label: mask holds ids 7, valid are 0-2, 255"):
        opened(tmp_path, "val")[0]


def test_what_is_missing_is_named(root: Path) -> None:
    with pytest.raises(DataError, match="missing class_names"):
        open_split("huggingface", "train", root=root)
    with pytest.raises(DataError, match="has no column 'mask'; its columns: image, label"):
        opened(root, mask="mask")
    with pytest.raises(DataError, match="column 'label' holds no images"):
        opened(root, "val", image="label", mask="label")
    with pytest.raises(DataError, match=r"no such directory: .*saved/test; expected layout: <root>/<split>"):
        opened(root, "test")
    (state,) = root.glob("train/state.json")
    state.write_text(json.dumps({}))
    with pytest.raises(DataError, match="train: is not a data set of save_to_disk, or is damaged"):
        opened(root)


def test_a_folder_that_cannot_be_written_is_read_all_the_same(root: Path, tmp_path: Path) -> None:
    with read_only(root):
        data = opened(root)
        assert data.identity(tmp_path / "cache") == opened(root).identity()
        np.testing.assert_array_equal(data[0][1].numpy(), MASKS[0])
