"""What a search was begun with, and what has changed since: a resumed search must read what it read before.

`experiment.json` holds the configuration and the contents (`training.fingerprints`) of the last session, and every
change that the user has accepted. A change is refused before anything is built or trained.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from bpkd_search.config import RunConfig, SearchConfig
from bpkd_search.config.paths import find, leaves, set_path
from bpkd_search.config.points import to_tree
from bpkd_search.errors import CheckpointError, ConfigError, DataError, ExperimentError
from bpkd_search.experiment.events import read_events
from bpkd_search.experiment.folder import note, noted

# What changes no trial's result: names and amounts, places (contents are compared instead), and outputs.
MAY_CHANGE = (
    "name",
    "logging",
    "provenance",
    "data.root",
    "data.views_dir",
    "data.views_store",
    "data.local_dir",
    "data.images",
    "data.test_split",
    "teacher.checkpoint",
    "teacher.weights",
    "teacher.train.device",
    "student.weights",
    "train.device",
    "search.trials",
    "search.budget",
    "search.warm_start",
    "search.memory",
    "search.resources",
    "search.concurrent",
    "search.on_end",
)


@dataclass(frozen=True)
class Content:
    """A content by its hash or description, None if it is missing; `place` is where it was found, for messages."""

    value: str | None
    place: str = ""


class Origin:
    """The recorded configuration and contents of a search, in `directory`.

    `again` is the command that continues it; with `accept`, changes are accepted and recorded instead of refused.
    """

    def __init__(self, directory: Path, config: SearchConfig, again: str, accept: bool) -> None:
        self.directory, self._config, self._again, self._accept = directory, config, again, accept
        self._noted = noted(directory)
        self._then: dict[str, Any] = self._noted.get("fingerprints") or {}
        self._now: dict[str, Content] = {}
        self._accepted: list[str] = []

    def check_configuration(self) -> None:
        """Compare the configuration with the recorded one. Raises `ExperimentError` that names every changed key."""
        then = self._then.get("configuration")
        self._judge(configuration_changes(then, self._config) if then is not None else [])

    def check_contents(self, now: Mapping[str, Content], say: Callable[[str], None]) -> None:
        """Compare the contents with the recorded ones. Raises `ExperimentError` that names every changed one.

        `say` gets a line for each accepted change, and one if nothing is recorded.
        """
        self._now = dict(now)
        self._judge(content_changes(self._then.get("contents", {}), now))
        for change in self._accepted:
            say(f"accepted: {change}")
        if not self._then and next(read_events(self.directory), None) is not None:
            say(f"{self.directory}: was begun by an older version; what it reads is recorded from now on")

    @contextmanager
    def explaining(self) -> Iterator[None]:
        """Errors of modules and relative paths that are not found say where the search was started, if not here."""
        run, began = self._config, self._noted.get("working_directory")
        places = (run.data.root, run.teacher.checkpoint, run.teacher.weights, run.student.weights)
        relative = any(place is not None and not place.expanduser().is_absolute() for place in places)
        try:
            yield
        except (CheckpointError, ConfigError, DataError) as e:
            said = str(e).lower()
            if began in (None, os.getcwd()) or not ("no module" in said or (relative and "no such" in said)):
                raise
            raise ExperimentError(f"{e}\n  the search was started in {began}; continue it there") from e

    def go_on_with(self, config: SearchConfig) -> None:
        """Take the configuration that requests have made of the checked one for what is recorded."""
        self._config = config

    def record(self, **made: Content) -> None:
        """Write down the configuration, the contents and the accepted changes with the time.

        `made` are contents that were missing when the others were checked.
        """
        accepted = list(self._noted.get("accepted", []))
        if self._accepted:
            time = datetime.now(timezone.utc).isoformat(timespec="seconds")
            accepted.append({"time": time, "changes": self._accepted})
        contents = {name: content.value for name, content in {**self._now, **made}.items()}
        fingerprints = {"configuration": to_tree(self._config), "contents": contents}
        note(self.directory, fingerprints=fingerprints, **({"accepted": accepted} if accepted else {}))

    def _judge(self, changes: list[str]) -> None:
        if changes and not self._accept:
            lines = "\n".join(f"  {change}" for change in changes)
            raise ExperimentError(
                f"{self.directory}: has changed since the search began\n{lines}\n"
                f"undo that, or continue all the same with: bpkd-search {self._again} --accept-changes"
            )
        self._accepted += changes


def configuration_changes(then: Mapping[str, Any], now: SearchConfig) -> list[str]:
    """Return a line for each key that differs between a recorded configuration and this one and may not."""
    try:  # fields that were added since get their defaults
        old = dict(leaves(to_tree(SearchConfig.model_validate(then))))
    except ValidationError:
        old = dict(leaves(then))
    new = dict(leaves(to_tree(now)))
    return [
        f"{path}: was {_shown(old, path)}, is {_shown(new, path)}"
        for path in dict.fromkeys([*old, *new])
        if _shown(old, path) != _shown(new, path) and not _may_change(path)
    ]


def content_changes(then: Mapping[str, str | None], now: Mapping[str, Content]) -> list[str]:
    """Return a line for each content that differs from the recorded one."""
    changes = []
    for name, content in now.items():
        before = then.get(name)
        if before is not None and content.value != before:
            place = f" ({content.place})" if content.place else ""
            is_now = f"is {content.value}" if content.value is not None else "is missing and would be made anew"
            changes.append(f"{name}{place}: was {before}, {is_now}")
    return changes


def at_its_place(logged: Mapping[str, Any], base: RunConfig, searched: Container[str]) -> RunConfig:
    """Return a logged run with this session's values of the keys that may change, unless they are searched."""
    tree, now = deepcopy(dict(logged)), to_tree(base)
    for path in MAY_CHANGE:
        if path not in searched and path.split(".")[0] in now and path != "provenance":
            set_path(tree, path, find(now, path))
    return RunConfig.model_validate(tree)


def _shown(tree: Mapping[str, Any], path: str) -> str:
    return str(tree[path]) if path in tree else "absent"


def _may_change(path: str) -> bool:
    return any(path == key or path.startswith(f"{key}.") for key in MAY_CHANGE)
