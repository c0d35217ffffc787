"""Requests to a search through its object store, from a machine that does not see the driver's folder."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bpkd_search.experiment.events import Event, log_size, read_events
from bpkd_search.experiment.paths import REQUESTS
from bpkd_search.experiment.requests import new_name
from bpkd_search.stores.home import current
from bpkd_search.stores.lease import held_by
from bpkd_search.stores.store import Store

_LOOK_SECONDS = 1.0


def ask(url: str, folder: Path, request: Mapping[str, Any], seconds: float) -> Event | None:
    """Leave a request in the store and wait so long for the driver's answer, a `request` event; None if none came.

    `folder` is the local copy. Without a driver it does not wait. Raises `StoreError`.
    """
    store, start, name = Store(url), log_size(folder), new_name()
    store.put(f"{REQUESTS}/{name}.json", json.dumps(request).encode())
    until = time.monotonic() + seconds
    while held_by(store) and time.monotonic() < until:
        for event in read_events(current(url, lambda line: None), "request", start):
            if event.get("id") == name:
                return event
        time.sleep(_LOOK_SECONDS)
    return None
