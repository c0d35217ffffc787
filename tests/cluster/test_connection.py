"""Which Ray a command works on, beside a real one of another's on the same machine."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from bpkd_search.cluster.interruption import Interrupted, continuation

CONNECT = """
import sys
from bpkd_search.cluster.connection import connect_ray
with connect_ray(sys.argv[1] or None, False) as nodes:
    print(*[f"{node.id} {node.cpus:g}" for node in nodes])
"""


def free_port() -> int:
    with socket.socket() as open_socket:
        open_socket.bind(("127.0.0.1", 0))
        return int(open_socket.getsockname()[1])


def connect(address: str, **env: str) -> str:
    """Id and CPUs of the only node."""
    done = subprocess.run(
        [sys.executable, "-c", CONNECT, address],
        env={**os.environ, **env}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="module")
def another_ray() -> Iterator[str]:
    """The address of a Ray that somebody has started by `ray start`, the one that `auto` finds."""
    pytest.importorskip("ray")
    port, folder = free_port(), Path(tempfile.mkdtemp(prefix="rt", dir="/tmp"))
    ray = Path(sys.executable).parent / "ray"
    start = [ray, "start", "--head", "--block", f"--port={port}", "--num-cpus=7", "--include-dashboard=false"]
    start += ["--node-ip-address=127.0.0.1", "--disable-usage-stats", f"--ray-client-server-port={free_port()}"]
    with pytest.MonkeyPatch.context() as patch, (folder / "log").open("w") as log:
        # A token of the test's own: whether Ray wants one depends on the machine otherwise.
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
        head = subprocess.Popen([*map(str, start), f"--temp-dir={folder}"], stdout=log, stderr=log)
        try:
            for _ in range(600):
                if "Ray runtime started" in (folder / "log").read_text() or head.poll() is not None:
                    break
                time.sleep(0.1)
            assert head.poll() is None, (folder / "log").read_text()
            yield f"127.0.0.1:{port}"
        finally:
            processes = [psutil.Process(head.pid), *psutil.Process(head.pid).children(recursive=True)]
            for process in processes:
                process.kill()
            psutil.wait_procs(processes, timeout=20)
    shutil.rmtree(folder, ignore_errors=True)


def test_a_local_search_has_its_own_ray_whatever_else_runs(another_ray: str) -> None:
    with ThreadPoolExecutor() as pool:
        # Both what `auto` finds and what the environment names.
        asked = [pool.submit(connect, another_ray), pool.submit(connect, "", RAY_ADDRESS=another_ray)]
        theirs, ours = (each.result() for each in asked)
    assert theirs.endswith(" 7") and ours.split()[0] != theirs.split()[0]


def test_the_line_that_continues_a_search_names_its_cluster() -> None:
    assert continuation("resume runs/a", None) == "resume runs/a"
    assert continuation("resume runs/a", "ray://head:10001") == "resume runs/a --address ray://head:10001"
    stopped = Interrupted(continuation("confirm runs/a", "auto"))
    assert str(stopped) == "stopped; continue with: bpkd-search confirm runs/a --address auto"
