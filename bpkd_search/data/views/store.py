"""Reads views: a batch is one gather from the memory map, prefetched in the background during training."""

from __future__ import annotations

import json
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

from bpkd_search.data.views import chunks
from bpkd_search.data.views.chunks import Table, cache_lock
from bpkd_search.data.views.codecs import open_codec
from bpkd_search.data.views.layout import Array
from bpkd_search.data.views.recipe import ViewRecipe
from bpkd_search.errors import DataError

MANIFEST, USE = "manifest.json", "use"
# Prefetched batches.
AHEAD = 2
CPU = torch.device("cpu")
T = TypeVar("T")
R = TypeVar("R")
Batch = tuple[Tensor, Tensor, Tensor | None]


def read_manifest(path: Path) -> dict[str, Any] | None:
    """Return the description of a store, or None if it is missing or damaged."""
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    whole = isinstance(manifest, dict) and {"class_names", "palette", "images", "views"} <= manifest.keys()
    return manifest if whole else None


class Logits:
    """The stored logits of a teacher on every view."""

    def __init__(self, path: Path) -> None:
        table, self.arrays = chunks.read(path)
        self.path, self.name = path, str(table.about["codec"])
        self.codec = open_codec(self.name, int(table.about["classes"]))

    def decode(self, parts: Sequence[Tensor]) -> Tensor:
        """Return logits float16 [B, C, h, w] from gathered rows, in the order of the arrays."""
        return self.codec.decode(dict(zip(self.arrays, parts, strict=True)))


class ViewStore:
    """Views and validation images of one recipe, memory-mapped, and optionally the logits of a teacher.

    `images` uint8 [N*V, 3, H, W], `labels` uint8 [N*V, H, W] with view v of image i at row v*N + i;
    `val_images` and `val_labels` likewise without views. If the views are not stored on disk, `images` and `labels` are
    None and `recipe` computes them on demand. While the store is open, `views --prune` does not remove it.
    Raises `DataError` if arrays are missing, unfinished or of a wrong size.
    """

    def __init__(self, path: Path, logits: Path | None = None, recipe: ViewRecipe | None = None) -> None:
        self.path, self.recipe = path, recipe
        manifest = read_manifest(path)
        if manifest is None:
            raise DataError(f"{path}: holds no views, or is damaged; `bpkd-search views SPACE.yaml` builds them")
        _use(self, path)
        self.class_names: tuple[str, ...] = tuple(manifest["class_names"])
        self.palette: tuple[tuple[int, int, int], ...] = tuple(tuple(rgb) for rgb in manifest["palette"])
        self.num_images, self.views = int(manifest["images"]), int(manifest["views"])
        self.images: Array | None = None
        self.labels: Array | None = None
        table = Table.read(path / "train")
        if recipe is None or (table is not None and not table.missing):
            train = chunks.read(path / "train")[1]
            self.images, self.labels = train["images"], train["labels"]
        val = chunks.read(path / "val")[1]
        self.val_images, self.val_labels = val["images"], val["labels"]
        self.logits = Logits(logits) if logits else None

    @property
    def num_classes(self) -> int:
        """Number of classes in the labels, without ignored pixels."""
        return len(self.class_names)

    def steps(self, batch_size: int) -> int:
        """Return the number of batches per epoch; an incomplete last batch is dropped unless it is the only one."""
        return max(1, self.num_images // batch_size)

    def epoch(
        self, epoch: int, batch_size: int, seed: int, *, device: torch.device = CPU, logits: bool = True
    ) -> Iterator[Batch]:
        """Yield the batches of one epoch on `device`: every image once, in view `epoch` mod V.

        A batch is images uint8 [B, 3, H, W], labels uint8 [B, H, W] and teacher logits float16 [B, C, h, w], or None if
        none are stored or requested. Order depends on (seed, epoch) alone: trials with one seed see the same batches.
        """
        order = np.random.default_rng([seed, epoch]).permutation(self.num_images)
        rows = (epoch % self.views) * self.num_images + order
        batches = [rows[step * batch_size : (step + 1) * batch_size] for step in range(self.steps(batch_size))]
        stored = self.logits if logits else None
        arrays = list(stored.arrays.values()) if stored else []

        def gather(rows: Array) -> list[Tensor]:
            return [_pin(part, device) for part in (*self.read(rows), *(_gather(a, rows) for a in arrays))]

        for parts in _in_background(gather, batches, 1 if self.images is not None else torch.get_num_threads()):
            images, labels, *encoded = (part.to(device, non_blocking=True) for part in parts)
            yield images, labels, stored.decode(encoded) if stored else None

    def val_batches(self, batch_size: int, *, device: torch.device = CPU) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield validation batches on `device`, in order: images uint8 [B, 3, H, W] and labels uint8 [B, H, W]."""
        count = len(self.val_images)
        batches = [np.arange(at, min(at + batch_size, count)) for at in range(0, count, batch_size)]

        def gather(rows: Array) -> list[Tensor]:
            return [_pin(_gather(array, rows), device) for array in (self.val_images, self.val_labels)]

        for images, labels in _in_background(gather, batches):
            yield images.to(device, non_blocking=True), labels.to(device, non_blocking=True)

    def read(self, rows: Array) -> tuple[Tensor, Tensor]:
        """Return images uint8 [B, 3, H, W] and labels uint8 [B, H, W] of rows, from disk or computed if not stored."""
        if self.images is not None and self.labels is not None:
            return _gather(self.images, rows), _gather(self.labels, rows)
        assert self.recipe is not None
        cuts = [self.recipe.view(int(row) % self.num_images, int(row) // self.num_images) for row in rows]
        return torch.stack([image for image, _ in cuts]), torch.stack([label for _, label in cuts])


def _use(store: ViewStore, path: Path) -> None:
    """Mark the store as used while it is open; a read-only directory needs no mark."""
    used = ExitStack()
    weakref.finalize(store, used.close)
    with suppress(DataError, OSError):
        used.enter_context(cache_lock(path / USE, shared=True))
        os.utime(path / USE)


def _gather(array: Array, rows: Array) -> Tensor:
    # torch's gather releases the GIL, numpy's does not.
    return torch.from_numpy(array).index_select(0, torch.from_numpy(rows))


def _pin(part: Tensor, device: torch.device) -> Tensor:
    return part.pin_memory() if device.type == "cuda" else part


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
