"""Views: augmented crops made once, kept in flat memory-mapped arrays, and read by every trial of a node.

A view is one crop of one training image, fixed by (data seed, image, view index). The store also keeps the
validation split at its evaluation size, and beside the views the logits that a frozen teacher gives on them.
Folders are named by a hash of everything that went in, so that a change of data, transform or teacher can
never meet stale arrays, and equal settings share one build.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib.format import open_memmap
from numpy.typing import NDArray
from torch import Tensor

from bpkd_search.data.base import Dataset, digest
from bpkd_search.data.transforms import EvalTransform, TrainTransform
from bpkd_search.errors import DataError, ResourceError

FORMAT = 1
Progress = Callable[[int, int], None]
Array = NDArray[Any]


def cache_dir(given: Path | None = None) -> Path:
    """Where views and teachers are kept: the given folder, `BPKD_SEARCH_CACHE`, or the user's cache."""
    if given is not None:
        return given.expanduser()
    if path := os.environ.get("BPKD_SEARCH_CACHE"):
        return Path(path).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bpkd-search"


@dataclass(frozen=True)
class ViewRecipe:
    """Everything that fixes the views: two splits, two transforms, views an image, and the seed."""

    train: Dataset
    val: Dataset
    train_transform: TrainTransform
    eval_transform: EvalTransform
    views: int
    seed: int = 0

    def key(self) -> str:
        """Hash of all that goes into the arrays, the same wherever the data lies."""
        return digest(
            [
                FORMAT,
                self.train.identity(),
                self.val.identity(),
                self.train_transform.identity(),
                self.eval_transform.identity(),
                self.views,
                self.seed,
            ]
        )


class ViewStore:
    """Views and validation images of one recipe, memory-mapped, and a teacher's logits if there are any.

    `images` uint8 [N*V, 3, H, W], `labels` uint8 [N*V, H, W] with view v of image i at row v*N + i;
    `val_images` and `val_labels` likewise without views; `logits` float16 [N*V, C, h, w] or None.
    """

    def __init__(self, path: Path, logits: Path | None = None) -> None:
        self.path = path
        manifest = json.loads((path / "manifest.json").read_text())
        self.class_names: tuple[str, ...] = tuple(manifest["class_names"])
        self.palette: tuple[tuple[int, int, int], ...] = tuple(tuple(rgb) for rgb in manifest["palette"])
        self.num_images, self.views = int(manifest["images"]), int(manifest["views"])
        self.images = _open(path / "images.npy")
        self.labels = _open(path / "labels.npy")
        self.val_images = _open(path / "val_images.npy")
        self.val_labels = _open(path / "val_labels.npy")
        self.logits = _open(logits) if logits else None

    @property
    def num_classes(self) -> int:
        """How many classes the labels hold, void left out."""
        return len(self.class_names)

    def steps(self, batch_size: int) -> int:
        """Batches an epoch; the last, smaller one is left out unless it is the only one."""
        return max(1, self.num_images // batch_size)

    def epoch(self, epoch: int, batch_size: int, seed: int) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
        """Batches (images, labels, teacher logits) of one epoch: every image once, in view `epoch` mod V.

        The order is fixed by (seed, epoch) alone: every trial with this seed sees the same batches.
        """
        order = np.random.default_rng([seed, epoch]).permutation(self.num_images)
        first = (epoch % self.views) * self.num_images
        for step in range(self.steps(batch_size)):
            rows = first + order[step * batch_size : (step + 1) * batch_size]
            yield (
                _gather(self.images, rows),
                _gather(self.labels, rows),
                None if self.logits is None else _gather(self.logits, rows),
            )

    def val_batches(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches (images, labels) of the validation split, in order."""
        for start in range(0, len(self.val_images), batch_size):
            rows = np.arange(start, min(start + batch_size, len(self.val_images)))
            yield _gather(self.val_images, rows), _gather(self.val_labels, rows)


def build_views(recipe: ViewRecipe, root: Path, progress: Progress | None = None) -> ViewStore:
    """Open the recipe's views under `root`, building them first where they are missing.

    The folder appears whole by a rename; of two processes that build the same one, the second's work is
    dropped. Errors: `DataError` for damaged samples, `ResourceError` where the disk cannot hold the arrays.
    """
    path = root / "views" / recipe.key()
    if (path / "manifest.json").is_file():
        return ViewStore(path)
    if recipe.train.class_names != recipe.val.class_names:
        raise DataError("train and val name different classes")
    height, width = recipe.train_transform.height, recipe.train_transform.width
    shape, val_shape = (len(recipe.train) * recipe.views, height, width), (len(recipe.val), height, width)
    require_space(root, 4 * (math.prod(shape) + math.prod(val_shape)), "the views")
    partial = _fresh(path.with_name(f".{path.name}.{os.getpid()}.partial"))
    try:
        images = _create(partial / "images.npy", (shape[0], 3, *shape[1:]), "u1")
        labels = _create(partial / "labels.npy", shape, "u1")

        def make(index: int) -> None:
            image, label = recipe.train[index]
            for view in range(recipe.views):
                seed = int(np.random.SeedSequence([recipe.seed, index, view]).generate_state(1)[0])
                row = view * len(recipe.train) + index
                images[row], labels[row] = recipe.train_transform(image, label, seed)

        _each(make, len(recipe.train), progress)
        val_images = _create(partial / "val_images.npy", (val_shape[0], 3, *val_shape[1:]), "u1")
        val_labels = _create(partial / "val_labels.npy", val_shape, "u1")

        def evaluate(index: int) -> None:
            val_images[index], val_labels[index] = recipe.eval_transform(*recipe.val[index])

        _each(evaluate, len(recipe.val), None)
        for array in (images, labels, val_images, val_labels):
            array.flush()
        manifest = {
            "format": FORMAT,
            "class_names": recipe.train.class_names,
            "palette": recipe.train.palette,
            "images": len(recipe.train),
            "views": recipe.views,
        }
        (partial / "manifest.json").write_text(json.dumps(manifest, indent=1))
        _publish(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return ViewStore(path)


def build_logits(
    store: ViewStore,
    teacher: Callable[[Tensor], Tensor],
    key: str,
    *,
    batch_size: int = 16,
    progress: Progress | None = None,
) -> ViewStore:
    """The store with a teacher's logits beside its views, computed first where they are missing.

    `teacher` maps images uint8 [B, 3, H, W] to logits [B, C, h, w]; `key` stands for its weights. Values are
    kept as float16, clipped to its range. Errors: `ResourceError` where the disk cannot hold the array.
    """
    path = store.path / f"logits-{key}.npy"
    if path.is_file():
        return ViewStore(store.path, path)
    count = len(store.images)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    logits: Any = None
    try:
        for start in range(0, count, batch_size):
            rows = np.arange(start, min(start + batch_size, count))
            with torch.inference_mode():
                out = teacher(_gather(store.images, rows)).float().clamp(-65504, 65504).half().cpu()
            if logits is None:
                require_space(store.path, count * out[0].nbytes, "the teacher's logits")
                logits = _create(partial, (count, *out.shape[1:]), "f2")
            logits[rows] = out.numpy()
            if progress:
                progress(int(rows[-1]) + 1, count)
        logits.flush()
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return ViewStore(store.path, path)


def require_space(folder: Path, needed: float, what: str) -> None:
    """Refuse work that the disk cannot hold, before it starts. Errors: `ResourceError` with both sizes."""
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise ResourceError(
            f"{folder}: {what} need {needed / 2**20:,.0f} MiB and the disk has {free / 2**20:,.0f} MiB free;"
            " set data.views_dir to a larger disk, or lower data.views or the size"
        )


def _open(path: Path) -> Array:
    try:
        array: Array = np.load(path, mmap_mode="r")
        return array
    except (OSError, ValueError) as e:
        raise DataError(f"{path}: is no readable array ({e}); delete {path.parent} to have it built again") from e


def _gather(array: Array, rows: Array) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array[rows]))


def _create(path: Path, shape: Sequence[int], dtype: str) -> Any:
    return open_memmap(path, mode="w+", dtype=dtype, shape=tuple(int(n) for n in shape))


def _fresh(path: Path) -> Path:
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    return path


def _publish(partial: Path, path: Path) -> None:
    try:
        partial.rename(path)
    except OSError:
        # Somebody else's build of the same key came first: its bytes are the same.
        if not (path / "manifest.json").is_file():
            raise


def _each(work: Callable[[int], None], count: int, progress: Progress | None) -> None:
    with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
        for done, _ in enumerate(pool.map(work, range(count)), 1):
            if progress:
                progress(done, count)
