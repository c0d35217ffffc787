"""Folders that nothing can be written to, for root neither."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Mount a folder over itself as read-only, or skip the test where mounting is not allowed."""
    for options in (["--bind", str(folder), str(folder)], ["-o", "remount,ro,bind", str(folder)]):
        if subprocess.run(["mount", *options], capture_output=True).returncode:
            pytest.skip("needs the right to mount a folder")
    try:
        with pytest.raises(OSError, match="Read-only"):
            (folder / "written").touch()
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
