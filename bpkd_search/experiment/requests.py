"""The folder of requests to a search: one JSON file each, written whole by any process that sees the folder.

The driver takes them in the order of their names, and its log holds the answers. A file stays until all that its
request does is done, so that a driver that dies in between leaves the rest to the next one.
"""

from __future__ import annotations

import json
import os
import re
import socket
import stat
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from bpkd_search.config.changes import lay_changes, with_changes
from bpkd_search.config.models import SearchConfig
from bpkd_search.config.yaml_text import read_saved_text, to_text
from bpkd_search.errors import ExperimentError
from bpkd_search.experiment.events import Event, log_size, read_events
from bpkd_search.experiment.folder import note, noted
from bpkd_search.experiment.paths import CONFIG, LOCK, REQUESTS
from bpkd_search.files import Held, lock, shown_bytes, write_text

MOST_BYTES = 2**20
_LOOK_SECONDS = 0.2


def post(directory: Path, request: Mapping[str, Any]) -> str:
    """Leave a request for the driver; gives the name under which the log will answer it.

    Raises `ExperimentError` if the folder cannot be written to, or for a request that no driver would read.
    """
    text = json.dumps(request)
    if len(text) > MOST_BYTES:
        raise ExperimentError(f"the request has {shown_bytes(len(text))}, must have at most {shown_bytes(MOST_BYTES)}")
    name = new_name()
    path = directory / REQUESTS / f"{name}.json"
    try:
        write_text(path, text)
    except OSError as e:
        raise ExperimentError(
            f"{path.parent}: cannot be written to ({e.strerror}); a request needs the rights of who runs the search"
        ) from e
    return name


def new_name() -> str:
    """The name of a new request; names are in the order of time."""
    return f"{time.time_ns():020d}-{uuid.uuid4().hex[:8]}"


def ask(directory: Path, request: Mapping[str, Any], seconds: float) -> Event | None:
    """Leave a request and wait so long for the driver's answer, a `request` event; None if none came.

    Without a driver it does not wait. Raises `ExperimentError` as `post` does.
    """
    start = log_size(directory)
    name = post(directory, request)
    until = time.monotonic() + seconds
    while True:
        # Asked first: a driver may answer and end before the log is read.
        running = holder(directory)
        for event in read_events(directory, "request", start):
            if event.get("id") == name:
                return event
        if not running or time.monotonic() > until:
            return None
        time.sleep(_LOOK_SECONDS)


def holder(directory: Path) -> str:
    """Who holds the experiment, as it wrote into the lock file; empty if nobody does.

    A driver that was killed leaves its name there. One of this machine is asked for by its lock; of one on another
    node, the name has to do, as file systems differ in what they know of locks there.
    """
    try:
        name = (directory / LOCK).read_text(encoding="utf-8").strip()
    except OSError:
        return ""
    found = re.fullmatch(r"process (\d+) on (.*)", name)
    if found is None or found[2] != socket.gethostname() or _exists(int(found[1])):
        return name
    # The process may be one of another container.
    with suppress(ExperimentError):
        try:
            with lock(directory / LOCK, shared=True, block=False, error=ExperimentError):
                return ""
        except Held:
            pass
    return name


def _exists(process: int) -> bool:
    try:
        os.kill(process, 0)
    except OverflowError:
        return False
    except OSError as e:
        return isinstance(e, PermissionError)
    return True


def waiting(directory: Path) -> list[Path]:
    """The requests that wait, the oldest first."""
    return sorted((directory / REQUESTS).glob("*.json"))


def read_request(path: Path) -> tuple[bytes, int]:
    """The contents of a request and the user id of its owner.

    Raises `ValueError` for what is no plain file of at most `MOST_BYTES`, such as a link or a pipe, and `OSError`.
    """
    if path.is_symlink():
        raise ValueError("is a link, must be a file")
    # A pipe would be waited for, a link that has just been put there followed.
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        about = os.fstat(descriptor)
        if not stat.S_ISREG(about.st_mode):
            raise ValueError("is no file")
        with open(descriptor, "rb", closefd=False) as file:
            content = file.read(MOST_BYTES + 1)
    finally:
        os.close(descriptor)
    if len(content) > MOST_BYTES:
        raise ValueError(f"has {shown_bytes(about.st_size)}, must have at most {shown_bytes(MOST_BYTES)}")
    return content, about.st_uid


def keep_changes(directory: Path, changes: Mapping[str, Sequence[Any]]) -> None:
    """Write changes of the configuration that a request made into `config.yaml`, and to what `resume` compares with."""
    path = directory / CONFIG
    tree: dict[str, Any] = read_saved_text(path.read_text(encoding="utf-8"))
    write_text(path, to_text(lay_changes(tree, changes)))
    if fingerprints := noted(directory).get("fingerprints"):
        lay_changes(fingerprints["configuration"], changes)
        note(directory, fingerprints=fingerprints)


def as_begun(directory: Path, config: SearchConfig) -> SearchConfig:
    """The configuration of a search as it was before all requests."""
    for event in reversed(list(read_events(directory, "request"))):
        config = with_changes(config, event.get("changes", {}), undo=True)
    return config


def settle(directory: Path) -> None:
    """Do what a driver that died left undone of requests that it had logged; only for who holds the experiment."""
    left = {path.stem: path for path in waiting(directory)}
    if left:
        for event in read_events(directory, "request"):
            if path := left.get(event["id"]):
                keep_changes(directory, event.get("changes", {}))
                path.unlink()
