"""Reads a store: training batches prefetched in the background, and validation images one after the other."""

from __future__ import annotations

import os
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from bpkd_search.data.base import sample
from bpkd_search.data.transforms import TrainTransform
from bpkd_search.data.views import chunks
from bpkd_search.data.views.chunks import cache_lock
from bpkd_search.data.views.crops import Crops, FreshCrops, Logits, Views
from bpkd_search.data.views.manifest import Manifest
from bpkd_search.data.views.maps import Maps
from bpkd_search.data.views.recipe import ViewRecipe, crops_key, val_records
from bpkd_search.errors import DataError

USE = "use"
# Prefetched batches.
AHEAD = 2
CPU = torch.device("cpu")
T = TypeVar("T")
R = TypeVar("R")
Batch = tuple[Tensor, Tensor, Tensor | None]


class ViewStore:
    """Training crops and validation images of one recipe, memory-mapped, and optionally the logits of a teacher.

    `crops` are views, stored or computed by `recipe`, or fresh crops of whole images (then `views` is 0); `logits` are
    a directory of either, `transform` and
    `seed` are those of fresh crops. While the store is open, `views --prune` does not remove it.
    Raises `DataError` if arrays are missing, unfinished or of a wrong size.
    """

    def __init__(
        self,
        path: Path,
        logits: Path | None = None,
        recipe: ViewRecipe | None = None,
        *,
        transform: TrainTransform | None = None,
        seed: int = 0,
    ) -> None:
        self.path, self.recipe, self.seed = path, recipe, seed
        self._given = (path, logits, recipe, transform, seed)
        self.manifest = Manifest.read(path)
        self.transform = transform or self.manifest.transform
        _use(self, path)
        self.class_names, self.palette = self.manifest.class_names, self.manifest.palette
        self.num_images, self.views = self.manifest.images, self.manifest.views
        self.crops: Crops
        if self.views:
            self.crops = Views(path, recipe, self.num_images, self.views, logits)
        else:
            self.crops = FreshCrops(path, self.transform, seed, self.manifest.train_sizes, logits)
        self._records = val_records(self.manifest.evaluation, self.manifest.val_sizes)
        table, arrays = chunks.read(path / "validation")
        self._val, self._layout = arrays["records"], table.layout

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle what the store was opened with: another process opens the same files."""
        return _open, self._given

    @property
    def logits(self) -> Logits | Maps | None:
        """The stored logits of a teacher, on views or whole images."""
        return self.crops.logits

    @property
    def crops_key(self) -> str:
        """What identifies the training crops."""
        return crops_key(self.path.name, self.views, self.transform, self.seed)

    @property
    def num_classes(self) -> int:
        """Number of classes in the labels, without ignored pixels."""
        return len(self.class_names)

    def steps(self, batch_size: int) -> int:
        """Return the number of batches per epoch; an incomplete last batch is dropped unless it is the only one."""
        return max(1, self.num_images // batch_size)

    def epoch(
        self,
        epoch: int,
        batch_size: int,
        seed: int,
        *,
        device: torch.device = CPU,
        logits: bool = True,
        start: int = 0,
    ) -> Iterator[Batch]:
        """Yield the batches of one epoch on `device`, from batch `start` on: every image once.

        A batch is images uint8 [B, 3, H, W], labels uint8 [B, H, W] and teacher logits float16 [B, C, h, w], or None if
        none are stored or requested. Order depends on (seed, epoch) alone, and crops on the data's seed and the epoch:
        trials with one seed see the same batches.
        """
        order = np.random.default_rng([seed, epoch]).permutation(self.num_images)
        batches = [order[step * batch_size : (step + 1) * batch_size] for step in range(start, self.steps(batch_size))]
        stored = self.logits if logits else None

        def prepare(indices: np.ndarray[tuple[int], np.dtype[np.int64]]) -> Callable[[], list[Tensor]]:
            return self.crops.prepare(epoch, indices, stored is not None, device)

        for finish in _in_background(prepare, batches, self.crops.threads):
            images, labels, *encoded = finish()
            yield images, labels, stored.decode(encoded) if stored else None

    @property
    def num_val_images(self) -> int:
        """Number of validation images."""
        return len(self._records.images)

    def val_sample(self, size: int) -> list[int]:
        """Return `size` validation images whose classes have about the shares of the whole split, always the same."""
        return sample(self.manifest.val_counts, size)

    def val_samples(self, rows: Sequence[int] | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield validation images uint8 [3, h, w] and their labels uint8 [H, W], in order; sizes may differ."""
        for row in range(self.num_val_images) if rows is None else rows:
            image, label = self._records.read(self._val, self._layout, row)
            yield torch.from_numpy(image.copy()).permute(2, 0, 1), torch.from_numpy(label.copy())


def _open(
    path: Path, logits: Path | None, recipe: ViewRecipe | None, transform: TrainTransform | None, seed: int
) -> ViewStore:
    return ViewStore(path, logits, recipe, transform=transform, seed=seed)


def _use(store: ViewStore, path: Path) -> None:
    """Mark the store as used while it is open; a read-only directory needs no mark."""
    used = ExitStack()
    weakref.finalize(store, used.close)
    with suppress(DataError, OSError):
        used.enter_context(cache_lock(path / USE, shared=True))
        os.utime(path / USE)


def _in_background(function: Callable[[T], R], items: Sequence[T], threads: int = 1) -> Iterator[R]:
    """Like `map`, in order, with the next results computed in threads while the caller uses the current one."""
    with ThreadPoolExecutor(threads) as pool:
        waiting = deque(pool.submit(function, item) for item in items[: AHEAD + threads - 1])
        for item in items[AHEAD + threads - 1 :]:
            result = waiting.popleft().result()
            waiting.append(pool.submit(function, item))
            yield result
        while waiting:
            yield waiting.popleft().result()
