"""Requests from other terminals and nodes, as the driver takes them from the experiment folder."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable
from pathlib import Path

from bpkd_search.errors import ExperimentError, UserError
from bpkd_search.experiment.events import read_events
from bpkd_search.experiment.paths import CONFIG
from bpkd_search.experiment.requests import keep_changes, read_request, waiting
from bpkd_search.search.engine import Engine
from bpkd_search.search.requests import Change, Pause, answer, change_of, effect, parse, states_of_engine
from bpkd_search.training.check import check_networks

EVERY_SECONDS = 1.0


class Requests:
    """Brings the requests in a folder to the engine; `say` gets a line for each."""

    def __init__(self, engine: Engine, directory: Path, say: Callable[[str], None]) -> None:
        self.engine, self.directory, self.say = engine, directory, say
        self._done = {str(event["id"]) for event in read_events(directory, "request")}
        self._unreadable: set[Path] = set()
        self._looked = time.monotonic()

    def take_if_due(self) -> None:
        """Take what waits, every second."""
        if time.monotonic() - self._looked >= EVERY_SECONDS:
            self.take()
            self._looked = time.monotonic()

    def take(self, *, beginning: bool = False) -> dict[str, UserError]:
        """Take what waits, in order; gives the errors of those that cannot be done, by name.

        At the `beginning` of a session, one that asks for a pause is of the session before.
        """
        refused = {}
        for path in waiting(self.directory):
            if path in self._unreadable:
                continue
            try:
                if path.stem not in self._done:
                    self._take(path, beginning)
            except UserError as e:
                refused[path.stem] = e
                self._log(path.stem, refused=str(e))
                self.say(f"request refused: {e}")
            except OSError as e:
                self._unreadable.add(path)
                self.say(f"warning: {path}: cannot be read or removed ({e.strerror}); it is passed over")
                continue
            self._done.add(path.stem)
            self._remove(path)
        return refused

    def _take(self, path: Path, beginning: bool) -> None:
        try:
            text, owner = read_request(path)
            request = parse(text)
        except ValueError as e:
            names = (f"{path.name}.invalid{f'-{i}' if i else ''}" for i in itertools.count())
            kept = next(new for name in names if not (new := path.with_name(name)).exists())
            path.rename(kept)
            raise UserError(f"{kept}: {e}") from e
        if isinstance(request, Change) and owner not in self._trusted():
            # It may name a command (`search.on_end`) or code, which would run as the user of this process.
            raise ExperimentError(
                f"{path.stem}: changes the configuration, but is of another user (id {owner}); only who runs the search"
                " may change it"
            )
        if beginning and isinstance(request, Pause):
            raise UserError("pause: the search has been resumed since")
        engine = self.engine
        event = effect(request, engine.config, states_of_engine(engine), engine.plan.tried, engine.plan.requested)
        if (config := change_of(event, engine.config)) is not None:
            check_networks(config)
        said = answer(event, engine)
        self._log(path.stem, request=request.model_dump(mode="json"), answer=said, **event)
        self.say(f"request: {said}")
        if event.get("changes"):
            keep_changes(self.directory, event["changes"])

    def _trusted(self) -> set[int]:
        """Users that may change the configuration: this process's, root, and the owner of the configuration.

        Some file systems give all files of a user another owner, the same one.
        """
        return {os.getuid(), 0, (self.directory / CONFIG).stat().st_uid}

    def _log(self, name: str, **event: object) -> None:
        self.engine.request({"id": name, **event})

    def _remove(self, path: Path) -> None:
        try:
            path.unlink(missing_ok=True)
        except OSError as e:
            self._unreadable.add(path)
            self.say(f"warning: {path}: cannot be removed ({e.strerror}); the request is done")
