"""Fixtures shared by all tests."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# Shared machines stall; how long an example takes is no property of the code.
settings.register_profile("shared", deadline=None)
settings.load_profile("shared")

# Wide enough that no message is wrapped, and no colours, wherever the tests run.
os.environ.update(COLUMNS="200", NO_COLOR="1", TERM="dumb")


def pytest_collection_finish() -> None:
    """Modules and tests stay to the end, so that no collection of garbage walks through their millions of objects."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    """Extension modules complain at the end of a process about what was never freed."""
    gc.unfreeze()


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """One torch thread: two test processes with two threads each are several times slower than with one."""
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="module")
def _ray_as_found() -> None:
    """Each module starts with no token of another: `ray.init()` leaves one in the environment, and Ray caches it."""
    if "ray" in sys.modules:
        from bpkd_search.cluster.connection import MODE, TOKENS, own_token

        for name in (MODE, *TOKENS):
            os.environ.pop(name, None)
        with own_token():  # On its way out it lets Ray read the environment again.
            pass


@pytest.fixture(scope="module")
def one_ray() -> Iterator[None]:
    """One Ray for all searches of a module in this process: each start is some processes, and seconds of a CPU."""
    from bpkd_search.cluster import driver
    from bpkd_search.cluster.connection import connect_ray
    from bpkd_search.cluster.nodes import live_nodes

    with pytest.MonkeyPatch.context() as patch, connect_ray(None, False):
        patch.setattr(driver, "connect_ray", lambda address, verbose: nullcontext(live_nodes()))
        yield


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with `data/` (real images) and `weights/` (ImageNet encoders), or a skip that says why."""
    root = os.environ.get("BPKD_SEARCH_SHARED")
    if not root:
        pytest.skip("needs real data and weights: set BPKD_SEARCH_SHARED to the folder that holds them")
    return Path(root).resolve()


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache of views and teachers for the whole session."""
    path = tmp_path_factory.mktemp("cache")
    os.environ["BPKD_SEARCH_CACHE"] = str(path)
    return path


@pytest.fixture(scope="session")
def tiny_search(cache: Path) -> Callable[[], dict[str, Any]]:
    """Makes a search so small that a trial takes a second; change it and hand it to `parse`."""
    return _tiny_search


@pytest.fixture
def tiny(tiny_search: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """One such search."""
    return tiny_search()


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Call the command line in this process: exit code, standard output, standard error."""
    from bpkd_search import cli

    def run(*arguments: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["bpkd-search", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        out, err = capsys.readouterr()
        return int(stop.value.code or 0), out, err

    return run


def _tiny_search() -> dict[str, Any]:
    return {
        "name": "tiny",
        "data": {
            "kind": "synthetic",
            "crop": [32, 48],
            "views": 2,
            "synthetic": {"train_images": 12, "val_images": 6, "height": 32, "width": 48},
        },
        "teacher": {"encoder": "mobilenetv3_small_050", "channels": 16, "train": {"epochs": 2, "batch_size": 4}},
        "student": {"encoder": "mobilenetv3_small_050", "channels": 8},
        "loss": {"method": "bpkd", "edge_width": 3},
        "train": {"epochs": 4, "batch_size": 4, "lr": 0.02},
        "search": {"trials": 2, "sampler": {"name": "tpe"}, "scheduler": {"name": "asha", "grace": 1, "reduction": 2}},
        "space": {
            "loss.edge_weight": {"float": [0.05, 50], "log": True},
            "loss.edge_width": {"int": [3, 7], "step": 2},
        },
    }
