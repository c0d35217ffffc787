"""Ray nodes on one machine that share no more than its network: each is a `ray start` with folders of its own."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import psutil

STORE_BYTES = 100 * 2**20
PATIENCE = 180.0


class Nodes:
    """A head without CPUs and workers of one CPU each, started as the documentation of clusters says.

    `environment` is that of the nodes and for the driver. In the environment of a worker, `NODE_DIR` is a folder of
    its own. Use it as a context: at its end, every process is killed and the folders are removed.
    """

    def __init__(self, workers: int, environment: dict[str, str]) -> None:
        token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_USAGE_STATS_ENABLED": "0"}
        self.environment = os.environ | environment | token
        self.environment.pop("RAY_ADDRESS", None)
        self.address = f"127.0.0.1:{_free_port()}"
        # Short, because Ray's sockets are in it.
        self.folder = Path(tempfile.mkdtemp(prefix="soak-", dir="/tmp"))
        self.head: subprocess.Popen[bytes] | None = None
        self.workers: list[subprocess.Popen[bytes]] = []
        self._started, self._number = list[psutil.Process](), workers

    def __enter__(self) -> Nodes:
        host, port = self.address.split(":")
        self.head = self._start("head", "--head", f"--node-ip-address={host}", f"--port={port}", "--num-cpus=0",
                                "--include-dashboard=false")  # fmt: skip
        try:
            self._wait()
            for _ in range(self._number):
                self.add()
            for worker in self.workers:
                wait_for("a raylet", lambda worker=worker: raylet(worker), self.head)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        for worker in self.workers:
            self.forget(worker)
        if self.head:
            self.forget(self.head)
        # Those of nodes that were killed before may have outlived them.
        for process in self._started:
            if process.is_running():
                _kill(process)
        shutil.rmtree(self.folder, ignore_errors=True)

    def add(self) -> subprocess.Popen[bytes]:
        """Start one more worker."""
        name = f"n{len(list(self.folder.iterdir()))}"
        worker = self._start(name, f"--address={self.address}", "--num-cpus=1")
        self.workers.append(worker)
        return worker

    def trials(self) -> list[psutil.Process]:
        """The processes that run trials now."""
        return [each for worker in self.workers for each in trials(worker)]

    def remember(self, worker: subprocess.Popen[bytes]) -> None:
        """Note a worker's processes, so that those which outlive it are killed in the end."""
        self._started += descendants(worker.pid)

    def forget(self, node: subprocess.Popen[bytes]) -> None:
        """Kill what is left of a node."""
        for process in descendants(node.pid):
            _kill(process)
        node.kill()
        node.wait()

    def _start(self, name: str, *options: str) -> subprocess.Popen[bytes]:
        own = self.folder / name
        (own / "scratch").mkdir(parents=True)
        command = [Path(sys.executable).with_name("ray"), "start", *options, f"--object-store-memory={STORE_BYTES}",
                   f"--temp-dir={own}", "--dashboard-agent-listen-port=0", "--min-worker-port=0",
                   "--max-worker-port=0", "--block"]  # fmt: skip
        environment = self.environment | {"NODE_DIR": str(own / "scratch")}
        with (own / "output.txt").open("wb") as output:
            return subprocess.Popen(command, env=environment, cwd=own, stdout=output, stderr=output,
                                    start_new_session=True)  # fmt: skip

    def _wait(self) -> None:
        host, port = self.address.split(":")

        def answers() -> bool:
            with socket.socket() as connection:
                return connection.connect_ex((host, int(port))) == 0

        wait_for("an answer of the head", answers, self.head)


def raylet(node: subprocess.Popen[bytes]) -> psutil.Process | None:
    """A node's raylet, once it runs."""
    return next((each for each in descendants(node.pid) if _title(each).endswith("raylet")), None)


def trials(node: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """The processes that run trials on a node; Ray names them by the class or its wrapper."""
    names = ("Trainable", "DistillationTrial")
    return [each for each in descendants(node.pid) if any(name in _title(each) for name in names)]


def descendants(pid: int) -> list[psutil.Process]:
    """The processes below one, none where it has ended."""
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def wait_for(what: str, ready, process: subprocess.Popen[bytes] | None = None) -> object:
    """Wait until `ready()` gives something. Raises `TimeoutError`, also where `process` ends before."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and (process is None or process.poll() is None):
        if found := ready():
            return found
        time.sleep(0.1)
    raise TimeoutError(f"no {what} within {PATIENCE:.0f} s, or before its process ended")


def _title(process: psutil.Process) -> str:
    try:
        return (process.cmdline() or [""])[0]
    except psutil.Error:
        return ""


def _kill(process: psutil.Process) -> None:
    with suppress(psutil.NoSuchProcess):
        process.kill()


def _free_port() -> int:
    with socket.socket() as connection:
        connection.bind(("127.0.0.1", 0))
        return int(connection.getsockname()[1])
