"""Data sets that Hugging Face `datasets` saved to disk (`save_to_disk`): a folder per split, images in Arrow files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from bpkd_search.data.base import RGB, digest
from bpkd_search.data.classes import colour_map
from bpkd_search.data.hashes import content_hashes
from bpkd_search.data.masks import File, MaskDataset, Table, Values, id_table, read_mask
from bpkd_search.errors import DataError
from bpkd_search.imports import require


class SavedDataset(MaskDataset):
    """Rows of one saved split; see `Dataset`. Samples are named after the folder and the number of the row."""

    def __init__(
        self, folder: Path, columns: tuple[str, str], class_names: Sequence[str], palette: Sequence[RGB], table: Table
    ) -> None:
        """Open the split; images are decoded when they are read. Raises `DataError`."""
        library = require("datasets", "datasets", "data.kind huggingface")
        if not folder.is_dir():
            raise DataError(f"no such directory: {folder}; expected layout: <root>/<split>, as save_to_disk writes it")
        try:
            rows = library.Dataset.load_from_disk(str(folder))
        except Exception as error:  # a damaged file may raise anything
            raise DataError(f"{folder}: is not a data set of save_to_disk, or is damaged: {error}") from error
        for column, holds_masks in zip(columns, (False, True), strict=True):
            if column not in rows.features:
                raise DataError(f"{folder}: has no column '{column}'; its columns: {', '.join(rows.features)}")
            if isinstance(rows.features[column], library.Image):
                # As stored, so that damaged images are found as in files.
                rows = rows.cast_column(column, library.Image(decode=False))
            elif not holds_masks:
                raise DataError(f"{folder}: column '{column}' holds no images but {rows.features[column]}")
        if not len(rows):
            raise DataError(f"empty split: {folder} holds no samples")
        self._rows, self._columns, self._folder = rows, columns, folder
        names = [f"{folder.name}/{index:06d}" for index in range(len(rows))]
        super().__init__(names, class_names, palette, table)
        self._identity: str | None = None

    def places(self, index: int) -> tuple[str, str]:
        """Return folder, row and column of image and mask."""
        image, mask = (f"{self._folder}, row {index}, {column}" for column in self._columns)
        return image, mask

    def image_file(self, index: int) -> File:
        """Return the stored image."""
        return _stored(self._value(index, 0), self.places(index)[0])

    def mask(self, index: int) -> Values:
        """Return the ids of the mask, int64 [H, W]."""
        value, place = self._value(index, 1), self.places(index)[1]
        if isinstance(value, Mapping):
            return read_mask(_stored(value, place), place)
        try:
            values = np.asarray(value)
            ids: Values = values.astype(np.int64)
        except (TypeError, ValueError) as error:
            raise DataError(f"{place}: cannot read mask: {error}") from error
        if values.dtype.kind == "f" and (wrong := values[values != ids]).size:
            raise DataError(f"{place}: mask holds {wrong[0]:g}, must hold whole numbers, the ids")
        return ids

    def _value(self, index: int, part: int) -> Any:
        # Only the column that is asked for is read from the disk.
        column = self._columns[part]
        return self._rows.select_columns(column)[range(len(self))[index]][column]

    def identity(self, cache: Path | None = None) -> str:
        """Hash the columns, the id mapping and the bytes of the files; see `Dataset`."""
        if self._identity is None:
            files = [Path(file["filename"]) for file in self._rows.cache_files]
            try:
                content = content_hashes(files, cache)
            except OSError as error:
                raise DataError(f"cannot read a file of the data set: {error}") from error
            ids = {str(i): int(self.table[i]) for i in np.flatnonzero(self.table >= 0)}
            self._identity = digest(["huggingface", len(self.class_names), ids, list(self._columns), content])
        return self._identity


def open_huggingface(
    split: str,
    root: Path,
    *,
    class_names: Sequence[str],
    image: str,
    mask: str,
    train: str,
    val: str,
    ignore_id: int,
    id_map: Mapping[int, int] | None,
) -> SavedDataset:
    """Open a split below `root`, the directory to which `DatasetDict.save_to_disk` wrote.

    `train` and `val` are the directories of these splits; that of another split has its name.
    """
    folder = root / {"train": train, "val": val}.get(split, split)
    table = id_table(len(class_names), ignore_id=ignore_id, id_map=id_map)
    return SavedDataset(folder, (image, mask), class_names, colour_map(len(class_names)), table)


def _stored(value: Any, place: str) -> File:
    """Return the bytes of an encoded image, or its path if the data set was saved without them."""
    if isinstance(value, Mapping) and value.get("bytes") is not None:
        return BytesIO(value["bytes"])
    if isinstance(value, Mapping) and value.get("path"):
        return Path(value["path"])
    raise DataError(f"{place}: holds no image")
