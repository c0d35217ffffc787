"""Requests from other terminals and nodes, as the driver takes them from the experiment folder."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from bpkd_search.errors import UserError
from bpkd_search.experiment.events import read_events
from bpkd_search.experiment.requests import keep_changes, waiting
from bpkd_search.search.engine import Engine
from bpkd_search.search.requests import Pause, answer, change_of, effect, parse, states_of_engine
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
        text = path.read_bytes()
        try:
            request = parse(text)
        except ValueError as e:
            kept = path.with_name(f"{path.name}.invalid")
            path.rename(kept)
            raise UserError(f"{kept}: {e}") from e
        if beginning and isinstance(request, Pause):
            raise UserError("pause: the search has been resumed since")
        engine = self.engine
        event = effect(request, engine.config, states_of_engine(engine), engine.plan.tried)
        if (config := change_of(event, engine.config)) is not None:
            check_networks(config)
        said = answer(event, engine)
        self._log(path.stem, request=request.model_dump(mode="json"), answer=said, **event)
        self.say(f"request: {said}")
        if event.get("changes"):
            keep_changes(self.directory, event["changes"])

    def _log(self, name: str, **event: object) -> None:
        self.engine.request({"id": name, **event})

    def _remove(self, path: Path) -> None:
        try:
            path.unlink(missing_ok=True)
        except OSError as e:
            self._unreadable.add(path)
            self.say(f"warning: {path}: cannot be removed ({e.strerror}); the request is done")
