"""The data of a run: the data set of a `data` block, and the store made from it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from bpkd_search.config.data import Data
from bpkd_search.data import EvalTransform
from bpkd_search.data.views import (
    Map,
    ViewRecipe,
    ViewStore,
    build_views,
    bytes_left,
    cache_dir,
    describe,
    store_layouts,
    thread_map,
)
from bpkd_search.training.forms import Form
from bpkd_search.training.source import open_data

Say = Callable[[str], None]


def prepare_views(
    data: Data, form: Form, say: Say, map: Map = thread_map, recipe: ViewRecipe | None = None
) -> ViewStore:
    """Return the store of a `data` block in a form. Raises `DataError` that names every damaged sample."""
    recipe, root = recipe or view_recipe(data, form), cache_dir(data.views_dir)
    if store_left(data, recipe):
        train, val = recipe.train, recipe.val
        height, width = data.crop
        what = f"{len(train)} train images x {form.views}" if form.views else f"{len(train)} whole train images"
        say(f"{kind_of(form)}: {what}, {len(val)} val images, crops of {height}x{width}")
    return build_views(
        recipe,
        root,
        every_tenth(say, kind_of(form)),
        map=map,
        stored=data.images == "stored",
        waiting=lambda: say(f"{kind_of(form)}: another process is building them; waiting for it"),
        kept=data.views_store,
    )


def kind_of(form: Form) -> str:
    """Return what a store of a form holds, in a word."""
    return "views" if form.views else "images"


def view_recipe(data: Data, form: Form) -> ViewRecipe:
    """Return the recipe of the store of a `data` block. Raises `DataError` if the data cannot be opened."""
    return ViewRecipe(
        open_data(data, "train"),
        open_data(data, "val"),
        form.transform(data),
        EvalTransform(data.resize),
        form.views,
        data.seed,
        about={"kind": data.kind},
        cache=cache_dir(data.views_dir),
    )


def store_path(data: Data, recipe: ViewRecipe) -> Path:
    """Return the path of a store."""
    return cache_dir(data.views_dir) / "views" / recipe.key()


def store_left(data: Data, recipe: ViewRecipe) -> int:
    """Return the number of bytes of a `data` block's store that are still to be written.

    The first time it reads every sample. Raises what `data.views.describe` raises.
    """
    path = store_path(data, recipe)
    manifest = describe(recipe, path)
    layouts = store_layouts(recipe, manifest.train_sizes, manifest.val_sizes, stored=data.images == "stored")
    return sum(bytes_left(path / part, layout) for part, layout in layouts.items())


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
