"""What determines a store: its splits, transforms and views; and how its rows are computed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from bpkd_search.data.base import Dataset, Survey, digest, survey
from bpkd_search.data.geometry import Size
from bpkd_search.data.keys import views_key
from bpkd_search.data.transforms import EvalTransform, TrainTransform, resize
from bpkd_search.data.views.layout import Array, Layout
from bpkd_search.data.views.records import Records, pack

FORMAT = 2


@dataclass(frozen=True)
class ViewRecipe:
    """Everything that determines a store: two splits, two transforms, views per image, and the seed.

    With 0 views the store holds whole images, of which every epoch takes new crops. Two more do not affect the key:
    `about` is for users only and is stored in the description of the store, `cache` is the directory where hashes of
    files are kept.
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
        data = [FORMAT, self.train.identity(self.cache), self.val.identity(self.cache)]
        if not self.views:
            # Whole images do not depend on how crops of them are drawn.
            return [*data, "whole", self.train_transform.whole_identity(), self.eval_transform.identity()]
        crops = [self.train_transform.identity(), self.eval_transform.identity()]
        return [*data, *crops, self.views, self.seed]

    def crops_key(self) -> str:
        """Return a hash of everything that determines the training crops: of a store, and of the seed of fresh ones."""
        return crops_key(self.key(), self.views, self.train_transform, self.seed)

    @cached_property
    def surveys(self) -> tuple[Survey, Survey]:
        """Sizes and class pixels of the two splits; reads every sample, once. Raises `DataError` for damaged ones."""
        return survey(self.train), survey(self.val)

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

    def whole_rows(self, start: int, stop: int) -> dict[str, Array]:
        """Return the records of whole training images `start` to `stop`."""
        pairs = []
        for index in range(start, stop):
            image, label = self.train[index]
            size = self.train_transform.whole_size((label.shape[0], label.shape[1]))
            pairs.append((resize(image, label, *size)[0] if size != tuple(label.shape) else image, label))
        return pack(pairs)

    def val_rows(self, start: int, stop: int) -> dict[str, Array]:
        """Return the records of validation images `start` to `stop`."""
        return pack([self.eval_transform(*self.val[index]) for index in range(start, stop)])

    def _cut(self, image: Tensor, label: Tensor, index: int, view: int) -> tuple[Tensor, Tensor]:
        return self.train_transform(image, label, crop_seed(self.seed, index, view))

    @property
    def views_layout(self) -> Layout:
        """The layout of the views."""
        return image_layout(len(self.train), self.train_transform.height, self.train_transform.width, self.views)


def crops_key(key: str, views: int, transform: TrainTransform, seed: int) -> str:
    """Return what identifies the crops from the store `key`."""
    return key if views else digest([key, transform.identity(), seed])


def crop_seed(seed: int, index: int, view: int) -> int:
    """Return the seed of one view, or of one epoch's crop, of an image."""
    return int(np.random.SeedSequence([seed, index, view]).generate_state(1)[0])


def whole_records(transform: TrainTransform, sizes: Sequence[Size]) -> Records:
    """Return where whole training images of these sizes are, each with its own label."""
    return Records(tuple(transform.whole_size(size) for size in sizes), tuple(sizes))


def val_records(transform: EvalTransform, sizes: Sequence[Size]) -> Records:
    """Return where validation images of these sizes are, and their labels."""
    images, labels = zip(*(transform.sizes(size) for size in sizes), strict=True)
    return Records(images, labels)


def image_layout(items: int, height: int, width: int, views: int = 1) -> Layout:
    """Return the layout of images and labels of a number of samples and views."""
    return Layout.of({"images": ((3, height, width), "|u1"), "labels": ((height, width), "|u1")}, items, views)
