"""Noticing that Ray is gone: its client would try to reach it for a minute, and then end the process without a word."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

EVERY_SECONDS = 0.5
# How long Ray may not answer: while a search runs, as it may come back, and once the search is to stop.
RUNNING_SECONDS, STOPPING_SECONDS = 45.0, 3.0


@contextmanager
def watch_ray(stopping: Callable[[], bool], gone: Callable[[], None]) -> Iterator[None]:
    """Call `gone` once, from a thread of its own, if the connected Ray answers no more; sooner when `stopping`."""
    import ray

    address = ray.get_runtime_context().gcs_address
    over = threading.Event()

    def watch() -> None:
        seen = time.monotonic()
        while not over.wait(EVERY_SECONDS):
            if _answers(address):
                seen = time.monotonic()
            elif time.monotonic() - seen > (STOPPING_SECONDS if stopping() else RUNNING_SECONDS):
                gone()
                return

    # Behind a proxy, Ray's own address may be out of reach from the start.
    thread = threading.Thread(target=watch, name="watch-ray", daemon=True) if _answers(address) else None
    if thread:
        thread.start()
    try:
        yield
    finally:
        over.set()
        if thread:
            thread.join()


def _answers(address: str) -> bool:
    host, port = address.rsplit(":", 1)
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=2).close()
    except OSError:
        return False
    return True
