"""Data sets in the layouts and encodings in which they are distributed, with few drawn images of their real sizes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from bpkd_search.data.layouts import CITYSCAPES_IDS
from bpkd_search.data.scenes import street_scene


@dataclass(frozen=True)
class Official:
    """How many images a data set has, the sizes (height, width) that many of them have, and its classes."""

    train: int
    val: int
    sizes: tuple[tuple[int, int], ...]
    classes: int


OFFICIAL = {
    "cityscapes": Official(2975, 500, ((1024, 2048),), 19),
    "ade20k": Official(20210, 2000, ((512, 683), (683, 512), (512, 768)), 150),
    "pascal_context": Official(4998, 5105, ((375, 500), (500, 375), (333, 500)), 59),
}


def draw_dataset(kind: str, root: Path, train: int, val: int, shrink: int = 1) -> Path:
    """Write so many images of each split below `root`, as the data set's own files are; returns `root`.

    Sides are those of the data set divided by `shrink`.
    """
    sizes = [(height // shrink, width // shrink) for height, width in OFFICIAL[kind].sizes]
    names = {"train": train, "val": val}
    for split, count in names.items():
        for number in range(count):
            image, label = street_scene(np.random.default_rng([number, split == "val"]), *sizes[number % len(sizes)])
            for path, array in _files(kind, root, split, number, image, label):
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(array).save(path)
    if kind == "pascal_context":
        for split, count in names.items():
            listed = root / "ImageSets/SegmentationContext" / f"{split}.txt"
            listed.parent.mkdir(parents=True, exist_ok=True)
            listed.write_text("".join(f"{split}_{number:06d}\n" for number in range(count)))
    return root


def _files(kind: str, root: Path, split: str, number: int, image: np.ndarray, label: np.ndarray):
    """Yield path and pixels of an image and of its mask. Classes of the scenes are spread over those of the data."""
    void, spread = label == 255, label.astype(np.int64) * (OFFICIAL[kind].classes // 8)
    if kind == "cityscapes":
        name = f"town/town_{number:06d}_000019"
        raw = np.asarray(CITYSCAPES_IDS)[np.where(void, 0, spread)]
        yield root / "leftImg8bit" / split / f"{name}_leftImg8bit.png", image
        yield root / "gtFine" / split / f"{name}_gtFine_labelIds.png", np.where(void, 0, raw).astype(np.uint8)
        return
    mask = np.where(void, 0, spread + 1).astype(np.uint8)
    if kind == "ade20k":
        folder = {"train": "training", "val": "validation"}[split]
        yield root / "images" / folder / f"ADE_{split}_{number:08d}.jpg", image
        yield root / "annotations" / folder / f"ADE_{split}_{number:08d}.png", mask
    else:
        yield root / "JPEGImages" / f"{split}_{number:06d}.jpg", image
        yield root / "SegmentationClassContext" / f"{split}_{number:06d}.png", mask


class Outline:
    """In the place of an official split: as many images, of the same sizes, without their pixels."""

    def __init__(self, kind: str, split: str) -> None:
        official = OFFICIAL[kind]
        self.count, self.sizes = getattr(official, split), official.sizes
        self.class_names = tuple(map(str, range(official.classes)))

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[None, np.ndarray]:
        return None, np.broadcast_to(np.uint8(0), self.sizes[index % len(self.sizes)])
