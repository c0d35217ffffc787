"""A data set of the user, by the import path of a function that opens a split."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bpkd_search.data.base import IGNORE_INDEX, MAX_CLASSES, digest
from bpkd_search.data.classes import colour_map
from bpkd_search.data.kinds import repeated
from bpkd_search.errors import ConfigError, DataError, UserError
from bpkd_search.imports import argument_faults, first_line, import_object

_KEY = "data.custom"


class CustomDataset:
    """A user's data set as a `Dataset`: what it leaves out has a default, and every sample is checked.

    It must have `class_names`, a length, and samples (image uint8 [3, H, W], red first; label uint8 [H, W] of class
    ids, 255 where ignored). It may have `names`, `palette` and `identity`. Raises `DataError` if it has not.
    """

    ignore_index = IGNORE_INDEX

    def __init__(self, own: Any, place: str, arguments: Mapping[str, Any], split: str) -> None:
        self._own, self._place, self._about = own, place, [place, dict(arguments), split]
        names = getattr(own, "class_names", None)
        if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names) or not names:
            raise self._error(f"class_names is {names!r}, must be a list of one name per class")
        if twice := repeated(names):
            raise self._error(f"class_names has {', '.join(map(repr, twice))} more than once, must be distinct")
        if len(names) > MAX_CLASSES:
            raise self._error(f"has {len(names)} classes, may have {MAX_CLASSES}")
        if lacking := [name for name in ("__len__", "__getitem__") if not hasattr(own, name)]:
            raise self._error(f"has no {' and no '.join(lacking)}")
        if not len(own):
            raise self._error("has no samples")
        self.class_names = tuple(names)
        palette = getattr(own, "palette", None)
        self.palette = colour_map(len(names)) if palette is None else tuple(tuple(colour) for colour in palette)
        if len(self.palette) != len(names):
            raise self._error(
                f"palette has {len(self.palette)} colours, must have one for each of {len(names)} classes"
            )
        given = getattr(own, "names", None)
        self.names = [f"{split}_{index:05d}" for index in range(len(own))] if given is None else list(given)
        if len(self.names) != len(own) or len(set(self.names)) != len(own):
            raise self._error(
                f"names has {len(set(self.names))} different names, must have one for each of {len(own)} samples"
            )

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.names)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Return image uint8 [3, H, W] (RGB) and label uint8 [H, W]. Raises `DataError` if they are anything else."""
        name = self.names[index]
        try:
            image, label = self._own[range(len(self))[index]]
        except UserError:
            raise
        except Exception as e:
            raise self._error(f"sample {name} raised {first_line(e)}") from e
        for what, value, ndim, shape in (("image", image, 3, "[3, H, W]"), ("label", label, 2, "[H, W]")):
            if not isinstance(value, Tensor):
                raise self._error(f"sample {name}: {what} is a {type(value).__name__}, must be a tensor uint8 {shape}")
            if value.dtype != torch.uint8 or value.ndim != ndim or (ndim == 3 and value.shape[0] != 3):
                got = f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
                raise self._error(f"sample {name}: {what} is {got}, must be uint8 {shape}")
        if image.shape[1:] != label.shape:
            raise self._error(f"sample {name}: image is {list(image.shape)}, label {list(label.shape)}: sizes differ")
        wrong = label[(label >= len(self.class_names)) & (label != IGNORE_INDEX)]
        if len(wrong):
            last = len(self.class_names) - 1
            raise self._error(f"sample {name}: label has the id {int(wrong[0])}, must be from 0 to {last}, or 255")
        return image.contiguous(), label.contiguous()

    def identity(self, cache: Path | None = None) -> str:
        """Return the data set's own `identity()`, or a hash of its import path, arguments, split and names."""
        own = getattr(self._own, "identity", None)
        return digest(["custom", *self._about, str(own()) if own is not None else self.names])

    def _error(self, fault: str) -> DataError:
        return DataError(f"{_KEY}.factory: the {self._about[-1]} split of {self._place}: {fault}")


def open_custom(split: str, root: Path | None, *, factory: str, arguments: Mapping[str, Any]) -> CustomDataset:
    """Open a split with the user's `factory(root, split, **arguments)`; `root` is None if the configuration has none.

    Raises `ConfigError` if there is no such function or an argument is unknown or missing, `DataError` if it raises or
    returns something else than a data set.
    """
    function = import_object(factory, f"{_KEY}.factory")
    if not callable(function):
        raise ConfigError([f"{_KEY}.factory: {factory} is a {type(function).__name__}, must be a function"])
    if faults := argument_faults(function, factory, arguments, f"{_KEY}.arguments", handed=("root", "split")):
        raise ConfigError(faults)
    try:
        own = function(root, split, **arguments)
    except UserError:
        raise
    except Exception as e:
        raise DataError(f"{_KEY}.factory: {factory} raised {first_line(e)} for the {split} split") from e
    return CustomDataset(own, factory, arguments, split)
