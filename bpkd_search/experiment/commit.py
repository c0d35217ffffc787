"""Which code runs: the commit it was checked out or installed from, so that results can say so."""

from __future__ import annotations

import json
import subprocess
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import bpkd_search

CHANGED = "+changes"


def code_commit(package: Path = Path(bpkd_search.__file__).parent) -> str | None:
    """The commit of this package's code, with `+changes` where its files differ from it; None where unknown.

    It comes from the git checkout that the package is imported from, else from what `pip install git+URL` wrote.
    """
    # A package inside another repository, as in a virtual environment there, need not be part of it.
    if _git(package, "ls-files", "--error-unmatch", "__init__.py") is None:
        return _installed_from()
    lines = (_git(package, "status", "--porcelain=v2", "--branch", "--", ".") or "").splitlines()
    commit = next((line.split()[-1] for line in lines if line.startswith("# branch.oid ")), None)
    if commit is None or not commit.isalnum():  # "(initial)" before the first commit
        return None
    return commit + CHANGED * any(not line.startswith("#") for line in lines)


def all_commits(earlier: str | None, now: str | None) -> str | None:
    """The commits of an experiment that was resumed under other code, in their order, with commas."""
    known = dict.fromkeys([*(earlier or "").split(", "), now or ""])
    return ", ".join(filter(None, known)) or None


def _git(folder: Path, *arguments: str) -> str | None:
    """What git prints; None without git, without a repository, and when it takes too long."""
    command = ["git", "--no-optional-locks", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout if done.returncode == 0 else None


def _installed_from() -> str | None:
    """The commit in pip's `direct_url.json` (PEP 610)."""
    try:
        origin = json.loads(distribution("bpkd-search").read_text("direct_url.json") or "{}")
    except (PackageNotFoundError, OSError, ValueError):
        return None
    commit = origin.get("vcs_info", {}).get("commit_id")
    return None if commit is None else str(commit)
