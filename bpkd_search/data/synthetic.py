"""Synthetic street scenes as a data set: no files, the same bytes from the same parameters."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bpkd_search.data.base import IGNORE_INDEX, digest
from bpkd_search.data.scenes import CLASSES, street_scene
from bpkd_search.errors import DataError

SPLITS = ("train", "val")
MIN_SIDE = 32
# Part of the identity: raise it whenever scenes.py paints other pixels from the same seed.
SCENE_VERSION = 1


class SyntheticDataset:
    """Street scenes painted on first use and kept; see `Dataset`.

    Each scene has a random generator of its own, seeded by (seed, split, index), so that a larger
    data set starts with the scenes of a smaller one.
    """

    ignore_index = IGNORE_INDEX
    class_names = tuple(CLASSES)
    palette = tuple(CLASSES.values())

    def __init__(self, split: str, *, count: int, height: int, width: int, seed: int) -> None:
        """Fix the parameters; nothing is painted yet."""
        self.split, self.count, self.height, self.width, self.seed = split, count, height, width, seed
        self.names = [f"{split}_{index:05d}" for index in range(count)]
        self._kept: dict[int, tuple[Tensor, Tensor]] = {}

    def __len__(self) -> int:
        """Return the number of samples."""
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Return image uint8 [3, H, W] (RGB) and label uint8 [H, W]."""
        index = range(self.count)[index]
        if index not in self._kept:
            rng = np.random.Generator(np.random.PCG64([self.seed, SPLITS.index(self.split), index]))
            image, label = street_scene(rng, self.height, self.width)
            self._kept[index] = torch.from_numpy(image).permute(2, 0, 1).contiguous(), torch.from_numpy(label)
        return self._kept[index]

    def identity(self) -> str:
        """Hash the parameters and the version of the painter."""
        size = [self.count, self.height, self.width]
        return digest(["synthetic", SCENE_VERSION, self.split, size, self.seed])


def open_synthetic(
    split: str,
    *,
    root: Path | None = None,
    train_images: int = 96,
    val_images: int = 32,
    height: int = 96,
    width: int = 128,
    seed: int = 0,
) -> SyntheticDataset:
    """Open synthetic street scenes with 8 classes; `root` is not used, nothing is read or written."""
    counts = dict(zip(SPLITS, (train_images, val_images), strict=True))
    if split not in counts:
        raise DataError(f"data kind 'synthetic': got split '{split}', must be one of {', '.join(SPLITS)}")
    rules = {"train_images": (train_images, 1), "val_images": (val_images, 1), "seed": (seed, 0)}
    rules |= {"height": (height, MIN_SIDE), "width": (width, MIN_SIDE)}
    for name, (value, least) in rules.items():
        if value < least:
            raise DataError(f"synthetic {name}: got {value}, must be at least {least}")
    return SyntheticDataset(split, count=counts[split], height=height, width=width, seed=seed)
