"""Data sets: what one offers, the kinds that are known, and how to open a split of one."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bpkd_search.data.base import IGNORE_INDEX, Dataset, check, find_faults
from bpkd_search.data.layouts import (
    open_ade20k,
    open_camvid,
    open_cityscapes,
    open_folder,
    open_pascal_context,
    open_voc,
)
from bpkd_search.data.synthetic import open_synthetic
from bpkd_search.data.transforms import EvalTransform, TrainTransform
from bpkd_search.errors import DataError

__all__ = [
    "IGNORE_INDEX",
    "LAYOUTS",
    "Dataset",
    "EvalTransform",
    "TrainTransform",
    "check",
    "find_faults",
    "open_split",
]

LAYOUTS: dict[str, Callable[..., Dataset]] = {
    "ade20k": open_ade20k,
    "camvid": open_camvid,
    "cityscapes": open_cityscapes,
    "folder": open_folder,
    "pascal_context": open_pascal_context,
    "synthetic": open_synthetic,
    "voc": open_voc,
}


def open_split(kind: str, split: str, *, root: Path | None = None, **options: Any) -> Dataset:
    """Open the "train" or "val" split (where the layout has one, "test") of a data set of a known kind.

    Options are those of the kind's opener in `LAYOUTS`. Files are found and paired now and read on
    demand. Raises DataError for an unknown kind, split or option and for missing or unpaired files.
    """
    if kind not in LAYOUTS:
        raise DataError(f"data kind: got '{kind}', must be one of {', '.join(LAYOUTS)}")
    opener = LAYOUTS[kind]
    valid = inspect.signature(opener).parameters
    unknown = sorted(set(options) - set(valid))
    required = [name for name, p in valid.items() if p.kind is p.KEYWORD_ONLY and p.default is p.empty]
    missing = [name for name in required if name not in options]
    if unknown or missing:
        got = "; ".join(f"{w} {', '.join(n)}" for w, n in (("unknown", unknown), ("missing", missing)) if n)
        known = ", ".join(n for n in valid if n not in ("split", "root")) or "none"
        raise DataError(f"data kind '{kind}': options {got}; it takes: {known}")
    return opener(split, root=root, **options)
