"""Reading experiment directories, local or by URL; damaged files are reported and skipped."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.fs as fs
import pyarrow.parquet as pq
import yaml

from bpkd_search.errors import ExperimentError
from bpkd_search.experiment.paths import CONFIG, store_of
from bpkd_search.stores.store import REFUSALS, Store, first_line, is_url, open_url, without_secrets


class DamagedFileWarning(UserWarning):
    """A part file of a table cannot be read; its rows are missing from the results."""


class Folder:
    """An experiment directory: a path, or a URL of any filesystem that pyarrow opens (`s3://`, `gs://`, `file://`).

    Raises `ExperimentError` for a URL that cannot be opened and for a directory that is not an experiment.
    """

    def __init__(self, where: Path | str) -> None:
        self.is_url = is_url(where)
        self.name, self._files, root = open_place(where)
        self._root = root or "/"
        if not self._is_file(CONFIG):
            raise ExperimentError(f"{self.name}: is not an experiment directory (it has no {CONFIG})")

    def config(self) -> dict[str, Any]:
        """Return the search's resolved configuration as a plain mapping. Raises `ExperimentError`."""
        try:
            config: dict[str, Any] = yaml.safe_load(self.text(CONFIG))
            if not (isinstance(config["search"], dict) and isinstance(config["space"], dict)):
                raise ValueError("search and space must be mappings")
        except (yaml.YAMLError, ValueError, KeyError, TypeError) as e:
            raise ExperimentError(f"{self.name}/{CONFIG}: is not the configuration of a search: {first_line(e)}") from e
        return config

    def text(self, name: str) -> str:
        """Return a file of the directory as text; empty if it does not exist. Raises `ExperimentError`."""
        if not self._is_file(name):
            return ""
        try:
            with self._files.open_input_stream(f"{self._root}/{name}") as stream:
                return str(stream.read().decode("utf-8"))
        except (*REFUSALS, UnicodeDecodeError) as e:
            raise ExperimentError(f"{self.name}/{name}: cannot be read: {first_line(e)}") from e

    def has(self, table: str) -> bool:
        """Return whether the directory has a table."""
        return bool(self._files.get_file_info(f"{self._root}/{table}").type == fs.FileType.Directory)

    def table(self, table: str, columns: Sequence[str] | None = None) -> pa.Table | None:
        """Return a table from its part files, in order; None before the first is written.

        A file that cannot be read is skipped with a `DamagedFileWarning` that names it. Raises
        `ExperimentError` if the directory itself cannot be read.
        """
        try:
            found = self._files.get_file_info(fs.FileSelector(f"{self._root}/{table}", allow_not_found=True))
        except REFUSALS as e:
            raise ExperimentError(f"{self.name}/{table}: cannot be read: {first_line(e)}") from e
        names = sorted(f.base_name for f in found if re.fullmatch(r"part-\d+\.parquet", f.base_name))
        parts = []
        for name in names:
            try:
                # Not `pq.read_table`, which imports pyarrow's datasets and takes half a second at a cold start.
                with self._files.open_input_file(f"{self._root}/{table}/{name}") as file:
                    parts.append(_read(pq.ParquetFile(file), columns))
            except REFUSALS as e:
                warnings.warn(
                    f"{self.name}/{table}/{name}: is damaged and skipped: {first_line(e)}",
                    DamagedFileWarning,
                    stacklevel=3,
                )
        return unite(parts) if parts else None

    def _is_file(self, name: str) -> bool:
        try:
            return bool(self._files.get_file_info(f"{self._root}/{name}").type == fs.FileType.File)
        except REFUSALS as e:
            raise ExperimentError(f"{self.name}: cannot be read: {first_line(e)}") from e


def is_experiment(where: Path | str) -> bool:
    """Return whether a path or URL is an experiment directory. Raises `ExperimentError` if it cannot be read."""
    if not is_url(where):
        return (Path(where) / CONFIG).is_file()
    return Store(str(where)).get(CONFIG) is not None


def open_place(where: Path | str) -> tuple[str, Any, str]:
    """Open a path, or a URL of any filesystem of pyarrow: its name for messages, the filesystem, the path in it.

    Raises `ExperimentError` for a URL that cannot be opened.
    """
    text = str(where)
    if not is_url(text):
        return store_of(Path(text)).get("url", text), fs.LocalFileSystem(), text.rstrip("/")
    # A URL may contain credentials, which must not be in messages.
    name = without_secrets(text)
    try:
        files, root = open_url(text)
        if not root.strip("/"):
            raise ValueError("names no directory")
    except (*REFUSALS, ValueError) as e:
        raise ExperimentError(f"{name}: cannot be opened: {first_line(e).replace(text, name)}") from None
    return name, files, root.rstrip("/")


def unite(tables: Sequence[pa.Table]) -> pa.Table:
    """Concatenate tables; the result has the union of their columns.

    A column with integers in one table and floats in another becomes float; other mixed types become strings.
    """
    kinds: dict[str, list[pa.DataType]] = {}
    for table in tables:
        for field in table.schema:
            kinds.setdefault(field.name, []).append(field.type)
    mixed = {name for name, types in kinds.items() if not _alike(types)}
    return pa.concat_tables([_as_text(t, mixed) for t in tables], promote_options="permissive").unify_dictionaries()


def to_pandas(table: pa.Table) -> pd.DataFrame:
    """Convert a table to a frame; integers and booleans keep their type even if values are missing."""
    frame: pd.DataFrame = table.to_pandas()
    nullable: Mapping[pa.DataType, Any] = {pa.int64(): pd.Int64Dtype(), pa.bool_(): pd.BooleanDtype()}
    for field, column in zip(table.schema, table.columns, strict=True):
        if field.type in nullable and column.null_count:
            frame[field.name] = column.to_pandas(types_mapper=nullable.get)
    return frame


def _read(file: pq.ParquetFile, columns: Sequence[str] | None) -> pa.Table:
    # A file of an older version may lack a requested column.
    wanted = None if columns is None else [name for name in columns if name in file.schema_arrow.names]
    return file.read(columns=wanted)


def _alike(types: Sequence[pa.DataType]) -> bool:
    numbers = all(pa.types.is_integer(t) or pa.types.is_floating(t) for t in types)
    return numbers or all(t == types[0] for t in types)


def _as_text(table: pa.Table, names: set[str]) -> pa.Table:
    for name in names & set(table.column_names):
        table = table.set_column(table.column_names.index(name), name, table[name].cast(pa.string()))
    return table
