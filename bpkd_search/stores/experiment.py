"""The driver's side of an experiment on an object store: the lease, what is fetched first, and the mirror.

The driver works in a local folder, as without a store. Of what trials write, their own processes send checkpoints,
students and logs (`stores.trial`); the driver empties those objects that nobody needs any more.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from bpkd_search.errors import HeldError, StoreError, UserError
from bpkd_search.experiment.paths import (
    CHECKPOINTS,
    CONFIG,
    CONFIRMATION,
    LOCK,
    RAY,
    REQUESTS,
    STORE,
    STUDENTS,
    STUDY,
    TEACHER,
    TRIAL_LOGS,
)
from bpkd_search.files import write_bytes
from bpkd_search.stores.home import Link, fetch, fetch_file, link_of
from bpkd_search.stores.lease import Lease
from bpkd_search.stores.mirror import EVERY_SECONDS, Mirror
from bpkd_search.stores.store import Store
from bpkd_search.stores.uploads import Uploads, is_log

FILES_SECONDS, REQUESTS_SECONDS, TIDY_SECONDS = 5.0, 2.0, 30.0
# A store that is away when the search ends is waited for so long.
PATIENCE_SECONDS = 60.0
# The files of trials, which others send.
_OF_TRIALS = {folder for part in (CHECKPOINTS, STUDENTS, TRIAL_LOGS) for folder in (part, f"{CONFIRMATION}/{part}")}
_NOT_SENT_FOLDERS = {*_OF_TRIALS, RAY, f"{CONFIRMATION}/{RAY}", REQUESTS}
_NOT_SENT = {LOCK, STORE, STUDY}


class Place:
    """Where an experiment is kept: on this disk alone."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lost: Callable[[UserError], None] = lambda error: None

    @property
    def url(self) -> str | None:
        """The URL of the store."""
        return None

    def release(self, files: Iterable[Path]) -> None:
        """Say which files of trials nobody needs any more: all of them each time."""

    def bring(self, files: Iterable[Path]) -> None:
        """Fetch those files of the folder that are not here and that the store has. Raises `StoreError`."""

    def inside(self, directory: Path) -> str:
        """The path of a directory in the experiment's folder, or of the folder itself."""
        return directory.relative_to(self.folder).as_posix()

    def keep_teacher(self, file: Path, folder: Path) -> None:
        """Keep a teacher with the experiment, and its scores, if it is one of those that were trained into `folder`."""

    def bring_teacher(self, folder: Path) -> None:
        """Fetch the files of the experiment's teacher that are not in a folder. Raises `StoreError`."""


class StorePlace(Place, Mirror):
    """An experiment that is kept on a store too."""

    def __init__(self, folder: Path, link: Link, say: Callable[[str], None]) -> None:
        Place.__init__(self, folder)
        self.store = Store(link.url)
        Mirror.__init__(self, Uploads(self.store, folder), self._files, say)
        self._lease, self._renewing = Lease(self.store, link.id), threading.Lock()
        self._keeper = threading.Thread(target=self._keep_lease, name="lease", daemon=True)
        self._unneeded: frozenset[str] = frozenset()
        self._requests: set[str] = set()
        self._teacher: list[Path] = []
        self._done = dict[str, float]()
        self._gone = False

    def begin(self) -> None:
        """Take the lease, fetch what the store has and this folder has not, and start. Raises as these do."""
        self._lease.take(self.say)
        try:
            fetch(self.store, self.folder, self.say)
            self._take_requests()
        except BaseException:
            self._lease.release()
            raise
        self.start()
        self._keeper.start()

    def work(self) -> None:
        """One round: the log every time, the rest when it is due. Raises `StoreError`."""
        self._renew()
        if self._gone:
            return
        self.uploads.send([CONFIG, *(name for name in self._files() if is_log(name))])
        if self._due("requests", REQUESTS_SECONDS):
            self._take_requests()
        if self._due("files", FILES_SECONDS):
            self.send_all()
        if self._due("tidy", TIDY_SECONDS):
            self._tidy()

    def send_all(self) -> None:
        """Send what has changed of all files, and let go of requests that are done. Raises `StoreError`."""
        self.uploads.send(self._files())
        for path in self._teacher:
            if (name := f"{TEACHER}/{path.name}") not in self.store.objects(TEACHER):
                self.store.put(name, path.read_bytes())
        self._teacher = []
        for name in [name for name in self._requests if not (self.folder / name).exists()]:
            self.store.empty(name)
            self._requests.remove(name)

    def end(self) -> str | None:
        """Send the rest and give the lease back, with some patience; a sentence on what is only here then."""
        self.stop()
        if self._keeper.is_alive():
            self._keeper.join()  # it must not renew what is given back
        until = time.monotonic() + PATIENCE_SECONDS
        while (error := self.try_work(self._last)) is not None and time.monotonic() < until:
            time.sleep(EVERY_SECONDS)
        if error is None:
            return None
        again = f"bpkd-search resume {self.store.name}"
        return f"{error}; {len(self.behind())} file(s) or more are only in {self.folder}; send them with: {again}"

    @property
    def url(self) -> str:  # noqa: D102
        return self.store.url

    def release(self, files: Iterable[Path]) -> None:  # noqa: D102
        self._unneeded = frozenset(path.relative_to(self.folder).as_posix() for path in files)

    def bring(self, files: Iterable[Path]) -> None:  # noqa: D102
        for path in files:
            if not path.exists():
                fetch_file(self.store, self.folder, path.relative_to(self.folder).as_posix())

    def keep_teacher(self, file: Path, folder: Path) -> None:  # noqa: D102
        if file.parent == folder:
            with self._lock:
                self._teacher = [file, *folder.glob(f"{file.stem}-*.json")]

    def bring_teacher(self, folder: Path) -> None:  # noqa: D102
        for name in self.store.objects(TEACHER):
            if not (path := folder / name.rpartition("/")[2]).exists():
                write_bytes(path, self.store.get(name) or b"")

    def _keep_lease(self) -> None:
        """Renew the lease in good time, also while a large file is being sent."""
        while not self._stop.wait(EVERY_SECONDS):
            with suppress(StoreError):  # the mirror finds out too, and says so
                self._renew()

    def _renew(self) -> None:
        with self._renewing:
            try:
                if not self._gone:
                    self._lease.renew_if_due()
            except HeldError as e:
                self._gone = True
                self.lost(e)

    def _last(self) -> None:
        self.work()
        if self._gone:
            return
        self.send_all()
        there = self._tidy()
        # Their processes may have ended while the store was away.
        for name in self._walk(_OF_TRIALS):
            path = self.folder / name
            if name not in self._unneeded and (name not in there or there[name] != path.stat().st_size):
                self.store.put(name, path.read_bytes())
        self._lease.release()

    def _tidy(self) -> dict[str, int]:
        """Empty what nobody needs any more; gives the sizes of the rest of the files of trials."""
        there = {name: each.size for part in sorted(_OF_TRIALS) for name, each in self.store.objects(part).items()}
        for name in self._unneeded.intersection(there):
            self.store.empty(name)
            del there[name]
        return there

    def _take_requests(self) -> None:
        for name in self.store.objects(REQUESTS):
            if name not in self._requests and fetch_file(self.store, self.folder, name):
                self._requests.add(name)

    def _due(self, what: str, seconds: float) -> bool:
        due = time.monotonic() - self._done.get(what, 0.0) >= seconds
        if due:
            self._done[what] = time.monotonic()
        return due

    def _files(self) -> list[str]:
        names = []
        for folder, inner, files in os.walk(self.folder):
            inside = Path(folder).relative_to(self.folder)
            inner[:] = [name for name in inner if (inside / name).as_posix() not in _NOT_SENT_FOLDERS]
            names += [(inside / name).as_posix() for name in files if name not in _NOT_SENT and name[0] != "."]
        return sorted(names, key=lambda name: (name != CONFIG, name))

    def _walk(self, folders: Iterable[str]) -> list[str]:
        found = [path for folder in folders for path in (self.folder / folder).glob("[!.]*") if path.is_file()]
        return [path.relative_to(self.folder).as_posix() for path in found]


@contextmanager
def kept(folder: Path, say: Callable[[str], None]) -> Iterator[Place]:
    """Where the experiment in a folder is kept, for who holds the folder; on a store if it is a copy of one.

    Raises `HeldError` if another driver has the lease, `StoreError` if the store refuses, or is away in the end; then
    the message has the command that sends the rest.
    """
    link = link_of(folder)
    if link is None:
        yield Place(folder)
        return
    place = StorePlace(folder, link, say)
    place.begin()
    try:
        yield place
    except BaseException:
        if left := place.end():
            say(f"warning: {left}")
        raise
    if left := place.end():
        raise StoreError(left)


def abandon(folder: Path) -> None:
    """Empty what a store has of an experiment that has not begun, so that another can be made at its URL."""
    if link := link_of(folder):
        with suppress(StoreError):
            store = Store(link.url)
            for name in store.objects():
                store.empty(name)
