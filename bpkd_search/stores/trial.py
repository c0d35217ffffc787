"""The trial's side of an experiment on an object store: its checkpoint, student and log, from any node."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from bpkd_search.errors import StoreError
from bpkd_search.experiment.paths import EVENTS
from bpkd_search.stores.home import fetch_file, local_folder
from bpkd_search.stores.mirror import Mirror
from bpkd_search.stores.store import Store
from bpkd_search.stores.uploads import Uploads


class TrialFiles:
    """Carries the files of the trials that run in a process, one after the other, to the store at a URL.

    What could not be sent of a trial is still sent while the next one runs.
    """

    def __init__(self, url: str) -> None:
        self.folder = local_folder(url)
        self._watched: set[str] = set()
        self._mirror = Mirror(Uploads(Store(url), self.folder), lambda: sorted(self._watched))
        self._mirror.start()

    def follow(self, files: Iterable[Path]) -> None:
        """Watch the files of another trial. Those of the ones before that were sent are not kept here.

        The driver's machine keeps them, where this folder is the experiment.
        """
        self._mirror.try_work()
        behind = self._mirror.behind()
        if not (self.folder / EVENTS).is_file():
            for name in self._watched.difference(behind):
                (self.folder / name).unlink(missing_ok=True)
        self._watched = {*behind, *map(self._name, files)}

    def finish(self, checkpoint: Path) -> None:
        """Send what the finished trial leaves, if the store answers; its checkpoint is not needed any more."""
        self._watched = self._watched - {self._name(checkpoint)}
        self._mirror.try_work()

    def bring(self, path: Path) -> bool:
        """Fetch a file, replacing the one here; False if the store does not have it or does not answer."""
        with suppress(StoreError):
            return fetch_file(self._mirror.uploads.store, self.folder, self._name(path))
        return False

    def close(self) -> None:
        """Send the rest, and end."""
        self._mirror.stop()
        self._mirror.try_work()

    def _name(self, path: Path) -> str:
        return path.relative_to(self.folder).as_posix()
