"""The mirror: a thread that keeps a store equal to files of a local folder, and waits while the store is away."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable

from bpkd_search.errors import StoreError
from bpkd_search.stores.uploads import Uploads

EVERY_SECONDS = 1.0


class Mirror:
    """Sends the files that `names` gives whenever they change; `say` gets a line when the store goes away, or is back.

    `uploads` belong to the mirror from now on: all that it does in the meantime, `work` included, is under one lock.
    """

    def __init__(
        self, uploads: Uploads, names: Callable[[], Iterable[str]], say: Callable[[str], None] = lambda line: None
    ) -> None:
        self.uploads, self._names, self.say = uploads, names, say
        self._lock, self._stop = threading.RLock(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="mirror", daemon=True)
        self._away = False

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def work(self) -> None:
        """One round. Raises `StoreError`."""
        self.uploads.send(self._names())

    def try_work(self, work: Callable[[], None] | None = None) -> StoreError | None:
        """Do `work`, by default one round; gives the error of a store that is away, and says so once."""
        with self._lock:
            try:
                (work or self.work)()
            except StoreError as e:
                if not self._away:
                    self.say(f"warning: {e}; this goes on without it, and what is missing there is sent later")
                self._away = True
                return e
            if self._away:
                self.say(f"{self.uploads.store.name}: answers again")
            self._away = False
            return None

    def behind(self) -> list[str]:
        """The files that the store does not have as they are here."""
        with self._lock:
            return self.uploads.behind(self._names())

    def stop(self) -> None:
        """End the thread; what it is sending is sent first."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        pause = EVERY_SECONDS
        while not self._stop.wait(pause):
            start = time.monotonic()
            self.try_work()
            # A slow store is busy half of the time at most.
            pause = max(EVERY_SECONDS, time.monotonic() - start)
