"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """One torch thread: two test processes with two threads each are several times slower than with one."""
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with `data/` (real images) and `weights/` (ImageNet encoders), or a skip that says why."""
    root = os.environ.get("BPKD_SEARCH_SHARED")
    if not root:
        pytest.skip("needs real data and weights: set BPKD_SEARCH_SHARED to the folder that holds them")
    return Path(root).resolve()
