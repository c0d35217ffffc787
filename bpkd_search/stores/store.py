"""A folder of objects at a URL, opened through pyarrow: S3 and what speaks its protocol, Google Cloud, Azure.

Objects are written whole and never deleted, only emptied, and an empty one counts as missing: pyarrow's deletion writes
markers of directories, which some servers do not take, and a spot machine needs no right to delete.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs as fs

from bpkd_search.errors import StoreError

CLOCK = "clock"
SCHEMES = ("s3", "gs", "gcs", "abfs", "abfss")
# What pyarrow raises when a store does not comply: errors of Azure's are no `OSError`.
REFUSALS = (OSError, pa.ArrowException)
# pyarrow would try for 15 minutes to reach Google's, and block what waits for an answer.
_GOOGLE_SECONDS = 20


@dataclass(frozen=True)
class Object:
    """An object's size in bytes, and when it was last written by the clock of the store."""

    size: int
    time: datetime


def is_url(where: Path | str) -> bool:
    """Whether a place is a URL, not a path."""
    return "://" in str(where)


def is_store(where: Path | str) -> bool:
    """Whether a place is a URL at which an experiment can be kept."""
    return str(where).partition("://")[0] in SCHEMES and is_url(where)


def without_secrets(url: str) -> str:
    """A URL as messages may have it: without credentials and options.

    What Azure's have before `@`, the container or the account, is part of the place.
    """
    shown = r"\1@" if url.startswith("abfs") else ""
    return re.sub(r"//([^/@:]*)(:.*)?@", f"//{shown}", url, count=1).partition("?")[0]


def open_url(url: str) -> tuple[Any, str]:
    """pyarrow's file system and the path in it. Raises one of `REFUSALS` for one that cannot be opened."""
    if url.startswith("s3://") and "allow_delayed_open=" not in url:
        # A small object is then one request, not three.
        url += f"{'&' if '?' in url else '?'}allow_delayed_open=true"
    if url.startswith(("gs://", "gcs://")) and "retry_limit_seconds=" not in url:
        url += f"{'&' if '?' in url else '?'}retry_limit_seconds={_GOOGLE_SECONDS}"
    files, root = fs.FileSystem.from_uri(url)
    return files, root.rstrip("/")


def first_line(error: Exception) -> str:
    """What an error of pyarrow says, in one line; of a store's, what that has answered."""
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return line.partition("AWS Error ")[2] or line


class Store:
    """The objects below a URL. Raises `StoreError` for a URL of another kind, and whenever the store does not comply.

    Credentials and the store's address are those of the environment (`AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT_URL`, ...).
    """

    def __init__(self, url: str) -> None:
        self.url, self.name = url.rstrip("/"), without_secrets(url).rstrip("/")
        scheme, _, rest = self.name.partition("://")
        if scheme not in SCHEMES or not rest.partition("/")[2]:
            valid = ", ".join(f"{scheme}://" for scheme in SCHEMES)
            raise StoreError(f"{self.name}: must be a folder in a bucket, as in s3://bucket/folder; valid: {valid}")
        # `gs://anonymous@` is pyarrow's for a bucket that asks for none.
        secrets = r"[^/@]*:.*@" if scheme.startswith("abfs") else "(?!anonymous@)[^/]*@"
        if re.match(rf"[^:]+://{secrets}", url):
            raise StoreError(f"{self.name}: must not contain credentials; set them in the environment")
        try:
            self._files, self._root = open_url(self.url)
        except REFUSALS as e:
            raise StoreError(f"{self.name}: cannot be opened: {first_line(e)}") from e

    def put(self, name: str, content: bytes) -> None:
        """Write an object."""
        try:
            with self._files.open_output_stream(f"{self._root}/{name}") as stream:
                stream.write(content)
        except REFUSALS as e:
            raise StoreError(f"{self.name}: cannot be written to: {first_line(e)}") from e

    def empty(self, name: str) -> None:
        """Let an object be missing from now on."""
        self.put(name, b"")

    def get(self, name: str) -> bytes | None:
        """The content of an object; None if it is missing."""
        try:
            with self._files.open_input_stream(f"{self._root}/{name}") as stream:
                return bytes(stream.read()) or None
        except FileNotFoundError:
            return None
        except REFUSALS as e:
            raise StoreError(f"{self.name}: cannot be read: {first_line(e)}") from e

    def now(self) -> datetime:
        """The time by the clock of the store."""
        name = f"{CLOCK}/now"
        self.put(name, b".")
        # Some servers show an object that is being replaced as missing.
        if (found := self.objects(CLOCK).get(name)) is None:
            raise StoreError(f"{self.name}: {name} was written and is not there")
        return found.time

    def objects(self, folder: str = "") -> dict[str, Object]:
        """The objects that are there, by name, of the whole or of a folder. Names that no file has are left out."""
        where = f"{self._root}/{folder}".rstrip("/")
        try:
            found = self._files.get_file_info(fs.FileSelector(where, recursive=True, allow_not_found=True))
        except REFUSALS as e:
            raise StoreError(f"{self.name}: cannot be read: {first_line(e)}") from e
        return {
            name: Object(each.size, each.mtime)
            for each in found
            if each.type == fs.FileType.File and each.size
            if not {"", ".", ".."}.intersection((name := each.path.removeprefix(f"{self._root}/")).split("/"))
        }
