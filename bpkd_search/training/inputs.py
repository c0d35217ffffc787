"""The data of a run: the data set of a `data` block, and the views made from it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from bpkd_search.config.models import Data
from bpkd_search.data import KINDS, Dataset, EvalTransform, TrainTransform, check, open_split
from bpkd_search.data.views import (
    Map,
    ViewRecipe,
    ViewStore,
    build_views,
    bytes_left,
    cache_dir,
    thread_map,
)
from bpkd_search.errors import DataError

Say = Callable[[str], None]


def prepare_views(data: Data, say: Say, map: Map = thread_map, recipe: ViewRecipe | None = None) -> ViewStore:
    """Return the view store of a `data` block. Raises `DataError` that names every damaged sample."""
    recipe, root = recipe or view_recipe(data), cache_dir(data.views_dir)
    if views_left(data, recipe):
        train, val = recipe.train, recipe.val
        say(f"views: {len(train)} train images x {data.views}, {len(val)} val images, {data.height}x{data.width}")
        check(train)
        check(val)
    return build_views(
        recipe,
        root,
        every_tenth(say, "views"),
        map=map,
        stored=data.images == "stored",
        waiting=lambda: say("views: another process is building them; waiting for it"),
    )


def view_recipe(data: Data) -> ViewRecipe:
    """Return the recipe of the views of a `data` block. Raises `DataError` if the data cannot be opened."""
    return ViewRecipe(
        open_data(data, "train"),
        open_data(data, "val"),
        TrainTransform(data.height, data.width, data.scale, data.flip, data.colour),
        EvalTransform(data.height, data.width),
        data.views,
        data.seed,
        about={"kind": data.kind},
        cache=cache_dir(data.views_dir),
    )


def views_path(data: Data) -> Path:
    """Return the path of the views of a `data` block. Raises `DataError` if the data cannot be opened."""
    return cache_dir(data.views_dir) / "views" / view_recipe(data).key()


def views_left(data: Data, recipe: ViewRecipe) -> int:
    """Return the number of bytes of a `data` block's views that are still to be written."""
    path = cache_dir(data.views_dir) / "views" / recipe.key()
    parts = ("train", "val") if data.images == "stored" else ("val",)
    return sum(bytes_left(path / part, recipe.layouts[part]) for part in parts)


def open_data(data: Data, split: str) -> Dataset:
    """Open a split of a `data` block's data set. Raises `DataError` if it is missing or damaged."""
    return open_split(data.kind, split, root=data_root(data), **dict(data.options or ()))


def data_root(data: Data) -> Path | None:
    """Return the directory of a `data` block's data set; None if its kind needs none. Raises `DataError` if not set."""
    root = data.root
    if root is None and KINDS[data.kind].needs_root:
        variable = f"BPKD_{data.kind.upper()}"
        if variable not in os.environ:
            raise DataError(
                f"data.root: is not set; give the directory of the {data.kind} data as --set data.root=DIR"
                f" or in the environment variable {variable}"
            )
        root = Path(os.environ[variable])
    return root and root.expanduser()


def every_tenth(say: Say, what: str) -> Callable[[int, int], None]:
    """Return a callback that prints one line at each tenth of the work."""
    last = 0

    def progress(done: int, total: int) -> None:
        nonlocal last
        if done * 10 // total > last:
            last = done * 10 // total
            if last % 2 == 0:
                say(f"{what}: {done}/{total}")

    return progress
