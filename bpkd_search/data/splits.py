"""Opens a split of a data set by the name of its kind."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from bpkd_search.data.kinds import KINDS
from bpkd_search.errors import DataError

if TYPE_CHECKING:
    from bpkd_search.data.base import Dataset


@runtime_checkable
class Paired(Protocol):
    """A split of image files and mask files, some of which may have no partner."""

    incomplete: tuple[str, ...]

    def require_complete(self) -> None:
        """Raise `DataError` that names every sample without image or mask."""
        ...


def open_split(kind: str, split: str, *, root: Path | None = None, **options: Any) -> Dataset:
    """Open the "train" or "val" split (or "test", if the kind has one) of a data set of a kind in `KINDS`.

    Options are the fields of the kind's block. Files are found and paired now, and read on demand.
    Raises `DataError` if the kind, split or an option is unknown, or if files are missing or unpaired.
    """
    dataset = open_incomplete(kind, split, root=root, **options)
    if isinstance(dataset, Paired):
        dataset.require_complete()
    return dataset


def open_incomplete(kind: str, split: str, *, root: Path | None = None, **options: Any) -> Dataset:
    """Open a split as `open_split` does, without the samples that lack their image or mask.

    Where files are paired, `Paired.incomplete` has one line for each of those.
    """
    if kind not in KINDS:
        raise DataError(f"data kind: got '{kind}', must be one of {', '.join(KINDS)}")
    entry = KINDS[kind]
    known = list(entry.options.model_fields) if entry.options else []
    unknown = sorted(set(options) - set(known))
    missing = [name for name in entry.required if name not in options]
    faults = [f"{what} {', '.join(names)}" for what, names in (("unknown", unknown), ("missing", missing)) if names]
    if faults:
        raise DataError(f"data kind '{kind}': options {'; '.join(faults)}; it takes: {', '.join(known) or 'none'}")
    if entry.splits is not None and split not in entry.splits:
        raise DataError(f"data kind '{kind}': got split '{split}', must be one of {', '.join(entry.splits)}")
    if entry.needs_root:
        if root is None:
            raise DataError(f"data kind '{kind}' needs root, the directory that holds the data set")
        if not root.is_dir():
            raise DataError(f"data kind '{kind}': no such directory: {root}")
    # The opener checks the values; the block provides the defaults.
    complete = dict(entry.options.model_construct(**options)) if entry.options else {}
    dataset: Dataset = entry.load_opener()(split, root, **complete)
    return dataset
