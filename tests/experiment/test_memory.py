"""The folder of a memory: whole files only, whatever happens at the same time, and refusals in one sentence."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pytest

from bpkd_search.errors import ExperimentError
from bpkd_search.experiment.memory import Memory
from bpkd_search.experiment.schema import memory_schema

ABOUT = {"name": "a", "date": "2026-11-28T00:00:00+00:00", "version": "1", "goals": {"miou": "max"},
         "space": {"loss.edge_weight": {}}, "data": "d", "networks": "n", "contents": {}}  # fmt: skip
WRITER = """
import sys
from bpkd_search.experiment.memory import Memory
from tests.experiment.test_memory import ABOUT, table
memory, file = Memory(sys.argv[1]), sys.argv[2]
memory.put(file, table(1), ABOUT)
print("begun", flush=True)
rows = 1
while True:
    rows = rows % 5000 + 1000
    memory.put(file, table(rows), {**ABOUT, "version": str(rows)})
"""


def table(rows: int) -> pa.Table:
    columns = [{"number": n, "state": "COMPLETE", "miou": n / rows, "config": "{}"} for n in range(rows)]
    return pa.Table.from_pylist(columns, schema=memory_schema({"loss.edge_weight": "float"}))


@pytest.mark.parametrize("url", [False, True])
def test_searches_that_end_at_once_and_kills_leave_whole_files(tmp_path: Path, url: bool) -> None:
    where = tmp_path / "memory"
    place = where.as_uri() if url else str(where)
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, place, name], stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]
        )
        for name in ("same", "same", "other")
    ]
    try:
        for writer in writers:
            assert writer.stdout is not None and writer.stdout.readline() == b"begun\n"
        seen = set()
        until = time.monotonic() + 1.5
        while time.monotonic() < until:
            found, faults = Memory(place).searches()
            assert not faults
            for past in found:
                assert past.table.num_rows == (1 if past.version == "1" else int(past.version))
            seen |= {(past.file, past.version) for past in found}
        assert {file for file, _ in seen} == {"same", "other"} and len(seen) > 4
    finally:
        for writer in writers:
            writer.send_signal(signal.SIGKILL)
            writer.wait()
    found, faults = Memory(place).searches()
    assert [past.file for past in found] == ["other", "same"] and not faults


def test_a_memory_is_made_and_keeps_nothing_but_tables(tmp_path: Path) -> None:
    memory = Memory(tmp_path / "a" / "b")
    assert memory.searches() == ([], [])
    memory.make()
    assert list((tmp_path / "a" / "b").iterdir()) == []
    assert memory.put("x", table(3), ABOUT) == f"{tmp_path / 'a' / 'b'}/x.parquet"
    ((past,), faults) = memory.searches()
    assert (past.file, past.name, past.table.num_rows, past.best(), faults) == ("x", "a", 3, 2 / 3, [])


def test_a_place_that_cannot_be_written_to_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for where in (tmp_path / "file", tmp_path / "file" / "below", (tmp_path / "file" / "below").as_uri(), "/proc/no"):
        with pytest.raises(ExperimentError, match="cannot be written to") as caught:
            Memory(where).make()
        assert caught.value.exit_code == 2 and len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("url", ["nowhere://bucket/memory", "file:///"])
def test_a_url_that_cannot_be_opened_is_refused(url: str) -> None:
    with pytest.raises(ExperimentError, match="cannot be opened"):
        Memory(url)


def test_a_message_shows_no_credentials() -> None:
    with pytest.raises(ExperimentError, match="cannot be opened") as caught:
        Memory("file://someone:secret@/memory")
    assert "secret" not in str(caught.value) and "file:///memory" in str(caught.value)
