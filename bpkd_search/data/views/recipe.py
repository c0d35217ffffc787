"""What determines the views of a data set, and how a view is computed."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from bpkd_search.data.base import Dataset
from bpkd_search.data.keys import views_key
from bpkd_search.data.transforms import EvalTransform, TrainTransform
from bpkd_search.data.views.layout import Array, Layout

FORMAT = 2


@dataclass(frozen=True)
class ViewRecipe:
    """Everything that determines the views: two splits, two transforms, views per image, and the seed.

    Two more do not affect the key: `about` is for users only and is stored in the description of the store, `cache` is
    the directory where hashes of files are kept.
    """

    train: Dataset
    val: Dataset
    train_transform: TrainTransform
    eval_transform: EvalTransform
    views: int
    seed: int = 0
    about: dict[str, Any] = field(default_factory=dict)
    cache: Path | None = None

    def key(self) -> str:
        """Return a hash of everything that determines the arrays, the same wherever the data is."""
        return views_key(self.parts())

    def parts(self) -> list[Any]:
        """Return what determines the arrays beside libraries, as plain values."""
        return [
            FORMAT,
            self.train.identity(self.cache),
            self.val.identity(self.cache),
            self.train_transform.identity(),
            self.eval_transform.identity(),
            self.views,
            self.seed,
        ]

    def view(self, index: int, view: int) -> tuple[Tensor, Tensor]:
        """Return image uint8 [3, H, W] and label uint8 [H, W] of one view of an image."""
        return self._cut(*self.train[index], index, view)

    def train_rows(self, start: int, stop: int) -> dict[str, Array]:
        """Return all views of images `start` to `stop`: images [V, n, 3, H, W] and labels [V, n, H, W]."""
        cuts = []
        for index in range(start, stop):
            sample = self.train[index]
            cuts.append([self._cut(*sample, index, view) for view in range(self.views)])
        return {
            name: np.stack([np.stack([row[view][part].numpy() for row in cuts]) for view in range(self.views)])
            for part, name in enumerate(("images", "labels"))
        }

    def val_rows(self, start: int, stop: int) -> dict[str, Array]:
        """Return validation images [1, n, 3, H, W] `start` to `stop`, and their labels [1, n, H, W]."""
        cuts = [self.eval_transform(*self.val[index]) for index in range(start, stop)]
        return {
            name: np.stack([row[part].numpy() for row in cuts])[None] for part, name in enumerate(("images", "labels"))
        }

    def _cut(self, image: Tensor, label: Tensor, index: int, view: int) -> tuple[Tensor, Tensor]:
        seed = int(np.random.SeedSequence([self.seed, index, view]).generate_state(1)[0])
        return self.train_transform(image, label, seed)

    @property
    def layouts(self) -> dict[str, Layout]:
        """Layouts of the two splits, `train` and `val`."""
        return {
            "train": image_layout(len(self.train), self.train_transform.height, self.train_transform.width, self.views),
            "val": image_layout(len(self.val), self.eval_transform.height, self.eval_transform.width),
        }


def image_layout(items: int, height: int, width: int, views: int = 1) -> Layout:
    """Return the layout of images and labels of a number of samples and views."""
    return Layout.of({"images": ((3, height, width), "|u1"), "labels": ((height, width), "|u1")}, items, views)
