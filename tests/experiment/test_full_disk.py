"""Disks that are full at some byte of some file: the search pauses or stops, and then nothing is lost."""

from __future__ import annotations

import builtins
import errno
import io
import json
import pathlib
import random
from collections.abc import Iterator
from contextlib import closing
from copy import deepcopy
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from bpkd_search import Leaderboard, files
from bpkd_search.config import SearchConfig
from bpkd_search.config.load import parse
from bpkd_search.errors import FullDiskError
from bpkd_search.experiment import folder as experiment
from bpkd_search.experiment.events import read_events
from bpkd_search.files import pause, pausing, with_room, write_bytes
from bpkd_search.search.engine import Engine
from tests.driving import drive

UNLIKE = [
    *("time", "started", "ended", "gpu_seconds", "calibrated_seconds", "wall_seconds", "images_per_second"),
    *("latency_ms", "trial_id"),
]
FAST = ("config.yaml", "experiment.json", "events.jsonl", "study.journal", "trials", "reports")


class SmallDisk:
    """Takes no byte beyond `byte` of a file whose path holds `name`, until there is room; counts its refusals."""

    def __init__(self) -> None:
        self.name: str | None = None
        self.byte = self.refused = 0
        self._open = io.open

    def fill(self, name: str, byte: int) -> None:
        self.name, self.byte, self.refused = name, byte, 0

    def make_room(self, line: str = "") -> None:
        self.name = None

    def open(self, file: Any, mode: str = "r", buffering: int = -1, *rest: Any, **more: Any) -> Any:
        if self.name is None or "b" not in mode or not set(mode) & set("wax+") or self.name not in str(file):
            return self._open(file, mode, buffering, *rest, **more)
        raw = _File(self, file, mode.replace("b", ""))
        return raw if buffering == 0 else io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)


class _File(io.FileIO):
    def __init__(self, disk: SmallDisk, file: Any, mode: str) -> None:
        super().__init__(file, mode)
        self.disk = disk

    def write(self, data: Any) -> int:
        data = memoryview(data).cast("B")
        room = len(data) if self.disk.name is None else max(0, self.disk.byte - self.tell())
        if room == 0 and len(data):
            self.disk.refused += 1
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(data[:room])


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[SmallDisk]:
    small = SmallDisk()
    monkeypatch.setattr(io, "open", small.open)
    accessor = getattr(pathlib, "_NormalAccessor", None)  # what `Path.open` calls before Python 3.11
    if accessor is not None:
        monkeypatch.setattr(accessor, "open", staticmethod(small.open))
    monkeypatch.setattr(builtins, "open", small.open)
    monkeypatch.setattr(files, "RETRY_SECONDS", 0.01)
    monkeypatch.setattr(files.Pause.full, "__defaults__", (0.01,))
    yield small
    small.make_room()


def config_of(tiny: dict[str, Any], cache: Path, **search: Any) -> SearchConfig:
    tree = deepcopy(tiny)
    tree["data"]["views_dir"] = str(cache)
    tree["search"] |= {"trials": 4, "sampler": {"name": "tpe", "startup": 2}, **search}
    return parse(SearchConfig, tree, "test")


def open_engine(folder: Path, config: SearchConfig) -> Engine:
    if not (folder / "config.yaml").exists():
        experiment.create(folder, config)
    return Engine(config, folder, "test")


def search_on_curves(folder: Path, config: SearchConfig) -> None:
    """A session of a search with made-up learning curves: all files of a search but those of networks."""
    engine = open_engine(folder, config)
    with closing(engine.recorder):
        experiment.note(folder, class_names=["road", "car"])
        drive(engine, slots=1)
    assert engine.done


def search_in_earnest(folder: Path, config: SearchConfig) -> None:
    """A session of a search that trains: views, teacher, logits, checkpoints and students, in this process."""
    from bpkd_search.cluster.trial import DistillationTrial, TrialTask
    from bpkd_search.training.prepare import prepare

    engine = open_engine(folder, config)
    with closing(engine.recorder):
        prepared = with_room(folder, lambda: prepare(config.run(), lambda line: None))
        task = TrialTask(str(folder), prepared, threads=1)
        while (trial := engine.ask()) is not None:
            actor, running = DistillationTrial(config=task.values_for(trial)), True
            while running:
                result = actor.step()
                if "full" in result:
                    pause().full(result["full"], 0)
                    continue
                assert "failure" not in result, result
                running = engine.report(trial.number, json.loads(result["report"]))
                running = running and not result["done"]
            engine.end(trial.number)
    assert engine.done


def results(folder: Path) -> list[Any]:
    """Everything that a search found, but times."""
    board = Leaderboard(folder)
    tables = [board.trials().sort_values("number"), board.reports()]
    events = [{k: v for k, v in event.items() if k not in UNLIKE} for event in read_events(folder)]
    return [
        *(table.drop(columns=UNLIKE, errors="ignore").reset_index(drop=True) for table in tables),
        [event for event in events if event["event"] != "session"],
    ]


def assert_same(folder: Path, whole: Path) -> None:
    for one, other in zip(results(folder), results(whole), strict=True):
        if isinstance(one, pd.DataFrame):
            pd.testing.assert_frame_equal(one, other)
        else:
            assert one == other
    assert not list(folder.rglob("*.partial"))


def fault_and_resume(session: Any, folder: Path, config: SearchConfig, disk: SmallDisk, wait: bool) -> list[str]:
    """Run on the full disk; with `wait` room comes during the pause, else before the next session. Gives its lines."""
    lines: list[str] = []

    def say(line: str) -> None:
        lines.append(line)
        disk.make_room()

    if wait:
        with pausing(say):
            session(folder, config)
        return lines
    try:
        session(folder, config)
    except FullDiskError as e:
        lines.append(str(e))
    disk.make_room()
    session(folder, config)
    return lines


def largest(folder: Path, name: str) -> int:
    return max(
        path.stat().st_size for path in folder.rglob("*") if path.is_file() and name in str(path)[len(str(folder)) :]
    )


def check(
    session: Any, tmp_path: Path, config: SearchConfig, disk: SmallDisk, name: str, byte: int, wait: bool
) -> None:
    folder = tmp_path / f"e-{byte}-{wait}"  # matches the name of no file
    disk.fill(name, byte)
    lines = fault_and_resume(session, folder, config, disk, wait)
    assert disk.refused
    assert lines[0].startswith(str(tmp_path)) and "the disk is full (" in lines[0] and " needed, " in lines[0]
    assert len(lines) == 1 + wait
    assert_same(folder, tmp_path / "whole")
    # A session that stopped may have asked for a trial that is in no log, and its study is rebuilt.
    assert not (wait and list(folder.glob("*.old-*")))


@pytest.mark.parametrize("wait", [True, False])
@pytest.mark.parametrize("name", FAST)
def test_a_search_on_a_full_disk_pauses_or_stops_and_loses_nothing(
    tiny: dict[str, Any], tmp_path: Path, disk: SmallDisk, name: str, wait: bool
) -> None:
    config = config_of(tiny, tmp_path / "cache")
    search_on_curves(tmp_path / "whole", config)
    byte = random.Random(f"{name}{wait}").randrange(largest(tmp_path / "whole", name))
    check(search_on_curves, tmp_path, config, disk, name, byte, wait)


@pytest.mark.long
@pytest.mark.parametrize("name", FAST)
def test_forty_bytes_of_every_file_of_a_search(
    tiny: dict[str, Any], tmp_path: Path, disk: SmallDisk, name: str
) -> None:
    config = config_of(tiny, tmp_path / "cache")
    search_on_curves(tmp_path / "whole", config)
    size = largest(tmp_path / "whole", name)
    rng = random.Random(name)
    for count in range(40):
        check(search_on_curves, tmp_path, config, disk, name, rng.randrange(size), wait=count % 2 == 0)


@pytest.fixture
def short_search(tiny: dict[str, Any], tmp_path: Path) -> Any:
    """Configurations with caches of their own, of a search that trains for two epochs."""
    tiny["teacher"]["train"]["epochs"] = 1
    tiny["train"]["epochs"] = 2
    tiny["data"]["synthetic"] |= {"train_images": 4, "val_images": 2}
    return lambda name: config_of(tiny, tmp_path / f"cache-{name}", trials=1)


NETWORKS = ("checkpoints", "students", ".checkpoint.pt", "teachers/", "chunks.json", "manifest.json", ".npy")


def check_in_earnest(tmp_path: Path, short_search: Any, disk: SmallDisk, picks: list[tuple[str, float, bool]]) -> None:
    search_in_earnest(tmp_path / "whole", short_search("whole"))
    for count, (name, share, wait) in enumerate(picks):
        searched, made = tmp_path / "whole", tmp_path / "cache-whole"
        where = searched if name in ("checkpoints", "students") else made
        size = largest(where, "teachers/" if name == ".checkpoint.pt" else name)
        disk.fill(name, int(share * size))
        lines = fault_and_resume(search_in_earnest, tmp_path / f"e{count}", short_search(str(count)), disk, wait)
        assert disk.refused, (name, share)
        assert "the disk is full (" in lines[0]
        frames = zip(results(tmp_path / f"e{count}")[:2], results(searched)[:2], strict=True)
        for one, other in frames:
            pd.testing.assert_frame_equal(
                one.drop(columns="config", errors="ignore"), other.drop(columns="config", errors="ignore")
            )
        assert not [path for path in tmp_path.rglob("*.partial")]


@pytest.mark.parametrize("name", ["checkpoints", ".npy"])
def test_training_on_a_full_disk_waits_and_fails_no_trial(
    short_search: Any, tmp_path: Path, disk: SmallDisk, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr("bpkd_search.cluster.trial.RETRY_SECONDS", 0.01)
    check_in_earnest(tmp_path, short_search, disk, [(name, 0.5, True)])


@pytest.mark.long
def test_forty_bytes_of_the_files_of_networks_and_views(
    short_search: Any, tmp_path: Path, disk: SmallDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bpkd_search.cluster.trial.RETRY_SECONDS", 0.01)
    rng = random.Random(0)
    picks = [(NETWORKS[n % len(NETWORKS)], rng.random() * 0.98, n % 2 == 0) for n in range(40)]
    check_in_earnest(tmp_path, short_search, disk, picks)


class _Clock:
    """The time of `files`, set by hand."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now


def test_a_pause_is_announced_once_whoever_else_reports_it_or_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, lines = _Clock(), list[str]()
    monkeypatch.setattr(files, "time", clock)
    with pausing(lines.append):
        pause().full("/disk: the disk is full", seconds=0)
        clock.now += 1
        pause().over()  # another trial had room for its small report
        with_room(Path(), lambda: None)  # and so had this process
        clock.now += 1
        pause().full("/disk: the disk is full", seconds=0)
        assert lines == ["/disk: the disk is full; waiting until there is room"]
        clock.now += files.SETTLED_SECONDS
        pause().over()
        assert lines[1:] == ["there is room on the disk again"]
        clock.now += 1
        pause().full("/disk: the disk is full", seconds=0)  # reported before the room, heard after it
        assert len(lines) == 2
        clock.now += files.SETTLED_SECONDS
        pause().full("/disk: the disk is full", seconds=0)  # full once more
        assert len(lines) == 3
    assert lines[2:] == [lines[0], lines[1]]


def test_other_errors_are_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pausing(print), pytest.raises(OSError, match=r"Not a directory|File exists"):
        write_bytes(tmp_path / "file" / "x", b"1")
