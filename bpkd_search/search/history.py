"""The Optuna studies of an experiment folder as the event log tells them: one, or one for each method.

The log is the truth. Studies whose journal is missing, damaged or differs from the log are rebuilt from the log.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from bpkd_search.config.models import SearchConfig
from bpkd_search.config.points import Point
from bpkd_search.errors import ExperimentError, FullDiskError
from bpkd_search.experiment.paths import STUDY
from bpkd_search.files import with_room
from bpkd_search.search.study import Study, frozen_state


class _Journal(JournalFileBackend):
    """A journal whose lines are whole, also where the disk fills up, and which waits for room as other files do."""

    def __init__(self, path: Path) -> None:
        with_room(path.parent, lambda: super(_Journal, self).__init__(str(path)))
        self._journal = path

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Append lines, all or none."""
        with_room(self._journal.parent, lambda: self._append(logs), 1024 * len(logs))

    def _append(self, logs: list[dict[str, Any]]) -> None:
        size = self._journal.stat().st_size
        try:
            super().append_logs(logs)
        except OSError:
            os.truncate(self._journal, size)
            raise


def journal(directory: Path) -> BaseStorage:
    """The storage of the studies in an experiment folder, which `optuna-dashboard` and `optuna.load_study` open."""
    return JournalStorage(_Journal(directory / STUDY))


class History:
    """Stands in for a `Study` while the log is read: keeps, in order, what the study was told."""

    def __init__(self) -> None:
        self._asked: dict[int, tuple[Point, bool]] = {}
        self._calls: list[tuple[str, tuple[Any, ...]]] = []

    def asked(self, number: int, point: Point, given: bool) -> None:
        """Trial `number` got `point`; `given` where it is not the sampler's own."""
        self._asked[number] = point, given
        self._calls.append(("ask", (number, point if given else None)))

    def ask(self, number: int, fixed: Point) -> None:
        """As `Study.ask` with a point."""
        self.asked(number, fixed, True)

    def report(self, *arguments: Any) -> None:
        """As `Study.report`."""
        self._calls.append(("report", arguments))

    def tell(self, *arguments: Any) -> None:
        """As `Study.tell`."""
        self._calls.append(("tell", arguments))

    def learn(self, found: Sequence[Mapping[str, Any]]) -> None:
        """As `Study.learn`."""
        self._calls.append(("learn", (found,)))

    @property
    def is_empty(self) -> bool:
        """Whether the log tells nothing."""
        return not self._calls

    def catch_up(self, study: Study) -> None:
        """Tell a study in a storage of the user's own what it has not been told yet; what it has is kept."""
        for name, arguments in self._calls:
            if name != "ask":
                getattr(study, name)(*arguments)

    def difference(self, trials: Sequence[FrozenTrial]) -> str | None:
        """What contradicts the log in a study; what the study has not been told yet is no contradiction."""
        told, reports = dict[int, tuple[Any, ...]](), dict[int, dict[int, float]]()
        expected: list[tuple[Any, Point]] = []
        # The place of each trial in the study; one that is run again has a new one.
        places: dict[int, int] = {}
        for name, (first, *rest) in self._calls:
            if name == "ask":
                places[first] = len(expected)
                expected.append((first, self._asked[first][0]))
            elif name == "learn":
                expected += [(trial["source"], trial["point"]) for trial in first]
            elif (place := places.get(first)) is None:
                continue
            elif name == "tell":
                told.setdefault(place, tuple(rest))
            else:
                epoch, values = rest
                reports.setdefault(place, {}).setdefault(epoch, values[0])
        found = [(t.user_attrs.get("warm_start", t.user_attrs.get("number")), t.params) for t in trials]
        if len(found) < len(expected) and all(_same(*pair) for pair in zip(found, expected, strict=False)):
            return "lacks trials that the event log has"
        if len(found) > len(expected) and all(_same(*pair) for pair in zip(found, expected, strict=False)):
            return "has trials that the event log lacks"
        if not all(_same(*pair) for pair in zip(found, expected, strict=True)):
            return "has other trials than the event log"
        for place, trial in enumerate(trials):
            number = trial.user_attrs.get("number")
            if number is None:
                continue
            if trial.state.is_finished() and (place not in told or _outcome(trial) != frozen_state(*told[place][:2])):
                return f"has another end of trial {number} than the event log"
            if not trial.intermediate_values.items() <= reports.get(place, {}).items():
                return f"has other reports of trial {number} than the event log"
        return None

    def repeat(self, study: Study, force: bool = False) -> bool:
        """Make every call again; whether all proposals are those of the log. `force` gives the log's points."""
        for name, arguments in self._calls:
            if name != "ask":
                getattr(study, name)(*arguments)
                continue
            number, fixed = arguments
            point = self._asked[number][0]
            if study.ask(number, point if force else fixed) != point:
                return force
        return True


def open_studies(directory: Path, told: Sequence[tuple[History, SearchConfig]]) -> tuple[list[Study], str | None]:
    """The studies in the journal of an experiment folder, in the state that the log says, by what they were told.

    A journal that differs from the log is renamed and a new one is made; a line then says so. The new studies
    propose what the old ones would have proposed. Raises `ExperimentError` if the journal cannot be read.
    """
    path, note = directory / STUDY, None
    studies, fault = _read(path, told)
    if studies is None:
        note = f"{path}: {fault}; rebuilt from the event log"
        if path.exists():
            note += f", the old file is now {set_aside(path).name}"
        studies = _in_journal(directory, [config for _, config in told])
        if not all([history.repeat(study) for (history, _), study in zip(told, studies, strict=True)]):
            # The sampler proposes something else now, as another version of it does: the log's points count.
            path.unlink()
            studies = _in_journal(directory, [config for _, config in told])
            for (history, _), study in zip(told, studies, strict=True):
                history.repeat(study, force=True)
    return studies, note


def _read(path: Path, told: Sequence[tuple[History, SearchConfig]]) -> tuple[list[Study] | None, str]:
    """The studies of a journal that agrees with the log, else what is wrong with it."""
    if not path.exists():
        if all(history.is_empty for history, _ in told):
            return _in_journal(path.parent, [config for _, config in told]), ""
        return None, "is missing"
    try:
        with path.open("rb") as file:
            # Optuna passes over such a line and glues the next one to it, which no later session can read.
            if file.seek(0, os.SEEK_END) and file.seek(-1, os.SEEK_END) >= 0 and file.read(1) != b"\n":
                return None, "ends in the middle of a line"
        studies = _in_journal(path.parent, [config for _, config in told], keep_open=True)
    except FullDiskError:
        raise
    except OSError as e:
        raise ExperimentError(f"{path}: cannot be read ({e.strerror})") from e
    except Exception:  # whatever Optuna raises for lines that are none of its own
        return None, "is damaged"
    for (history, _), study in zip(told, studies, strict=True):
        if fault := history.difference(study.study.get_trials(deepcopy=False)):
            return None, fault
    for (history, _), study in zip(told, studies, strict=True):
        history.catch_up(study)
    return studies, ""


def new_studies(directory: Path, configs: Sequence[SearchConfig], storage: BaseStorage | None = None) -> list[Study]:
    """Empty studies in the place of those of another space, which are kept: their journal, or in `storage` their names.

    Optuna knows no study whose choices change.
    """
    if storage is None:
        if (path := directory / STUDY).exists():
            set_aside(path)
        return _in_journal(directory, configs)
    for config in configs:
        known = optuna.study.get_all_study_names(storage)
        kept = next(name for i in count(1) if (name := f"{config.name}.old-{i}") not in known)
        optuna.copy_study(from_study_name=config.name, from_storage=storage, to_storage=storage, to_study_name=kept)
        optuna.delete_study(study_name=config.name, storage=storage)
    return [Study(storage, config) for config in configs]


def _in_journal(directory: Path, configs: Sequence[SearchConfig], keep_open: bool = False) -> list[Study]:
    """The studies of the journal of an experiment folder; those that it does not have are new."""
    storage = journal(directory)
    return [Study(storage, config, keep_open) for config in configs]


def set_aside(path: Path) -> Path:
    """Rename a file to the first free `NAME.old-1`, `NAME.old-2`, ...; gives the new path."""
    new = next(new for i in count(1) if not (new := path.with_name(f"{path.name}.old-{i}")).exists())
    return path.rename(new)


def _same(found: tuple[Any, Point], expected: tuple[Any, Point]) -> bool:
    # Where rounding carried a proposal past an end of its range, the log has the end.
    return (
        found[0] == expected[0]
        and found[1].keys() == expected[1].keys()
        and all(
            value == found[1][path] or (isinstance(value, float) and abs(value - found[1][path]) <= 1e-12 * abs(value))
            for path, value in expected[1].items()
        )
    )


def _outcome(trial: FrozenTrial) -> tuple[TrialState, list[float] | None]:
    # Optuna gives a trial that was stopped early its last report as a value.
    return trial.state, trial.values if trial.state == TrialState.COMPLETE else None
