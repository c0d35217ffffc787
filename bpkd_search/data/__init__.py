"""Data sets: the `Dataset` protocol, the known kinds, and `open_split`. Names load on first use."""

from typing import TYPE_CHECKING

from bpkd_search.imports import lazy_names

if TYPE_CHECKING:
    from bpkd_search.data.base import IGNORE_INDEX, Dataset, check, find_faults
    from bpkd_search.data.kinds import KINDS
    from bpkd_search.data.splits import open_split
    from bpkd_search.data.transforms import EvalTransform, TrainTransform

__all__ = [
    "IGNORE_INDEX",
    "KINDS",
    "Dataset",
    "EvalTransform",
    "TrainTransform",
    "check",
    "find_faults",
    "open_split",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "IGNORE_INDEX": "bpkd_search.data.base",
        "KINDS": "bpkd_search.data.kinds",
        "Dataset": "bpkd_search.data.base",
        "EvalTransform": "bpkd_search.data.transforms",
        "TrainTransform": "bpkd_search.data.transforms",
        "check": "bpkd_search.data.base",
        "find_faults": "bpkd_search.data.base",
        "open_split": "bpkd_search.data.splits",
    },
)
