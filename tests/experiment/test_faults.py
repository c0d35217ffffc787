"""Writers that are killed, disks that fill up, files that are damaged: what was flushed is there and reads."""

from __future__ import annotations

import os
import random
import signal
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest

from bpkd_search import Leaderboard
from bpkd_search.errors import ExperimentError
from bpkd_search.experiment import recorder as recorder_module
from bpkd_search.experiment.events import EventLog, read_events
from bpkd_search.experiment.reading import DamagedFileWarning
from bpkd_search.experiment.recorder import Recorder
from bpkd_search.experiment.schema import SCHEMA_VERSION
from tests.experiments import SPACE, make

KINDS = {path: next(iter(rule)) for path, rule in SPACE.items()}


def fill(recorder: Recorder, number: int, epochs: int = 3) -> None:
    """One whole trial."""
    recorder.record(
        "ask",
        number,
        trial_id=f"e-{number}",
        method="bpkd",
        origin="sampled",
        point={},
        seed=0,
        config={"x": "y" * 200},
    )
    for epoch in range(1, epochs + 1):
        recorder.record("report", number, epoch=epoch, miou=0.1, gpu_seconds=1.0 * epoch, class_iou=[0.1] * 11)
    recorder.record("end", number, state="COMPLETE")


def child(work: Callable[[int], None]) -> tuple[int, int]:
    """A process that works and tells of it through a pipe; gives its id and the end to read."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        try:
            work(writer)
        finally:
            os._exit(0)
    os.close(writer)
    return pid, reader


@pytest.fixture
def small_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """So few rows a file that a short test fills several."""
    monkeypatch.setattr(recorder_module, "TRIALS_A_FILE", 4)
    monkeypatch.setattr(recorder_module, "REPORTS_A_FILE", 10)


@pytest.mark.parametrize("seed", range(12))
def test_a_killed_writer_leaves_tables_that_read_and_hold_every_flushed_row(
    tmp_path: Path, small_files: None, seed: int
) -> None:
    folder = make(tmp_path / "e", [])

    def work(tell: int) -> None:
        recorder = Recorder(folder, "e", KINDS, "0")
        for number in range(10_000):
            fill(recorder, number)
            recorder.flush()
            os.write(tell, b".")

    pid, reader = child(work)
    os.read(reader, 1)  # it works
    time.sleep(random.Random(seed).uniform(0, 0.3))
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    flushed = 1
    while told := os.read(reader, 65536):
        flushed += len(told)
    os.close(reader)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        board = Leaderboard(folder)
        whole = board.trials().query("state == 'COMPLETE'")
        assert set(whole["number"]) >= set(range(flushed))
        assert len(board.reports()) >= 3 * flushed
    assert pd.read_parquet(folder / "trials")["number"].nunique() >= flushed
    # A new writer goes on from the log, and clears away what the old one left half.
    recorder = Recorder(folder, "e", KINDS, "0")
    assert len(recorder.trials) - flushed in (0, 1)
    fill(recorder, len(recorder.trials))
    recorder.close()
    assert not [f for f in (folder / "trials").iterdir() if not f.name.endswith(".parquet")]
    assert not [f for f in (folder / "reports").iterdir() if not f.name.endswith(".parquet")]
    logged = [(e["number"], e["epoch"]) for e in read_events(folder) if e["event"] == "report"]
    assert Leaderboard(folder).reports()[["number", "epoch"]].to_numpy().tolist() == [list(key) for key in logged]


def test_what_a_writer_killed_before_the_rename_leaves_is_passed_over(tmp_path: Path) -> None:
    folder = make(tmp_path / "e", [{"curve": [0.1]}])

    def work(tell: int) -> None:
        recorder = Recorder(folder, "e", KINDS, "0")
        Path.replace = lambda self, target: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[method-assign,assignment]
        fill(recorder, 1)
        recorder.flush()

    pid, reader = child(work)
    os.close(reader)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    assert [f for f in (folder / "trials").iterdir() if f.name.endswith(".partial")]
    assert len(Leaderboard(folder).trials()) == len(pd.read_parquet(folder / "trials")) == 1
    Recorder(folder, "e", KINDS, "0").close()
    assert [f.name for f in (folder / "trials").iterdir()] == ["part-000000.parquet"]
    assert Leaderboard(folder).trials()["number"].tolist() == [0, 1]


def test_a_reader_beside_a_writer_never_sees_half_a_table(tmp_path: Path, small_files: None) -> None:
    folder = make(tmp_path / "e", [])

    def work(tell: int) -> None:
        recorder = Recorder(folder, "e", KINDS, "0")
        for number in range(60):
            fill(recorder, number)
            recorder.flush()

    pid, reader = child(work)
    os.close(reader)
    seen = [0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        while os.waitpid(pid, os.WNOHANG) == (0, 0):
            trials = Leaderboard(folder).trials()
            assert sorted(trials["number"]) == list(range(len(trials)))
            seen.append(len(trials))
    assert seen == sorted(seen)
    assert len(Leaderboard(folder).trials()) == 60


@pytest.mark.parametrize("table", ["trials", "reports"])
@pytest.mark.parametrize("kept", [0.0, 0.01, 0.3, 0.7, 0.99, "zeros"])
def test_a_damaged_part_is_named_and_passed_over_and_a_new_writer_mends_it(
    tmp_path: Path, small_files: None, table: str, kept: float | str
) -> None:
    folder = make(tmp_path / "e", [{"curve": [0.1, 0.2, 0.3]} for _ in range(10)])
    before = {"trials": Leaderboard(folder).trials(), "reports": Leaderboard(folder).reports()}
    path = folder / table / "part-000001.parquet"
    rows = pq.read_metadata(path).num_rows
    data = path.read_bytes()
    middle = len(data) // 2
    path.write_bytes(
        data[: int(kept * len(data))] if isinstance(kept, float) else data[:4] + bytes(middle) + data[4 + middle :]
    )
    board = Leaderboard(folder)
    with pytest.warns(DamagedFileWarning, match=f"{path}: is damaged and skipped") as said:
        left = getattr(board, table)()
    assert len(said) == 1
    assert len(left) == len(before[table]) - rows
    Recorder(folder, "exp", KINDS, "0").close()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pd.testing.assert_frame_equal(Leaderboard(folder).trials(), before["trials"])
        pd.testing.assert_frame_equal(Leaderboard(folder).reports(), before["reports"])


@pytest.mark.parametrize("room", [50, 333, 1000, 2048, 5000])
def test_a_full_disk_leaves_a_log_of_whole_events_that_goes_on(tmp_path: Path, room: int) -> None:
    import resource

    folder = make(tmp_path / "e", [])
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:  # a child that may write so many bytes a file, as on a disk that is about to be full
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
        log, code = EventLog(folder), 9
        for number in range(1000):
            try:
                log.append({"event": "ask", "number": number, "padding": "x" * (number % 90)})
            except ExperimentError as e:
                code = 7 if "free some space and resume" in str(e) else 8
                os.write(writer, number.to_bytes(4, "big"))
                break
        os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    taken = int.from_bytes(os.read(reader, 4), "big")
    assert [e["number"] for e in read_events(folder)] == list(range(taken))
    assert (folder / "events.jsonl").read_bytes()[-1:] in (b"\n", b"")
    log = EventLog(folder)
    log.append({"event": "ask", "number": taken})
    log.close()
    assert [e["number"] for e in read_events(folder)] == list(range(taken + 1))


def test_a_torn_line_longer_than_a_block_is_dropped(tmp_path: Path) -> None:
    whole = b'{"event":"ask","number":0}\n'
    (tmp_path / "events.jsonl").write_bytes(whole + b"x" * 200_000)
    EventLog(tmp_path).close()
    assert (tmp_path / "events.jsonl").read_bytes() == whole
    (tmp_path / "events.jsonl").write_bytes(b"x" * 200_000)
    EventLog(tmp_path).close()
    assert (tmp_path / "events.jsonl").read_bytes() == b""


def test_tables_of_an_older_version_read_on(tmp_path: Path) -> None:
    folder = make(tmp_path / "e", [{"curve": [0.1, 0.2]}])
    for table in ("trials", "reports"):
        path = folder / table / "part-000000.parquet"
        old = pq.read_table(path).drop_columns(["latency_ms"])
        meta = {**old.schema.metadata, b"bpkd_search.schema": b"1"}
        pq.write_table(old.replace_schema_metadata(meta), path)
    board = Leaderboard(folder)
    assert SCHEMA_VERSION > 1
    assert board.trials()["latency_ms"].isna().all()
    assert board.trials(["latency_ms"])["miou"].tolist() == [0.2]
    assert board.reports()["miou"].tolist() == [0.1, 0.2]


def test_ten_thousand_trials_make_fewer_than_fifty_files() -> None:
    trials, reports = 10_000, 500_000
    assert -(-trials // recorder_module.TRIALS_A_FILE) + -(-reports // recorder_module.REPORTS_A_FILE) < 50


def test_memory_holds_only_the_newest_reports(tmp_path: Path, small_files: None) -> None:
    folder = make(tmp_path / "e", [])
    recorder = Recorder(folder, "e", KINDS, "0")
    for number in range(9):
        fill(recorder, number)
    table = recorder._report_table
    assert len(table._waiting) + sum(map(len, table._kept)) == 27 % 10
    recorder.close()
    assert Leaderboard(folder).reports()["number"].tolist() == [n for n in range(9) for _ in range(3)]
