"""Builds views and teacher logits: checks the disk space, then computes the missing chunks."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bpkd_search.data.geometry import Size, base_size, scaled_size
from bpkd_search.data.views import chunks
from bpkd_search.data.views.chunks import Map, Progress, Table, cache_lock, thread_map
from bpkd_search.data.views.codecs import Codec, open_codec
from bpkd_search.data.views.crops import Views
from bpkd_search.data.views.given import GivenLogits
from bpkd_search.data.views.kept import kept_work
from bpkd_search.data.views.layout import Array, Layout
from bpkd_search.data.views.manifest import Manifest, read_manifest
from bpkd_search.data.views.maps import GivenWork, MapPlan, MapWork
from bpkd_search.data.views.recipe import ViewRecipe, val_records, whole_records
from bpkd_search.data.views.store import USE, ViewStore
from bpkd_search.errors import ConfigError, DataError, ResourceError
from bpkd_search.files import shown_bytes
from bpkd_search.machine import cache_root

Teacher = Callable[[Tensor], Tensor]
# Views per chunk of logits; on a CPU, a large teacher needs seconds for one chunk.
LOGIT_CHUNK = 128


def cache_dir(given: Path | None = None) -> Path:
    """Return the directory of views and teachers: `given`, `BPKD_SEARCH_CACHE`, or the user's cache."""
    # Ray's processes may have another working directory.
    return (cache_root() if given is None else given).expanduser().absolute()


def build_views(
    recipe: ViewRecipe,
    root: Path,
    progress: Progress | None = None,
    *,
    map: Map = thread_map,
    stored: bool = True,
    waiting: Callable[[], None] | None = None,
    kept: str | None = None,
) -> ViewStore:
    """Open the store of a recipe under `root`; missing arrays are built first, or fetched from the URL `kept`.

    With `stored=False` only validation images are written to disk, and views are computed as they are read. For
    `map` and `waiting` see `chunks.build`. Raises `DataError` if a sample is damaged, `ResourceError` if the disk is
    too small for the arrays, `ConfigError` if no image is as large as the crop.
    """
    if recipe.train.class_names != recipe.val.class_names:
        raise DataError("train and val name different classes")
    path = root / "views" / recipe.key()
    opened = None if stored else recipe
    manifest = describe(recipe, path)
    layouts = store_layouts(recipe, manifest.train_sizes, manifest.val_sizes, stored=stored)
    if read_manifest(path) is not None and all(chunks.finished(path / name, part) for name, part in layouts.items()):
        return ViewStore(path, recipe=opened, transform=recipe.train_transform, seed=recipe.seed)
    require_space(root, {"the images": sum(bytes_left(path / name, layout) for name, layout in layouts.items())})
    work = {"train": recipe.train_rows, "whole": recipe.whole_rows, "validation": recipe.val_rows}
    with cache_lock(path / USE, shared=True):
        manifest.write(path, recipe.about)
        for name, layout in layouts.items():
            shown = progress if name != "validation" else None
            get = kept_work(work[name], layout, kept, f"{path.name}/{name}")
            chunks.build(path / name, layout, get, about={}, map=map, progress=shown, waiting=waiting)
        return ViewStore(path, recipe=opened, transform=recipe.train_transform, seed=recipe.seed)


def describe(recipe: ViewRecipe, path: Path) -> Manifest:
    """Return the manifest of a store; if it has none yet, every sample is read.

    Raises `DataError` that names every damaged sample, `ConfigError` if no image is as large as the crop.
    """
    manifest = read_manifest(path) or Manifest.of(recipe)
    transform = recipe.train_transform
    crop = (transform.height, transform.width)
    largest = [scaled_size(base_size(size, transform.resize), transform.scale[1]) for size in manifest.train_sizes]
    # With a fixed size the scale is that of the crop, and may be below 1.
    fixed = isinstance(transform.resize, tuple)
    if not fixed and all(height < crop[0] or width < crop[1] for height, width in largest):
        height, width = max(largest, key=lambda size: size[0] * size[1])
        raise ConfigError(
            [
                f"data.crop: got {crop[0]}x{crop[1]}, no training image is that large: at the largest scale"
                f" {transform.scale[1]:g} the largest is {height}x{width}"
            ]
        )
    return manifest


def store_layouts(recipe: ViewRecipe, train: Sequence[Size], val: Sequence[Size], *, stored: bool) -> dict[str, Layout]:
    """Return the layouts of the parts of a store: its training crops, if they are stored, and its validation images.

    `train` and `val` are the sizes (height, width) of the images; that of views does not depend on them.
    """
    validation = {"validation": val_records(recipe.eval_transform, val).layout}
    if not recipe.views:
        return {"whole": whole_records(recipe.train_transform, train).layout, **validation}
    return {"train": recipe.views_layout, **validation} if stored else validation


def build_maps(
    store: ViewStore,
    teacher: Teacher | GivenLogits,
    key: str,
    *,
    codec: str = "float16",
    progress: Progress | None = None,
    map: Map = map,
    waiting: Callable[[], None] | None = None,
    about: Mapping[str, Any] | None = None,
    kept: str | None = None,
) -> ViewStore:
    """Return a store of whole images with the maps of a teacher's logits; missing ones are computed first.

    Arguments are those of `build_logits`; `teacher` may also be given logits. Raises `DataError` for those that do not
    fit, and `ResourceError` if the disk is too small for the arrays.
    """
    path, manifest = logits_path(store.path, key), store.manifest
    plan = MapPlan(store.transform, codec, store.num_classes)
    layout = plan.layout(manifest.train_sizes)
    require_space(store.path, {"the teacher's logits": bytes_left(path, layout)})
    records = whole_records(store.transform, manifest.train_sizes)
    work: MapWork | GivenWork
    if isinstance(teacher, GivenLogits):
        work = GivenWork(manifest.train_sizes, plan, teacher)
    else:
        work = MapWork(store.path / "whole", records, manifest.train_sizes, plan, teacher)
    described = {**(about or {}), "codec": codec, "classes": store.num_classes}
    get = kept_work(work, layout, kept, f"{store.path.name}/{path.name}")
    chunks.build(path, layout, get, about=described, map=map, progress=progress, waiting=waiting)
    return ViewStore(store.path, path, transform=store.transform, seed=store.seed)


def build_logits(
    store: ViewStore,
    teacher: Teacher,
    key: str,
    *,
    codec: str = "float16",
    batch_size: int = 16,
    progress: Progress | None = None,
    map: Map = map,
    waiting: Callable[[], None] | None = None,
    about: Mapping[str, Any] | None = None,
    kept: str | None = None,
) -> ViewStore:
    """Return the store with the logits of a teacher on its views; missing ones are computed, or fetched from `kept`.

    `teacher` maps images uint8 [B, 3, H, W] to logits [B, C, h, w]; `key` identifies its weights, `codec` the storage
    format (see `codecs`). If `map` sends chunks to other processes, `teacher` must be picklable.
    Raises `ResourceError` if the disk is too small for the arrays, `ConfigError` if the codec is unknown.
    """
    path = logits_path(store.path, key)
    count = store.num_images * store.views
    if (table := Table.read(path)) is not None:
        layout, classes = table.layout, int(table.about["classes"])
    else:
        with torch.inference_mode():
            shape = tuple(teacher(_views(store).read(np.arange(1))[0]).shape[1:])
        layout, classes = logits_layout(codec, shape, count, batch_size), shape[0]
    require_space(store.path, {"the teacher's logits": bytes_left(path, layout)})
    work = LogitWork(store.path, store.recipe, teacher, open_codec(codec, classes), batch_size)
    described = {**(about or {}), "codec": codec, "classes": classes}
    get = kept_work(work, layout, kept, f"{store.path.name}/{path.name}")
    chunks.build(path, layout, get, about=described, map=map, progress=progress, waiting=waiting)
    return ViewStore(store.path, path, store.recipe, transform=store.transform, seed=store.seed)


@dataclass(frozen=True)
class LogitWork:
    """Computes the encoded logits of a teacher for a range of views; opens the views in the process that calls it."""

    store: Path
    recipe: ViewRecipe | None
    teacher: Teacher
    codec: Codec
    batch_size: int

    def __call__(self, start: int, stop: int) -> dict[str, Array]:
        """Return arrays [1, stop - start, ...] for views `start` to `stop`."""
        views = _views(ViewStore(self.store, recipe=self.recipe))
        parts: list[dict[str, Tensor]] = []
        for at in range(start, stop, self.batch_size):
            images, _ = views.read(np.arange(at, min(at + self.batch_size, stop)))
            with torch.inference_mode():
                encoded = self.codec.encode(self.teacher(images).float())
                parts.append({name: value.cpu() for name, value in encoded.items()})
        return {name: torch.cat([part[name] for part in parts]).numpy()[None] for name in parts[0]}


def _views(store: ViewStore) -> Views:
    if not isinstance(store.crops, Views):
        raise DataError(f"{store.path}: holds no views but whole images")
    return store.crops


def logits_path(store: Path, key: str) -> Path:
    """Return the directory of the logits of a teacher on the views."""
    return store / f"logits-{key}"


def logits_layout(codec: str, shape: tuple[int, ...], views: int, batch_size: int = 16) -> Layout:
    """Return the layout of the logits [C, h, w] of `views` views. Raises `ConfigError` if the codec is unknown."""
    classes, height, width = shape
    chunk = max(batch_size, LOGIT_CHUNK // batch_size * batch_size)
    return Layout.of(open_codec(codec, classes).rows((classes, height, width)), views, chunk=chunk)


def bytes_left(folder: Path, layout: Layout) -> int:
    """Return the size of the arrays that are still to be written, in bytes."""
    table = Table.read(folder)
    if table is None or table.layout != layout:
        return layout.bytes
    return layout.bytes * len(table.missing) // layout.chunks


def has_space(folder: Path, needed: Mapping[str, int]) -> bool:
    """Return whether a disk has room for these contents, by name and bytes."""
    return sum(needed.values()) <= shutil.disk_usage(_existing(folder)).free


def _existing(folder: Path) -> Path:
    return folder if folder.is_dir() else _existing(folder.parent)


def require_space(folder: Path, needed: Mapping[str, int], option: str = "data.views_dir") -> None:
    """Check the free disk space before work starts. Raises `ResourceError` with every size if it is too small.

    `option` is the configuration key that sets the directory.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise ResourceError(f"{folder}: cannot be made: {e.strerror}; set {option} to another directory") from e
    free = shutil.disk_usage(folder).free
    if sum(needed.values()) > free:
        sizes = " and ".join(f"{what} {shown_bytes(size)}" for what, size in needed.items() if size)
        raise ResourceError(
            f"{folder}: {sizes} are needed and the disk has {shown_bytes(free)} free; set {option} to a larger disk,"
            " data.logits to int8 or topk:K, data.images to computed, or lower data.views, data.scale_steps or the size"
        )
