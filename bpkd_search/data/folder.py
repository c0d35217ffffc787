"""Data sets of image files and mask files: finding and pairing them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bpkd_search.data.base import RGB, digest, listed
from bpkd_search.data.hashes import content_hashes
from bpkd_search.data.masks import File, MaskDataset, Table, Values, read_mask
from bpkd_search.errors import DataError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
MASK_SUFFIXES = (".png",)


@dataclass(frozen=True)
class Pair:
    """One sample on disk."""

    name: str
    image: Path
    mask: Path


@dataclass(frozen=True)
class Pairs:
    """The samples of a split, one line for each that lacks its image or mask, and where they were looked for."""

    found: tuple[Pair, ...]
    incomplete: tuple[str, ...]
    where: str


def find_files(folder: Path, suffixes: Sequence[str], *, ending: str = "", layout: str) -> dict[str, Path]:
    """Map name to path for all files below `folder` that end in `ending` and one of `suffixes`.

    A name is the path below `folder` without `ending` and suffix ("aachen/aachen_000000_000019"). Raises `DataError`
    if the directory is missing (the message includes the expected `layout`) or two files share a name.
    """
    if not folder.is_dir():
        raise DataError(f"no such directory: {folder}; expected layout: {layout}")
    found: dict[str, Path] = {}
    for path in sorted(_below(folder)):
        if path.suffix.lower() not in suffixes or path.name.startswith(".") or not path.stem.endswith(ending):
            continue
        stem = path.stem.removesuffix(ending)
        name = (path.relative_to(folder).parent / stem).as_posix()
        if name in found:
            raise DataError(f"two files for sample '{name}': {found[name]} and {path.name}")
        found[name] = path
    return found


def _below(folder: Path) -> Iterator[Path]:
    """Yield the files below a folder, those of linked folders too, each folder once."""
    seen = set()
    for place, folders, files in os.walk(folder, followlinks=True):
        # A link may lead back to a folder above it.
        if (real := os.path.realpath(place)) in seen:
            folders.clear()
            continue
        seen.add(real)
        yield from (Path(place) / name for name in files)


def pair_files(
    images: Mapping[str, Path], masks: Mapping[str, Path], *, where: str, names: Sequence[str] | None = None
) -> Pairs:
    """Pair images and masks by name; with `names`, exactly those samples in that order.

    Raises `DataError` if there is no sample.
    """
    either = {*images, *masks}
    wanted = sorted(either) if names is None else list(names)
    if not wanted:
        raise DataError(f"empty split: {where} holds no samples")
    faults = [f"{name}: no mask for its image" for name in wanted if name in images and name not in masks]
    faults += [f"{name}: no image for its mask" for name in wanted if name in masks and name not in images]
    faults += [f"{name}: neither image nor mask" for name in wanted if name not in either]
    found = tuple(Pair(name, images[name], masks[name]) for name in wanted if name in images and name in masks)
    return Pairs(found, tuple(faults), where)


class FolderDataset(MaskDataset):
    """Image and mask files below one root, mapped to class ids; see `Dataset`."""

    def __init__(
        self,
        pairs: Pairs | Sequence[Pair],
        class_names: Sequence[str],
        palette: Sequence[RGB],
        table: Table,
        *,
        colours: bool = False,
    ) -> None:
        """Store the paired files; `table` maps mask values to class ids, see `MaskDataset`."""
        given = pairs if isinstance(pairs, Pairs) else Pairs(tuple(pairs), (), "")
        self.pairs, self.incomplete, self._where = list(given.found), given.incomplete, given.where
        super().__init__([pair.name for pair in self.pairs], class_names, palette, table, colours=colours)
        self._identity: str | None = None

    def require_complete(self) -> None:
        """Raise `DataError` that names every sample without image or mask."""
        if faults := list(self.incomplete):
            raise DataError(f"{self._where}: {len(faults)} samples are incomplete:\n{listed(faults)}")

    def places(self, index: int) -> tuple[str, str]:
        """Return the paths of image and mask."""
        pair = self.pairs[index]
        return str(pair.image), str(pair.mask)

    def image_file(self, index: int) -> File:
        """Return the path of the image."""
        return self.pairs[index].image

    def mask(self, index: int) -> Values:
        """Return the values of the mask, int64 [H, W]."""
        return read_mask(self.pairs[index].mask, colours=self.colours)

    def identity(self, cache: Path | None = None) -> str:
        """Hash the names of the samples, the id mapping and the bytes of the files; see `Dataset`."""
        if self._identity is None:
            files = [path for pair in self.pairs for path in (pair.image, pair.mask)]
            try:
                content = content_hashes(files, cache)
            except OSError as error:
                raise DataError(f"cannot read a file of the data set: {error}") from error
            ids = {str(i): int(self.table[i]) for i in np.flatnonzero(self.table >= 0)}
            self._identity = digest([len(self.class_names), ids, self.names, content])
        return self._identity
