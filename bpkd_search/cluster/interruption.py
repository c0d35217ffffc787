"""How a search is interrupted: Ctrl-C and SIGTERM, a full disk, a Ray that is gone; and how it is then continued."""

from __future__ import annotations

import os
import shlex
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from bpkd_search.cluster.ending import STOPPED
from bpkd_search.errors import FullDiskError, ResourceError
from bpkd_search.files import pause, pausing
from bpkd_search.search.engine import Engine


class Interrupted(Exception):
    """A search or confirmation was stopped, or paused, by the user before its end; `again` is how it continues."""

    def __init__(self, again: str, outcome: str = STOPPED) -> None:
        self.outcome = outcome
        super().__init__(f"{outcome}; continue with: bpkd-search {again}")


@contextmanager
def patient(say: Callable[[str], None], wait: bool, again: str) -> Iterator[None]:
    """A full disk is waited for, of which `say` tells; without `wait` its error names the command to continue with."""
    try:
        with pausing(say if wait else None):
            yield
    except FullDiskError as e:
        raise FullDiskError(f"{e}; make room, then continue with: bpkd-search {again}") from e


@contextmanager
def interruptible(again: str) -> Iterator[None]:
    """Ctrl-C becomes an `Interrupted` that names the command to continue with, and so does SIGTERM.

    Batch systems send SIGTERM before a job's time limit.
    """

    def stop(sig: int, frame: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted(again) from None
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def stopping(engine: Engine, say: Callable[[str], None]) -> Iterator[None]:
    """Ctrl-C and SIGTERM stop the running trials cleanly; a second one does not wait for them."""
    before = {sig: signal.getsignal(sig) for sig in (signal.SIGINT, signal.SIGTERM)}

    def stop(sig: int, frame: Any) -> None:
        engine.interrupted = True
        pause().stop()
        say("stopping; what has been reported is kept")
        for each, handler in before.items():
            signal.signal(each, handler)

    for sig in before:
        signal.signal(sig, stop)
    try:
        yield
    finally:
        for sig, handler in before.items():
            signal.signal(sig, handler)


def leave(engine: Engine, again: str) -> None:
    """End the process at once: Ray is gone, and the main thread waits for it where no exception reaches.

    Every event is in the log already, and the tables follow from it.
    """
    error = engine.fatal or (None if engine.interrupted else ResourceError("Ray has not answered for a while"))
    if error is not None:
        print(f"error: {error}", file=sys.stderr)
    print(Interrupted(again), file=sys.stderr, flush=True)
    os._exit(130 if error is None else error.exit_code)


def continuation(command: str, address: str | None) -> str:
    """The command that continues a run, on the same cluster."""
    return command if address is None else f"{command} --address {shlex.quote(address)}"
