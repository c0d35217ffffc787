"""The memory of searches: a folder or URL in which every finished search leaves one Parquet table, and nothing else.

A table has a row a trial (`schema.memory_schema`); its metadata say what the search was. It holds no path, so that
memories can be shared.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs as fs
import pyarrow.parquet as pq

from bpkd_search.errors import ExperimentError
from bpkd_search.experiment.reading import open_place
from bpkd_search.experiment.schema import COMPLETE
from bpkd_search.experiment.tables import as_parquet
from bpkd_search.files import replacing, write_bytes
from bpkd_search.stores.store import REFUSALS, first_line

_SUFFIX = ".parquet"
_ABOUT = b"bpkd_search.search"
# Written to see whether a place can be written to; readers pass over it.
_PROBE = ".writable"
_READERS = 16


@dataclass(frozen=True)
class Past:
    """A finished search as its table tells: `file` without its ending, and the rows of its trials.

    `goals` maps what it optimised to `max` or `min`, `space` each searched parameter to its distribution as plain
    values. `data` and `networks` are hashes of these parts of its configuration, without places.
    """

    file: str
    name: str
    date: str
    version: str
    goals: dict[str, str]
    space: dict[str, Any]
    data: str
    networks: str
    contents: dict[str, str]
    table: pa.Table

    def rows(self) -> list[dict[str, Any]]:
        """The trials as mappings."""
        found: list[dict[str, Any]] = self.table.to_pylist()
        return found

    def best(self) -> float | None:
        """The best score, by the first goal, of a trial that ran in full and meets the constraints."""
        metric, direction = next(iter(self.goals.items()))
        scores = [row[metric] for row in self.rows() if row["state"] == COMPLETE and row["feasible"] is not False]
        known = [score for score in scores if score is not None and math.isfinite(score)]
        return (max if direction == "max" else min)(known, default=None)


class Memory:
    """A memory at a path or a URL; it need not exist yet.

    Raises `ExperimentError` for a URL that cannot be opened, and when it cannot be read or written to.
    """

    def __init__(self, where: Path | str) -> None:
        self.name, self._files, self._root = open_place(where if "://" in str(where) else Path(where).expanduser())
        # Local files are replaced whole; stores do that by themselves.
        self._local = Path(self._root) if isinstance(self._files, fs.LocalFileSystem) else None

    def make(self) -> None:
        """Make it if it does not exist, and see that it can be written to."""
        try:
            if self._local is not None:
                self._local.mkdir(parents=True, exist_ok=True)
                with replacing(self._local / _PROBE) as probe:
                    probe.write_bytes(b"")
                (self._local / _PROBE).unlink(missing_ok=True)
            else:
                self._put(_PROBE, b"")
        except REFUSALS as e:
            raise ExperimentError(
                f"{self.name}: cannot be written to ({_why(e)}); searches leave their tables there, choose another"
                " search.memory"
            ) from e

    def put(self, file: str, table: pa.Table, about: Mapping[str, Any]) -> str:
        """Write the table of a search, whole or not at all, in place of an older one of this name; gives its place.

        `about` has the fields of `Past` but `file` and `table`.
        """
        metadata = {**(table.schema.metadata or {}), _ABOUT: json.dumps(about)}
        content = as_parquet(table.replace_schema_metadata(metadata))
        try:
            if self._local is not None:
                write_bytes(self._local / f"{file}{_SUFFIX}", content)
            else:
                self._put(f"{file}{_SUFFIX}", content)
        except REFUSALS as e:
            raise ExperimentError(f"{self.name}: cannot be written to ({_why(e)})") from e
        return f"{self.name.rstrip('/')}/{file}{_SUFFIX}"

    def searches(self) -> tuple[list[Past], list[str]]:
        """The searches by file name, and a sentence on every file that is no readable table of one.

        A memory that does not exist yet has none.
        """
        try:
            found = self._files.get_file_info(fs.FileSelector(self._root, allow_not_found=True))
        except REFUSALS as e:
            raise ExperimentError(f"{self.name}: cannot be read: {_why(e)}") from e
        names = sorted(f.base_name for f in found if f.base_name.endswith(_SUFFIX) and f.base_name[0] != ".")
        with ThreadPoolExecutor(_READERS) as pool:
            read = list(pool.map(self._read, names))
        return [each for each in read if isinstance(each, Past)], [each for each in read if isinstance(each, str)]

    def _read(self, name: str) -> Past | str:
        try:
            with self._files.open_input_stream(f"{self._root}/{name}") as stream:
                table = pq.ParquetFile(pa.BufferReader(stream.read())).read()
            about = json.loads((table.schema.metadata or {})[_ABOUT])
            # A newer version may have written more.
            known = {field.name: about[field.name] for field in fields(Past) if field.name not in ("file", "table")}
            past = Past(file=name.removesuffix(_SUFFIX), table=table, **known)
            missing = [
                column for column in (*past.space, *past.goals, "number", "config") if column not in table.schema.names
            ]
        except REFUSALS as e:
            return f"{self.name}/{name}: cannot be read: {_why(e)}"
        except (KeyError, TypeError, ValueError):
            return f"{self.name}/{name}: is not the table of a search; move it elsewhere"
        if missing:
            return f"{self.name}/{name}: has no column {', '.join(missing)}, which its search had"
        return past

    def _put(self, name: str, content: bytes) -> None:
        with self._files.open_output_stream(f"{self._root}/{name}") as stream:
            stream.write(content)


def _why(error: Exception) -> str:
    return error.strerror if isinstance(error, OSError) and error.strerror else first_line(error)
