"""The local folder of an experiment on an object store: where it is, and how it gets what the store has."""

from __future__ import annotations

import hashlib
import json
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from bpkd_search.errors import ExperimentError
from bpkd_search.experiment.paths import (
    CHECKPOINTS,
    CONFIG,
    EVENTS,
    LOCK,
    LOGS,
    REQUESTS,
    STORE,
    STUDENTS,
    STUDY,
    TEACHER,
    store_of,
)
from bpkd_search.files import Held, lock, write_bytes, write_text
from bpkd_search.machine import cache_root
from bpkd_search.stores.lease import LEASES
from bpkd_search.stores.store import CLOCK, Store, is_url, without_secrets
from bpkd_search.stores.uploads import log_of

# What is in the store for others than the driver, or fetched when it is needed; and what is of a local folder alone.
_NOT_FETCHED = {CLOCK, LEASES, REQUESTS, CHECKPOINTS, STUDENTS, TEACHER, LOCK, STORE, STUDY}


@dataclass(frozen=True)
class Link:
    """That a folder is the local copy of a URL; `id` tells copies on several machines apart."""

    url: str
    id: str


def local_folder(url: str) -> Path:
    """The local copy of an experiment at a URL, whether it exists or not; each machine has its own."""
    url = without_secrets(url).rstrip("/")
    name = f"{url.rpartition('/')[2]}-{hashlib.sha256(url.encode()).hexdigest()[:8]}"
    return (cache_root() / "experiments" / name).expanduser().absolute()


def link_of(folder: Path) -> Link | None:
    """The link in a folder; None for one that is no copy of a URL."""
    facts = store_of(folder)
    return Link(**facts) if facts else None


def link(folder: Path, url: str) -> None:
    """Make a folder the local copy of a URL."""
    write_text(folder / STORE, json.dumps({"url": url.rstrip("/"), "id": uuid.uuid4().hex}))


def place_for(url: str, say: Callable[[str], None]) -> Path:
    """Where a new experiment at a URL is to be made on this machine: a path at which nothing is.

    Raises `ExperimentError` if there is an experiment at the URL, or one here that the store does not have;
    `StoreError`.
    """
    store, folder = Store(url), local_folder(url)
    again = f"continue it with `bpkd-search resume {store.name}`, or choose another --name or --out"
    if store.get(CONFIG) is not None:
        raise ExperimentError(f"{store.name}: exists already; {again}")
    if (folder / CONFIG).is_file():
        raise ExperimentError(f"{store.name}: is empty, but {folder} has an experiment for it; {again}")
    if folder.exists():
        set_aside(folder, say)
        folder.rmdir()
    # A store that can be read only is refused before anything is built.
    store.empty(CONFIG)
    return folder


def home_of(url: str) -> Path:
    """The local folder of an existing experiment at a URL, with its configuration at least; made if it is not there.

    Raises `ExperimentError` if there is none, `StoreError`.
    """
    folder = local_folder(url)
    if not (folder / CONFIG).is_file():
        store = Store(url)
        config = store.get(CONFIG)
        if config is None:
            raise ExperimentError(f"{store.name}: is not an experiment directory (it has no {CONFIG})")
        write_bytes(folder / CONFIG, config)
    if link_of(folder) is None:
        link(folder, url)
    return folder


def at_home(where: Path | str) -> Path:
    """The path of an experiment that is given as a path or a URL. Raises as `home_of` does."""
    return home_of(str(where)) if is_url(where) else Path(where)


def current(url: str, say: Callable[[str], None]) -> Path:
    """The local folder of an experiment at a URL with the log and the tables that the store has now.

    Where a driver on this machine holds the folder, that is newer than the store. Raises as `home_of` does.
    """
    folder = home_of(url)
    with suppress(Held), lock(folder / LOCK, block=False):
        fetch(Store(url), folder, say, refresh=True)
    return folder


def snapshot(url: str, say: Callable[[str], None]) -> Path:
    """As `current`, with the students and the logs of trials."""
    folder, store = current(url, say), Store(url)
    for name, there in store.objects().items():
        path = folder / name
        if {STUDENTS, LOGS}.intersection(name.split("/")) and not (path.exists() and path.stat().st_size == there.size):
            fetch_file(store, folder, name)
    return folder


def fetch(store: Store, folder: Path, say: Callable[[str], None], *, refresh: bool = False) -> None:
    """Bring what the store has of an experiment into its local folder, unless this is newer, or as new.

    With `refresh`, also if it is as new. Of what trials write, nothing is fetched: `fetch_file` brings a file. Where
    another machine has gone on and this one has gone on too, what is here is moved aside, and `say` tells where. Only
    for who holds the folder.
    """
    objects = store.objects()
    logs: dict[str, list[str]] = {EVENTS: []}
    for name in sorted(objects):
        if log := log_of(name):
            logs.setdefault(log, []).append(name)
    there = {log: b"".join(store.get(segment) or b"" for segment in segments) for log, segments in logs.items()}
    here = {log: _complete_lines(folder / log) for log in there}
    newer = (folder / CONFIG).is_file() and all(here[log].startswith(there[log]) for log in there)
    if newer and (here != there or (here[EVENTS] and not refresh)):
        return
    if not all(there[log].startswith(here[log]) for log in there):
        set_aside(folder, say)
    for name in objects:
        if not _NOT_FETCHED.intersection(name.split("/")) and log_of(name) is None:
            write_bytes(folder / name, store.get(name) or b"")
    for log, lines in there.items():
        if lines:
            write_bytes(folder / log, lines)


def fetch_file(store: Store, folder: Path, name: str) -> bool:
    """Bring one file, replacing what is here; False if the store does not have it. Raises `StoreError`."""
    content = store.get(name)
    if content is not None:
        write_bytes(folder / name, content)
    return content is not None


def set_aside(folder: Path, say: Callable[[str], None]) -> None:
    """Move what is in a folder to a new one beside it, but for the lock and the link, and say so."""
    aside = folder.with_name(f"{folder.name}-aside-{time.strftime('%Y%m%d-%H%M%S')}")
    moved = [path for path in folder.iterdir() if path.name not in (LOCK, STORE)]
    if moved:
        aside.mkdir()
        for path in moved:
            path.rename(aside / path.name)
        say(f"{folder}: differs from what the store has, which is newer; what was here is kept in {aside}")


def _complete_lines(path: Path) -> bytes:
    lines = path.read_bytes() if path.is_file() else b""
    return lines[: lines.rfind(b"\n") + 1]


def reach(url: str) -> None:
    """Raises `StoreError` where this machine cannot write to a store."""
    Store(url).empty(f"{CLOCK}/reached")
