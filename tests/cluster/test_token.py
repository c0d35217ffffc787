"""Who may command the Ray of a search: a real one, tried with its token, with another one, and without."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from bpkd_search.cluster.connection import own_token

ray = pytest.importorskip("ray")
pytest.importorskip("ray._private.authentication", reason="Ray before 2.52 knows no tokens")

# The search's process also is a client of another cluster later, and must not bring its token along.
SEARCH = """
import os, sys
from bpkd_search.cluster.connection import connect_ray
with connect_ray(None, False) as nodes:
    import ray
    print(ray.get_runtime_context().gcs_address, os.environ["RAY_AUTH_TOKEN"], flush=True)
    print(ray.get(ray.remote(num_cpus=0)(lambda: 6 * 7).remote()), flush=True)
    sys.stdin.readline()
print(sorted(name for name in os.environ if name.startswith("RAY_AUTH")), flush=True)
"""
CLIENT = """
import sys, ray
ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")
print("ran", ray.get(ray.remote(num_cpus=0)(lambda: 1).remote()), flush=True)
"""


def client(address: str, home: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    own = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return subprocess.run(
        [sys.executable, "-c", CLIENT, address],
        env={**own, "HOME": str(home), **environment}, capture_output=True, text=True, timeout=240,
    )  # fmt: skip


def test_a_client_without_the_token_of_a_local_search_is_refused(tmp_path: Path) -> None:
    own = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
    with subprocess.Popen(
        [sys.executable, "-c", SEARCH], env={**own, "HOME": str(tmp_path)}, stdin=-1, stdout=-1, stderr=-1, text=True
    ) as search:
        assert search.stdout is not None and search.stdin is not None and search.stderr is not None
        try:
            address, token = search.stdout.readline().split()
            assert len(token) == 64 and search.stdout.readline() == "42\n"
            tokens = (
                {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token},
                {"RAY_AUTH_MODE": "disabled"},
                {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64},
            )
            # At once: those that are refused try for a while.
            with ThreadPoolExecutor() as pool:
                allowed, *others = pool.map(lambda given: client(address, tmp_path, **given), tokens)
            assert allowed.returncode == 0 and allowed.stdout.startswith("ran "), allowed.stderr
            for refused in others:
                assert refused.returncode != 0 and "ran " not in refused.stdout
                assert "authenticat" in refused.stderr.lower(), refused.stderr[-2000:]
            # Its own task still runs, and the home folder has no token that other clusters would take up.
            assert not (tmp_path / ".ray").exists()
        finally:
            search.stdin.write("\n")
            search.stdin.flush()
        assert search.stdout.readline() == "[]\n"
    assert search.returncode == 0


GIVEN = {
    "nothing": {},
    "a mode": {"RAY_AUTH_MODE": "token"},
    "a token": {"RAY_AUTH_TOKEN": "mine"},
    "a file": {"RAY_AUTH_TOKEN_PATH": "/some/file"},
    "no wish for one": {"RAY_AUTH_MODE": "disabled"},
}


@pytest.fixture
def environment() -> Iterator[pytest.MonkeyPatch]:
    """Sets variables for a test; Ray's part of this process reads them as they were before, afterwards."""
    with pytest.MonkeyPatch.context() as patch:
        yield patch
    with own_token():
        pass


@pytest.mark.parametrize("given", GIVEN)
def test_what_the_user_has_set_is_kept(given: str, environment: pytest.MonkeyPatch) -> None:
    names = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
    for name in names:
        environment.delenv(name, raising=False)
    for name, value in GIVEN[given].items():
        environment.setenv(name, value)

    def shown() -> dict[str, str]:
        return {name: os.environ[name] for name in names if name in os.environ}

    tokens = set()
    for _ in range(2):
        with own_token():
            inside = shown()
            tokens.add(inside.get("RAY_AUTH_TOKEN"))
            assert GIVEN[given].items() <= inside.items()
            assert inside["RAY_AUTH_MODE"] == GIVEN[given].get("RAY_AUTH_MODE", "token")
        assert shown() == GIVEN[given]
    # A new one for each search, where there is none.
    assert len(tokens) == (2 if given in ("nothing", "a mode") else 1)
