"""An S3-compatible server on loopback that keeps its objects on disk, so that it can be stopped and started again."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

KEY, SECRET = "test-key", "test-secret"


@contextmanager
def running(folder: Path) -> Iterator[StoreServer]:
    """A server that runs, with its address and credentials in the environment."""
    server = StoreServer(folder)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment.items():
            patch.setenv(name, value)
        server.start()
        yield server
        server.stop()


class StoreServer:
    """`rclone serve s3` with one bucket; it checks signatures."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        (folder / "bucket").mkdir(parents=True)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def environment(self) -> dict[str, str]:
        """What a client needs in its environment."""
        return {
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}",
            "AWS_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            # This server, as others, does not know the checksums that AWS's own clients send by default.
            "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
        }

    def start(self) -> None:
        """Start it, and wait until it answers."""
        options = ["--auth-key", f"{KEY},{SECRET}", "--addr", f"127.0.0.1:{self.port}", "--config", os.devnull]
        # Else each list of objects reads all of them.
        options += ["--etag-hash", ""]
        rclone = Path(sys.executable).with_name("rclone")
        command = [rclone, "serve", "s3", *options, self.folder]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until = time.monotonic() + 30
        while time.monotonic() < until:
            with socket.socket() as client:
                if client.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.05)
        raise TimeoutError("rclone has not started")

    def stop(self) -> None:
        """Kill it; objects that were written stay."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def url(self) -> str:
        """A folder in the bucket that nothing is in."""
        return f"s3://bucket/{uuid.uuid4().hex[:8]}/tiny"

    def objects(self, url: str) -> dict[str, bytes]:
        """The objects under a URL that are not empty, as the server keeps them on disk.

        What a killed server was writing is none of them, and is not listed by the next one: `.rclone_temp_...`.
        """
        root = self.folder / url.removeprefix("s3://")
        files = dict[str, bytes]()
        for path in (path for path in root.rglob("*") if path.name[0] != "."):
            with suppress(FileNotFoundError):  # the server has just replaced it, or it is being written
                if path.is_file() and (content := path.read_bytes()):
                    files[path.relative_to(root).as_posix()] = content
        return files


def free_port() -> int:
    """A TCP port that nobody listens on."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])
