"""The lease of an experiment on an object store, which keeps two drivers apart where no file lock reaches.

Each driver renews an object of its own. Who wants the lease writes its object first and then reads the others', so that
of two at the same time at least one sees the other; ages are differences on the clock of the store. A driver that is
cut off for longer than the lease lasts may find that another one has it: then it stops. Some servers show an object
that is being replaced as missing, so a driver has two, which it writes in turn: the other one is there.
"""

from __future__ import annotations

import json
import os
import re
import socket
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from bpkd_search.errors import HeldError
from bpkd_search.stores.store import Object, Store

LEASES = "lease"


def lease_seconds() -> float:
    """How long a lease lasts without being renewed; `BPKD_SEARCH_LEASE_SECONDS` sets another time than 30 s."""
    return float(os.environ.get("BPKD_SEARCH_LEASE_SECONDS") or 30)


class Lease:
    """The lease of one local folder, of the name `id`, on what is in a store."""

    def __init__(self, store: Store, id: str) -> None:
        self._store, self._own, self._seconds = store, id, lease_seconds()
        self._renewed, self._turn = 0.0, 0

    def take(self, say: Callable[[str], None]) -> None:
        """Get the lease; waits until that of a driver that has been killed is over, and says so.

        Raises `HeldError` if another driver renews it, `StoreError` if the store refuses.
        """
        seen: dict[str, datetime] = {}
        self._write(holds=False)
        while others := self._others():
            for name, renewed in others.items():
                if seen.get(name, renewed) != renewed:
                    self.release()
                    raise HeldError(f"{self._store.name}: is held by {self._who(name)}; wait for it or stop it")
            if not seen:
                who = self._who(next(iter(others)))
                say(f"{self._store.name}: was held by {who} a moment ago; waiting to see whether that still runs")
            seen |= others
            time.sleep(self._seconds / 10)
            self._write(holds=False)
        self._write(holds=True)
        for name in self._store.objects(LEASES):
            if _driver(name) != self._own:
                self._store.empty(name)

    def renew_if_due(self) -> None:
        """Renew it in good time. Raises `HeldError` if another driver has it, `StoreError` if the store is away."""
        if time.monotonic() - self._renewed < self._seconds / 6:
            return
        held = _leases(self._store)
        own = held.get(self._own)
        later = [name for name, other in held.items() if own and name != self._own and other.time > own.time]
        if own is None or any(_read(self._store, name).get("holds") for name in later):
            others = [name for name in held if name != self._own]
            who = self._who(others[-1]) if others else "another driver"
            raise HeldError(
                f"{self._store.name}: was taken over by {who} while the store could not be reached from here"
            )
        self._write(holds=True)

    def release(self) -> None:
        """Give it back."""
        for name in self._store.objects(LEASES):
            if _driver(name) == self._own:
                self._store.empty(name)

    def _others(self) -> dict[str, datetime]:
        held = _leases(self._store)
        now, last = held[self._own].time, timedelta(seconds=self._seconds)
        return {name: each.time for name, each in held.items() if name != self._own and now - each.time < last}

    def _write(self, *, holds: bool) -> None:
        who = f"process {os.getpid()} on {socket.gethostname()}"
        self._store.put(f"{LEASES}/{self._own}-{self._turn}.json", json.dumps({"who": who, "holds": holds}).encode())
        self._turn = 1 - self._turn
        self._renewed = time.monotonic()

    def _who(self, name: str) -> str:
        return str(_read(self._store, name).get("who", "another process"))


def held_by(store: Store) -> str:
    """Who holds an experiment; empty if nobody does."""
    now = store.now()
    for name, lease in _leases(store).items():
        if now - lease.time < timedelta(seconds=lease_seconds()) and (facts := _read(store, name)).get("holds"):
            return str(facts["who"])
    return ""


def _driver(name: str) -> str:
    """Whose an object is."""
    return re.sub(r"(-[01])?\.json$", "", name.removeprefix(f"{LEASES}/"))


def _leases(store: Store) -> dict[str, Object]:
    """The newest object of each driver that has one."""
    newest: dict[str, Object] = {}
    for name, each in store.objects(LEASES).items():
        driver = _driver(name)
        if driver not in newest or each.time > newest[driver].time:
            newest[driver] = each
    return newest


def _read(store: Store, driver: str) -> dict[str, Any]:
    """What the newest object of a driver says that is not being replaced."""
    own = {name: each.time for name, each in store.objects(LEASES).items() if _driver(name) == driver}
    for name in sorted(own, key=lambda name: own[name], reverse=True):
        if content := store.get(name):
            return dict(json.loads(content))
    return {}
