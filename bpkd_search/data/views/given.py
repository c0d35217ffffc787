"""A teacher that is files of logits: one array per image, named as the data set names its images."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bpkd_search.data.base import listed
from bpkd_search.data.geometry import Size
from bpkd_search.errors import DataError

SUFFIXES = (".npy", ".npz")


@dataclass(frozen=True)
class GivenLogits:
    """The logits of a split's images, from `folder/SPLIT/NAME.npy` or `folder/NAME.npy`, or likewise `.npz`.

    An array is [C, h, w] of whole images at scale 1; an `.npz` holds one, or one named `logits`. `classes` maps logits
    [B, C, h, w] to the data's classes, `count` is the number that each file must have, 0 for any.
    """

    folder: Path
    split: str
    names: tuple[str, ...]
    count: int = 0
    classes: Callable[[Tensor], Tensor] | None = None

    def find(self, index: int) -> Path | None:
        """Return the file of an image, None if there is none. Raises `DataError` for a name that leaves the folder."""
        parts = PurePosixPath(self.names[index])
        if parts.is_absolute() or ".." in parts.parts:  # of a list of names, or of a data set's own code
            raise DataError(f"teacher.checkpoint: got the image name {self.names[index]!r}, which leaves the folder")
        for place in (self.folder / self.split, self.folder):
            for suffix in SUFFIXES:
                # Not `with_suffix`: names may hold dots.
                if (path := place / f"{self.names[index]}{suffix}").is_file():
                    return path
        return None

    def require_all(self) -> None:
        """Raise `DataError` that names the images without a file."""
        if faults := [name for index, name in enumerate(self.names) if self.find(index) is None]:
            raise DataError(
                f"teacher.checkpoint: {self.folder}: no logits of {len(faults)} of {len(self.names)} {self.split}"
                f" images, such as {self.split}/{faults[0]}.npy:\n{listed(faults)}"
            )

    def stride(self, index: int, size: Size) -> int:
        """Return the pixels per cell of the logits of an image of `size`. Raises `DataError` naming the file."""
        rows, columns = self.array(index).shape[1:]
        stride: int = size[0] // max(1, rows)
        if stride < 1 or (stride * rows, stride * columns) != tuple(size):
            raise DataError(
                f"teacher.checkpoint: {self.find(index)}: has logits of {rows}x{columns}, must be the size of the image"
                f" at scale 1, {size[0]}x{size[1]}, divided by one number"
            )
        return stride

    def read(self, index: int, size: Size, stride: int) -> Tensor:
        """Return the logits float32 [1, C, h, w] of an image of `size` at `stride`. Raises `DataError`."""
        if (found := self.stride(index, size)) != stride:
            raise DataError(
                f"teacher.checkpoint: {self.find(index)}: has stride {found}, the other images' logits {stride}"
            )
        array = self.array(index)
        if self.count and len(array) != self.count:
            raise DataError(
                f"teacher.checkpoint: {self.find(index)}: has {len(array)} classes, other files {self.count}"
            )
        logits = torch.from_numpy(np.array(array, dtype=np.float32))[None]
        if not logits.isfinite().all():
            raise DataError(f"teacher.checkpoint: {self.find(index)}: holds values that are not finite")
        return logits if self.classes is None else self.classes(logits)

    def array(self, index: int) -> np.ndarray[Any, Any]:
        """Return the array of an image, of which a `.npy` is read only when used."""
        if (path := self.find(index)) is None:
            raise DataError(f"teacher.checkpoint: {self.folder}: no logits of {self.names[index]}")
        try:
            # Pickles could run code.
            loaded: Any = np.load(path, mmap_mode="r" if path.suffix == ".npy" else None, allow_pickle=False)
            array: np.ndarray[Any, Any] = loaded
            if path.suffix == ".npz":
                names = loaded.files
                key = "logits" if "logits" in names else names[0] if len(names) == 1 else None
                if key is None:
                    raise ValueError(f"holds {', '.join(names)}, must hold one array or one named logits")
                array = loaded[key]
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as e:
            raise DataError(f"teacher.checkpoint: {path}: cannot be read: {e}") from e
        if array.ndim != 3 or array.dtype.kind != "f":
            raise DataError(
                f"teacher.checkpoint: {path}: is {array.dtype} {list(array.shape)}, must be floats [classes, h, w]"
            )
        return array
