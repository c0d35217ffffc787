"""Which commit runs: real repositories, clean, changed, not ours, and none at all."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from bpkd_search.experiment.commit import all_commits, code_commit


def git(folder: Path, *arguments: str) -> str:
    who = ["-c", "user.name=n", "-c", "user.email=e@example.org", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", "-C", folder, *who, *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A package in a repository, committed."""
    package = tmp_path / "repository" / "package"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    git(package, "init", "-q")
    git(package, "add", ".")
    git(package, "commit", "-q", "-m", "first")
    return package


def test_a_clean_checkout_is_its_commit_and_a_changed_one_says_so(package: Path) -> None:
    head = git(package, "rev-parse", "HEAD")
    (package.parent / "notes.txt").write_text("outside of the package")
    assert code_commit(package) == head
    (package / "module.py").write_text("new = 1")
    assert code_commit(package) == f"{head}+changes"
    git(package, "add", ".")
    git(package, "commit", "-q", "-m", "second")
    assert code_commit(package) == git(package, "rev-parse", "HEAD") != head
    (package / "__init__.py").write_text("changed = 1")
    assert code_commit(package) == git(package, "rev-parse", "HEAD") + "+changes"


def test_a_package_inside_anothers_repository_is_not_that_repositorys(package: Path) -> None:
    ours = package / ".venv" / "ours"
    ours.mkdir(parents=True)
    (ours / "__init__.py").write_text("")
    (package / ".gitignore").write_text(".venv")
    assert code_commit(ours) is None


def test_without_git_and_without_a_repository_it_is_not_known(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    assert code_commit(tmp_path) is None
    monkeypatch.setenv("PATH", str(tmp_path))
    assert code_commit(package) is None


def test_an_installation_from_git_knows_its_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "site" / "bpkd_search-0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Name: bpkd-search\nVersion: 0\n")
    origin = {"url": "https://example.org/x.git", "vcs_info": {"vcs": "git", "commit_id": "f00d"}}
    (info / "direct_url.json").write_text(json.dumps(origin))
    monkeypatch.syspath_prepend(tmp_path / "site")
    assert code_commit(tmp_path) == "f00d"


def test_sessions_with_different_code_are_all_named() -> None:
    assert all_commits(None, None) is None
    assert all_commits(None, "a") == all_commits("a", "a") == all_commits("a", None) == "a"
    assert all_commits("a, b", "c+changes") == "a, b, c+changes"
    assert all_commits("a, b", "a") == "a, b"
