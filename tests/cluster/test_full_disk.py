"""A search on a small disk that fills up: it stops or waits, and no trial fails for it."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from bpkd_search import Leaderboard

PATIENCE = 240


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 70 MiB, or a skip where none can be mounted."""
    path = tmp_path / "disk"
    path.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=70m", "tmpfs", str(path)], capture_output=True)
    if done.returncode:
        pytest.skip("needs the right to mount a tmpfs")
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


def fill(disk: Path) -> Path:
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (2**20, 1):
            try:
                while True:
                    file.write(b"\0" * size)
            except OSError:
                pass
    return filler


def wait_for(ready: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not ready():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.long
def test_a_search_on_a_full_disk_stops_cleanly_waits_and_fails_no_trial(
    tiny: dict[str, Any], tmp_path: Path, small_disk: Path
) -> None:
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(tiny))
    out, said = small_disk / "out", tmp_path / "said"

    def start(*arguments: str | Path) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "bpkd_search", *map(str, arguments)]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=said.open("wb"))

    log = out / "events.jsonl"
    first = start("run", tmp_path / "tiny.yaml", "--out", out, "--no-wait")
    wait_for(lambda: log.exists() and b'"event":"report"' in log.read_bytes(), first)
    filler = fill(small_disk)
    assert first.wait(PATIENCE) == 2
    message = said.read_text()
    assert f"error: {out}" in message and "the disk is full (" in message
    assert f"then continue with: bpkd-search resume {out}" in message
    assert "Traceback" not in message
    logged = log.read_bytes()
    assert logged.endswith(b"\n")
    second = start("resume", out)
    wait_for(lambda: b"waiting until there is room" in said.read_bytes(), second)
    time.sleep(5)
    filler.unlink()
    assert second.wait(PATIENCE) == 0
    message = said.read_text()
    assert message.count("waiting until there is room") == message.count("there is room on the disk again") == 1
    assert "Traceback" not in message
    assert log.read_bytes().startswith(logged)
    assert set(Leaderboard(out).trials()["state"]) <= {"COMPLETE", "PRUNED"}
