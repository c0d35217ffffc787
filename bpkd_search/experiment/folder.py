"""The experiment directory: created once, locked by one driver at a time, never overwritten."""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from bpkd_search.config import SearchConfig, dump
from bpkd_search.config.load import load_saved
from bpkd_search.errors import ExperimentError, HeldError, ResourceError
from bpkd_search.experiment.paths import CONFIG, FACTS, LOCK
from bpkd_search.files import Held, lock, write_text

_ROOM = 64 * 2**20


def create(directory: Path, config: SearchConfig) -> None:
    """Create an experiment directory with its resolved configuration.

    Raises `ExperimentError` if the path exists already, `ResourceError` on a full disk.
    """
    try:
        # Of two processes that start at the same time, only one creates the directory.
        directory.mkdir(parents=True)
    except FileExistsError as e:
        if not directory.is_dir() or any(directory.iterdir()):
            known = (directory / CONFIG).is_file()
            hint = f"continue it with `bpkd-search resume {directory}`, or choose" if known else "choose"
            raise ExperimentError(f"{directory}: exists already; {hint} another --name or --out") from e
    except OSError as e:
        raise ExperimentError(f"{directory}: cannot be created: {e.strerror}") from e
    try:
        free = shutil.disk_usage(directory).free
        if free < _ROOM:
            raise ResourceError(
                f"{directory}: the disk has {free / 2**20:.0f} MiB free, a search needs {_ROOM / 2**20:.0f} MiB"
                " and more for its tables and checkpoints"
            )
        write_text(directory / CONFIG, dump(config))
    except OSError as e:
        raise ExperimentError(f"{directory}: cannot be created: {e.strerror}") from e


def note(directory: Path, **facts: Any) -> None:
    """Store what is known only once a search runs (`experiment.json`): class names, the teacher's scores.

    Facts of other names that were noted before are kept. Raises `ExperimentError` if the file is damaged.
    """
    write_text(directory / FACTS, json.dumps({**noted(directory), **facts}, indent=1))


def noted(directory: Path) -> dict[str, Any]:
    """Return the facts that an earlier session of the experiment stored, if any. Raises `ExperimentError`."""
    path = directory / FACTS
    try:
        facts: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        if not isinstance(facts, dict):
            raise ValueError("must be a mapping of facts")
    except ValueError as e:
        raise ExperimentError(f"{path}: is damaged: {e}") from e
    return facts


def read_config(directory: Path) -> SearchConfig:
    """Return the configuration of an existing experiment. Raises `ExperimentError`, `ConfigError`."""
    if not (directory / CONFIG).is_file():
        raise ExperimentError(f"{directory}: is not an experiment directory (it has no {CONFIG})")
    return load_saved(SearchConfig, directory / CONFIG)


@contextmanager
def hold(directory: Path) -> Iterator[None]:
    """Lock the directory against other drivers; the operating system releases the lock however the process ends.

    Raises `HeldError` naming the holder, `ExperimentError` if the directory cannot be locked.
    """
    path = directory / LOCK
    with ExitStack() as stack:
        try:
            file = stack.enter_context(lock(path, block=False, error=ExperimentError))
        except Held as e:
            holder = path.read_text(encoding="utf-8").strip() or "another process"
            raise HeldError(f"{directory}: is held by {holder}; wait for it or stop it") from e
        file.truncate(0)
        with suppress(OSError):  # the name only serves messages
            file.write(f"process {os.getpid()} on {socket.gethostname()}".encode())
        try:
            yield
        finally:
            file.truncate(0)
