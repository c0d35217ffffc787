"""Synthetic scenes: the same from the same seed, and with what makes segmentation hard."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
from scipy import ndimage

from bpkd_search.data import open_split
from bpkd_search.errors import DataError


def labels(count: int = 32) -> np.ndarray:
    data = open_split("synthetic", "train", train_images=count)
    return np.stack([data[index][1].numpy() for index in range(count)])


def test_same_parameters_same_bytes_in_any_order() -> None:
    first, second = (open_split("synthetic", "train", train_images=6) for _ in range(2))
    backward = {index: second[index] for index in reversed(range(6))}
    for index in range(6):
        assert torch.equal(first[index][0], backward[index][0])
        assert torch.equal(first[index][1], backward[index][1])
    assert first.identity() == second.identity()


def test_pixels_belong_to_the_scene_version() -> None:
    """Caches key on the version: when these bytes change, SCENE_VERSION has to change with them."""
    image, label = open_split("synthetic", "train")[0]
    painted = hashlib.sha256(image.numpy().tobytes() + label.numpy().tobytes()).hexdigest()[:16]
    assert painted == "ce1478457aa75d43"


def test_counts_do_not_change_images_but_seed_and_split_do() -> None:
    few, many = (open_split("synthetic", "train", train_images=n) for n in (2, 50))
    assert torch.equal(few[1][0], many[1][0])
    others = [
        open_split("synthetic", "train", seed=1)[1][0],
        open_split("synthetic", "val")[1][0],
        few[0][0],
    ]
    assert not any(torch.equal(few[1][0], other) for other in others)
    identities = {few.identity(), many.identity(), open_split("synthetic", "val").identity()}
    identities |= {open_split("synthetic", "train", **{name: 64}).identity() for name in ("height", "width", "seed")}
    assert len(identities) == 6


def test_every_class_is_common_and_some_pixels_are_ignored() -> None:
    stack = labels()
    for class_id in range(8):
        assert (stack == class_id).any(axis=(1, 2)).mean() > 0.9, class_id
    assert set(np.unique(stack)) == {*range(8), 255}
    share = (stack == 255).mean(axis=(1, 2))
    assert share.min() > 0.005
    assert share.max() < 0.1


def test_poles_are_thin_and_bodies_are_not() -> None:
    def share_left(class_id: int) -> float:
        """Return the share of a class that an erosion by 5 x 5 leaves."""
        masks = labels() == class_id
        return float(ndimage.binary_erosion(masks, np.ones((1, 5, 5))).sum() / masks.sum())

    assert share_left(5) < 0.01
    assert share_left(2) > 0.6


def test_edges_are_soft() -> None:
    """No class boundary of the image is a hard step: a pixel beside it has moved towards the other side."""
    data = open_split("synthetic", "val", val_images=8)
    steps = {1: [], 2: []}
    for image, label in (data[index] for index in range(8)):
        grey, ids = image.float().mean(0).numpy(), label.numpy().astype(int)
        # Rows of sky, sky | building, building: compare the step over one pixel and over three.
        for row, column in zip(*np.where((ids[:, 1:-2] == 0) & (ids[:, 2:-1] == 1)), strict=True):
            c = column + 1
            if ids[row, c - 1] == 0 and ids[row, c + 2] == 1:
                steps[1].append(abs(grey[row, c + 1] - grey[row, c]))
                steps[2].append(abs(grey[row, c + 2] - grey[row, c - 1]))
    assert len(steps[1]) > 100
    assert np.mean(steps[1]) < 0.8 * np.mean(steps[2])


@pytest.mark.parametrize(("height", "width"), [(32, 32), (32, 300), (300, 32), (97, 131)])
def test_any_size_from_32(height: int, width: int) -> None:
    data = open_split("synthetic", "train", train_images=12, height=height, width=width)
    for index in range(12):
        image, label = data[index]
        assert (tuple(image.shape), tuple(label.shape)) == ((3, height, width), (height, width))
        assert int(((label > 7) & (label != 255)).sum()) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"height": 31}, "height: got 31, must be at least 32"),
        ({"val_images": 0}, "val_images: got 0, must be at least 1"),
        ({"seed": -1}, "seed: got -1, must be at least 0"),
        ({"images": 4}, "unknown images; it takes: train_images, val_images"),
    ],
)
def test_bad_parameters(options: dict[str, int], message: str) -> None:
    with pytest.raises(DataError, match=message):
        open_split("synthetic", "train", **options)
