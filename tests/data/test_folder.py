"""Folder data sets: what is read, and that every kind of bad input is named."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bpkd_search.data import Dataset, check, find_faults, open_split
from bpkd_search.data.folder import FolderDataset, Pair
from bpkd_search.data.masks import to_classes
from bpkd_search.errors import DataError

NAMES = ["sky", "road", "car"]
IMAGE = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
MASK = np.array([[0, 1, 2, 255]] * 6, dtype=np.uint8).repeat(2, axis=1)


def save(path: Path, array: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for split, count in (("train", 3), ("val", 2)):
        for index in range(count):
            save(tmp_path / f"set/images/{split}/s{index}.png", IMAGE + index)
            save(tmp_path / f"set/masks/{split}/s{index}.png", MASK)
    return tmp_path / "set"


def opened(root: Path, split: str = "train", **options: Any) -> Dataset:
    options = {"images": "images/{split}", "masks": "masks/{split}", "class_names": NAMES} | options
    return open_split("folder", split, root=root, **options)


def fails(*parts: str) -> Any:
    """Expect a DataError whose message holds every part."""
    return pytest.raises(DataError, match="(?s)" + "".join(f"(?=.*{part})" for part in parts))


def test_reads_pixels_and_ids_as_stored(root: Path) -> None:
    data = opened(root)
    image, label = data[1]
    assert (len(data), data.names) == (3, ["s0", "s1", "s2"])
    np.testing.assert_array_equal(image.permute(1, 2, 0).numpy(), IMAGE + 1)
    np.testing.assert_array_equal(label.numpy(), MASK)
    assert len(opened(root, "val")) == 2
    assert data.class_names == tuple(NAMES)
    assert len(set(data.palette)) == 3


def test_palette_and_16_bit_masks_hold_ids(root: Path) -> None:
    palette = Image.fromarray(MASK).convert("P")
    palette.putdata(MASK.ravel().tolist())
    palette.putpalette(list(range(256)) * 3)
    palette.save(root / "masks/train/s0.png")
    save(root / "masks/train/s1.png", MASK.astype(np.uint16) * 100)
    data = opened(root, id_map={0: 0, 1: 1, 2: 2, 100: 1, 200: 2, 25500: 255})
    np.testing.assert_array_equal(data[0][1].numpy(), MASK)
    np.testing.assert_array_equal(data[1][1].numpy(), MASK)


def test_id_map_and_ignore_id(root: Path) -> None:
    _, label = opened(root, id_map={0: 255, 1: 0, 2: 2}, ignore_id=255)[0]
    np.testing.assert_array_equal(label.numpy(), np.array([[255, 0, 2, 255]] * 6).repeat(2, axis=1))
    save(root / "masks/train/s0.png", np.where(MASK == 255, 7, MASK).astype(np.uint8))
    _, label = opened(root, ignore_id=7)[0]
    np.testing.assert_array_equal(label.numpy(), MASK)


@pytest.mark.parametrize("suffix", [".jpg", ".JPEG", ".bmp", ".tif"])
def test_other_image_formats_pair_by_name(root: Path, suffix: str) -> None:
    path = root / "images/train/s0.png"
    Image.fromarray(np.full((6, 8, 3), 90, dtype=np.uint8)).save(path.with_suffix(suffix))
    path.unlink()
    image, _ = opened(root)[0]
    assert (image.int() - 90).abs().max() <= 1


def test_names_in_sub_folders_and_hidden_files(root: Path) -> None:
    for part in ("images", "masks"):
        shutil.move(root / part / "train/s2.png", save(root / part / "train/city/s2.png", MASK))
    (root / "images/train/._s0.png").write_bytes(b"left by a file manager")
    data = opened(root)
    assert data.names == ["city/s2", "s0", "s1"]
    check(data)


def test_missing_root_and_folder_say_the_layout(root: Path) -> None:
    with fails("needs root"):
        open_split("folder", "train", images="i/{split}", masks="m/{split}", class_names=NAMES)
    with fails("nowhere"):
        opened(root / "nowhere")
    shutil.rmtree(root / "masks/train")
    with fails("masks/train", "expected layout: images in <root>/images/{split}, masks in <root>/masks"):
        opened(root)


def test_unpaired_files_are_all_named(root: Path) -> None:
    (root / "masks/train/s0.png").unlink()
    (root / "images/train/s2.png").unlink()
    with fails("2 samples are incomplete", "s0: no mask for its image", "s2: no image for its mask"):
        opened(root)


def test_long_lists_end_in_a_count(root: Path) -> None:
    for index in range(40):
        save(root / f"images/train/x{index:02d}.png", IMAGE)
    with fails("40 samples", "x19", r"\.\.\. and 20 more") as caught:
        opened(root)
    assert "x20" not in str(caught.value)


def test_same_name_twice(root: Path) -> None:
    save(root / "images/train/s1.bmp", IMAGE)
    with fails("two files for sample 's1'", "s1.bmp"):
        opened(root)


def test_empty_split(root: Path) -> None:
    for path in (root / "images/train").iterdir():
        path.unlink()
    for path in (root / "masks/train").iterdir():
        path.unlink()
    with fails("empty split", "images/train"):
        opened(root)


def test_sizes_that_differ(root: Path) -> None:
    save(root / "masks/train/s1.png", MASK[:, :5])
    with fails("masks/train/s1.png", "mask is 5x6", "its image 8x6"):
        opened(root)[1]


@pytest.mark.parametrize(("turned", "fits"), [(6, True), (3, False), (1, False)])
def test_a_photo_labelled_as_viewers_turn_it_says_why_its_mask_does_not_fit(
    root: Path, turned: int, fits: bool
) -> None:
    (root / "images/train/s1.png").unlink()
    exif = Image.Exif()
    exif[0x0112] = turned
    Image.fromarray(IMAGE).save(root / "images/train/s1.jpg", exif=exif)
    save(root / "masks/train/s1.png", MASK.T)
    with fails("mask is 6x8", "its image 8x6") as caught:
        opened(root)[1]
    advice = "the image's EXIF orientation, 6, is not applied: save the image turned as the mask is"
    assert (advice in str(caught.value)) == fits


def test_linked_folders_are_read_and_a_link_back_ends(root: Path, tmp_path: Path) -> None:
    for part in ("images", "masks"):
        (root / part / "train/city").mkdir()
        shutil.move(root / part / "train/s2.png", tmp_path / f"{part}.png")
        (tmp_path / f"other-{part}").mkdir()
        shutil.move(tmp_path / f"{part}.png", tmp_path / f"other-{part}/s2.png")
        (root / part / "train/linked").symlink_to(tmp_path / f"other-{part}")
        (root / part / "train/city/back").symlink_to(root / part / "train")
    data = opened(root)
    assert data.names == ["linked/s2", "s0", "s1"]
    np.testing.assert_array_equal(data[0][0].permute(1, 2, 0).numpy(), IMAGE + 2)


def test_ids_outside_the_classes(root: Path) -> None:
    wrong = MASK.copy()
    wrong[0, :4] = [3, 4, 5, 90]
    save(root / "masks/train/s1.png", wrong)
    with fails("masks/train/s1.png", "ids 3-5, 90, valid are 0-2, 255"):
        opened(root)[1]


def test_colour_coded_mask(root: Path) -> None:
    save(root / "masks/train/s0.png", IMAGE)
    with fails("masks/train/s0.png", "mode RGB", "colour-coded", "one id per pixel", "data.folder.encoding: colours"):
        opened(root)[0]


PALETTE = [(70, 130, 180), (128, 64, 128), (0, 0, 142)]


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_colours_of_masks_are_classes(root: Path, mode: str) -> None:
    colours = np.array([*PALETTE, *[(0, 0, 0)] * 253], dtype=np.uint8)[MASK]
    for index in range(3):
        mask = Image.fromarray(colours)
        (mask.quantize() if mode == "P" else mask.convert(mode)).save(root / f"masks/train/s{index}.png")
    options = {"palette": PALETTE, "encoding": "colours", "ignore_colours": [(0, 0, 0)]}
    data = opened(root, **options)
    np.testing.assert_array_equal(data[0][1].numpy(), MASK)
    assert data.palette == tuple(PALETTE)
    assert data.identity() != opened(root, **options | {"palette": PALETTE[::-1]}).identity()
    with fails("masks/train/s0.png", "mask holds colours #000000, valid are #00008e, #4682b4, #804080"):
        opened(root, **options | {"ignore_colours": []})[0]


def test_ids_that_no_mask_of_8_or_16_bits_has(root: Path) -> None:
    values = np.array([[0, -1, 70_000, 2]])
    np.testing.assert_array_equal(to_classes(values, opened(root).table), [[0, -1, -1, 2]])


def test_image_deeper_than_8_bits(root: Path) -> None:
    save(root / "images/train/s0.png", IMAGE[..., 0].astype(np.uint16) * 256)
    with fails("images/train/s0.png", "8 bits per channel"):
        opened(root)[0]


@pytest.mark.parametrize("colour_type", [2, 4, 6])
def test_images_of_16_bits_in_every_colour_type_are_refused(root: Path, colour_type: int) -> None:
    channels = {2: 3, 4: 2, 6: 4}[colour_type]
    rows = np.arange(6 * 8 * channels, dtype=">u2").reshape(6, -1)

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", 8, 6, 16, colour_type, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    (root / "images/train/s0.png").write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    )
    with fails("images/train/s0.png", "16 bits per channel, must have 8"):
        opened(root)[0]


@pytest.mark.parametrize("part", ["images", "masks"])
@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.9])
def test_truncated_file(root: Path, part: str, share: float) -> None:
    noise = np.random.default_rng(1).integers(0, 3, (60, 80), dtype=np.uint8)
    save(root / "images/train/s1.png", noise)
    whole = save(root / part / "train/s1.png", noise).read_bytes()
    (root / part / "train/s1.png").write_bytes(whole[: int(share * len(whole))])
    with fails(f"{part}/train/s1.png", "cannot read"):
        opened(root)[1]


def test_check_reports_every_damaged_sample(root: Path) -> None:
    check(opened(root))
    save(root / "masks/train/s0.png", MASK[:3])
    (root / "images/train/s2.png").write_bytes(b"no image")
    faults = find_faults(opened(root))
    assert [("s0.png" in line, "s2.png" in line) for line in faults] == [(True, False), (False, True)]
    with fails("2 of 3 samples", "s0.png", "s2.png"):
        check(opened(root))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"class_names": []}, "got 0 class names, must be 1 to 255"),
        ({"ignore_id": 1}, "ignore_id 1 is also the mask id of class 1"),
        ({"ignore_id": -1}, "ignore_id: got -1"),
        ({"id_map": {0: 3}}, "mask id 0 is mapped to 3, must be a class 0..2 or 255"),
        ({"id_map": {-1: 0}}, "mask id -1 is not in"),
        ({"images": "images"}, "got 'images', must hold {split}"),
        ({"mask": "m"}, "unknown mask; it takes: images, masks, class_names, ignore_id, id_map, palette, encoding"),
        ({"palette": PALETTE[:2]}, "palette: got 2 colours, must be one for each of the 3 classes"),
        ({"encoding": "colors"}, "encoding: got 'colors', must be ids or colours"),
        ({"encoding": "colours"}, "palette: is required with encoding: colours"),
        ({"encoding": "colours", "palette": PALETTE, "id_map": {0: 0}}, "id_map: must be left out"),
        ({"encoding": "colours", "palette": PALETTE, "ignore_colours": PALETTE[:1]}, r"got \[70, 130, 180\] more than"),
        ({"ignore_colours": [(0, 0, 0)]}, "ignore_colours: needs encoding: colours"),
    ],
)
def test_impossible_options(root: Path, options: dict[str, Any], message: str) -> None:
    with fails(message):
        opened(root, **options)


def test_missing_options_and_unknown_kind(root: Path) -> None:
    with fails("missing masks, class_names"):
        open_split("folder", "train", root=root, images="images/{split}")
    with fails("got 'kitti', must be one of .*camvid, .*folder, .*synthetic"):
        open_split("kitti", "train", root=root)


def test_identity_follows_content_not_place(root: Path) -> None:
    first = opened(root).identity()
    moved = root.parent / "elsewhere"
    shutil.copytree(root, moved)
    os.utime(moved / "images/train/s0.png", (1, 1))
    assert opened(moved).identity() == first
    assert opened(root, "val").identity() != first
    assert opened(root, id_map={0: 1, 1: 0, 2: 2}).identity() != first
    save(moved / "masks/train/s0.png", MASK[::-1, ::-1])
    assert opened(moved).identity() != first
    os.rename(root / "images/train/s0.png", root / "images/train/r0.png")
    os.rename(root / "masks/train/s0.png", root / "masks/train/r0.png")
    assert opened(root).identity() != first


def test_identity_follows_the_bytes_of_many_files(tmp_path: Path) -> None:
    """Of over 2,000 files, one mask is replaced by another of the same size."""
    table = np.zeros(256, dtype=np.int16)
    pairs = [Pair(str(i), tmp_path / f"{i}.png", tmp_path / f"{i}_mask.png") for i in range(1001)]
    for i, pair in enumerate(pairs):
        pair.image.write_bytes(b"image %d" % i)
        pair.mask.write_bytes(b"mask %04d" % i)
    opened = [FolderDataset(pairs, ("all",), [(0, 0, 0)], table) for _ in range(2)]
    first = opened[0].identity(tmp_path / "cache")
    pairs[500].mask.write_bytes(b"mask 9999")
    assert opened[1].identity(tmp_path / "cache") != first


def test_identity_is_the_hash_of_these_parts(root: Path) -> None:
    """Stores on disk are named after it: it must not change by itself."""
    dataset = opened(root)
    hashes = [
        hashlib.sha256(path.read_bytes()).hexdigest() for pair in dataset.pairs for path in (pair.image, pair.mask)
    ]
    parts = [len(dataset.class_names), {"0": 0, "1": 1, "2": 2, "255": 255}, dataset.names, hashes]
    text = json.dumps(parts, separators=(",", ":"))
    assert dataset.identity() == hashlib.sha256(text.encode()).hexdigest()[:16]
