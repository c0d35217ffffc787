"""Synthetic street scenes as a data set: no files, and the same bytes for the same parameters."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from pydantic import ValidationError
from torch import Tensor

from bpkd_search.data.base import IGNORE_INDEX, digest
from bpkd_search.data.kinds import SyntheticData
from bpkd_search.data.scenes import CLASSES, street_scene
from bpkd_search.errors import DataError

# Part of every scene's seed: the order is fixed.
SPLITS = ("train", "val")
# Part of the identity: increase it whenever scenes.py paints other pixels for the same seed.
SCENE_VERSION = 1


class SyntheticDataset:
    """Street scenes, painted on first use and kept in memory; see `Dataset`.

    Each scene has its own random generator, seeded by (seed, split, index), so that a larger
    data set starts with the scenes of a smaller one.
    """

    ignore_index = IGNORE_INDEX
    class_names = tuple(CLASSES)
    palette = tuple(CLASSES.values())

    def __init__(self, split: str, *, count: int, height: int, width: int, seed: int) -> None:
        """Store the parameters; nothing is painted yet."""
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

    def identity(self, cache: Path | None = None) -> str:
        """Return a hash of the parameters and of the version of the painter."""
        size = [self.count, self.height, self.width]
        return digest(["synthetic", SCENE_VERSION, self.split, size, self.seed])


def open_synthetic(split: str, root: Path | None = None, **options: int) -> SyntheticDataset:
    """Open synthetic street scenes with 8 classes; `root` is unused, nothing is read or written.

    Options are those of `SyntheticData`. Raises `DataError` if a value is out of range.
    """
    try:
        scenes = SyntheticData(**options)
    except ValidationError as error:
        fault = error.errors()[0]
        least = fault.get("ctx", {}).get("ge")
        rule = fault["msg"] if least is None else f"must be at least {least}"
        raise DataError(f"synthetic {fault['loc'][0]}: got {fault['input']}, {rule}") from error
    count = {"train": scenes.train_images, "val": scenes.val_images}[split]
    return SyntheticDataset(split, count=count, height=scenes.height, width=scenes.width, seed=scenes.seed)
