"""The description of a store, `manifest.json`: what is in it, in words and numbers, and how its crops are drawn."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from bpkd_search.data.base import RGB
from bpkd_search.data.geometry import Sides, Size
from bpkd_search.data.transforms import EvalTransform, TrainTransform
from bpkd_search.data.views.recipe import ViewRecipe
from bpkd_search.errors import DataError
from bpkd_search.files import write_text

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Manifest:
    """The contents of a store: classes, sizes of the images, transforms, and pixels of each class in validation.

    `void` are the images of training and of validation without a labelled pixel.
    """

    class_names: tuple[str, ...]
    palette: tuple[RGB, ...]
    images: int
    views: int
    transform: TrainTransform
    evaluation: EvalTransform
    train_sizes: tuple[Size, ...]
    val_sizes: tuple[Size, ...]
    val_counts: tuple[tuple[int, ...], ...]
    void: tuple[int, int] = (0, 0)  # not in older stores

    @staticmethod
    def of(recipe: ViewRecipe) -> Manifest:
        """Read every sample of a recipe. Raises `DataError` that names the damaged ones."""
        train, val = recipe.surveys
        return Manifest(
            recipe.train.class_names,
            recipe.train.palette,
            len(recipe.train),
            recipe.views,
            recipe.train_transform,
            recipe.eval_transform,
            train.sizes,
            val.sizes,
            val.counts,
            (train.void, val.void),
        )

    @staticmethod
    def read(store: Path) -> Manifest:
        """Return the manifest of a store. Raises `DataError` if it is missing, damaged, or of an older version."""
        if (found := read_manifest(store)) is None:
            raise DataError(f"{store}: holds no views, or is damaged; `bpkd-search views SPACE.yaml` builds them")
        return found

    @property
    def evaluation_sizes(self) -> tuple[Size, ...]:
        """Smallest and largest size of a validation image as a network sees it."""
        sizes = sorted((self.evaluation.sizes(size)[0] for size in self.val_sizes), key=lambda size: size[0] * size[1])
        return sizes[0], sizes[-1]

    def warnings(self) -> list[str]:
        """Return a line for each split in which some masks have no labelled pixel."""
        found = zip(("train", "val"), self.void, (self.images, len(self.val_sizes)), strict=True)
        return [
            f"warning: {void} of {count} {split} masks hold ignored pixels alone; `bpkd-search data check` names them"
            for split, void, count in found
            if void
        ]

    def write(self, store: Path, about: dict[str, Any]) -> None:
        """Write the manifest whole, with `about`, which is for users."""
        tree = {**asdict(self), "height": self.transform.height, "width": self.transform.width, **about}
        for name in ("transform", "evaluation"):
            if isinstance(sides := getattr(self, name).resize, Sides):
                tree[name]["resize"] = sides.model_dump()
        write_text(store / MANIFEST, json.dumps(tree))


def read_manifest(store: Path) -> Manifest | None:
    """Return the manifest of a store, or None if it is missing, damaged, or of an older version."""
    try:
        tree = json.loads((store / MANIFEST).read_text(encoding="utf-8"))
        known = {field.name for field in fields(Manifest)}
        values = {name: _tuples(value) for name, value in tree.items() if name in known}
        for name, kind in (("transform", TrainTransform), ("evaluation", EvalTransform)):
            given = {key: _tuples(value) for key, value in tree[name].items()}
            if isinstance(given["resize"], dict):
                given["resize"] = Sides.model_validate(given["resize"])
            values[name] = kind(**given)
        return Manifest(**values)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def _tuples(value: Any) -> Any:
    return tuple(_tuples(each) for each in value) if isinstance(value, list) else value
