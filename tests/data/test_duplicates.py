"""Hashes of images: what counts as equal and as alike, and the nearest against a plain loop."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from bpkd_search.data import open_split
from bpkd_search.data.duplicates import NEAR, content_hash, equal, look_hash, nearest
from bpkd_search.data.masks import read_image


def scenes(count: int) -> list[np.ndarray]:
    data = open_split("synthetic", "train", train_images=count)
    return [data[index][0].permute(1, 2, 0).numpy() for index in range(count)]


def differ(first: bytes | None, second: bytes | None) -> int:
    assert first is not None and second is not None
    return (int.from_bytes(first, "big") ^ int.from_bytes(second, "big")).bit_count()


def test_content_is_size_and_pixels() -> None:
    image = np.arange(72, dtype=np.uint8).reshape(4, 6, 3)
    assert content_hash(image) == content_hash(image.copy()) != content_hash(image.reshape(6, 4, 3))
    assert content_hash(image) != content_hash(image[:, ::-1])
    assert equal([b"a", None, b"b", b"a", None, b"c", b"c", b"a"]) == [[0, 3, 7], [5, 6]]


def test_look_is_where_brightness_rises() -> None:
    """By hand: nine columns, of which the fourth step and the last are upward."""
    columns = np.array([200, 100, 90, 80, 120, 60, 50, 40, 70], dtype=np.uint8)
    image = np.broadcast_to(columns[None, :, None], (8, 9, 3)).repeat(2, 0).repeat(3, 1)
    assert look_hash(image) == bytes([0b00010001] * 8)
    assert look_hash(np.full((5, 7, 3), 30, np.uint8)) is None


def compressed(image: Image.Image) -> Image.Image:
    file = BytesIO()
    image.save(file, "JPEG", quality=90)
    return Image.open(file)


@pytest.mark.parametrize("source", ["drawn", "camvid"])
def test_copies_look_alike_and_other_scenes_do_not(source: str, request: pytest.FixtureRequest) -> None:
    if source == "drawn":
        images = scenes(60)
    else:
        root: Path = request.getfixturevalue("shared") / "data/camvid/train"
        images = [read_image(path) for path in sorted(root.glob("*.png"))[::8]]
    looks = [look_hash(image) for image in images]
    copies = (
        compressed,
        lambda image: image.resize((image.width // 2, image.height // 2)),
        lambda image: ImageEnhance.Brightness(image).enhance(1.2),
    )
    for copy in copies:
        copied = [look_hash(np.array(copy(Image.fromarray(image)))) for image in images]
        near = [differ(look, other) <= NEAR for look, other in zip(looks, copied, strict=True)]
        assert np.mean(near) > 0.95
    if source == "drawn":  # CamVid has frames from a car that stands still
        assert min(differ(a, b) for i, a in enumerate(looks) for b in looks[:i]) > NEAR


def test_nearest_is_that_of_a_loop_over_all_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bpkd_search.data.duplicates._BLOCK", 7)
    rng = np.random.default_rng(0)
    first, second = ([rng.bytes(8) for _ in range(count)] for count in (40, 23))
    index, distance = nearest(first, second)
    for look, found, bits in zip(first, index, distance, strict=True):
        every = [differ(look, other) for other in second]
        assert (bits, found) == (min(every), int(np.argmin(every)))
    with pytest.raises(ValueError, match="others: got none"):
        nearest(first, [])
