"""The commit of the running code, from its git checkout or its installation, to be recorded with the results."""

from __future__ import annotations

import json
import subprocess
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import bpkd_search

CHANGED = "+changes"


def code_commit(package: Path = Path(bpkd_search.__file__).parent) -> str | None:
    """Return the commit of this package's code, with `+changes` if its files differ from it; None if unknown.

    It is that of the git checkout that the package is imported from, or the one recorded by `pip install git+URL`.
    """
    # A package inside another repository, for example in a virtual environment, need not be tracked by it.
    if _git(package, "ls-files", "--error-unmatch", "__init__.py") is None:
        return _installed_from()
    lines = (_git(package, "status", "--porcelain=v2", "--branch", "--", ".") or "").splitlines()
    commit = next((line.split()[-1] for line in lines if line.startswith("# branch.oid ")), None)
    if commit is None or not commit.isalnum():  # "(initial)" before the first commit
        return None
    return commit + CHANGED * any(not line.startswith("#") for line in lines)


def all_commits(earlier: str | None, now: str | None) -> str | None:
    """Return the commits of an experiment that was resumed with different code, in order, separated by commas."""
    known = dict.fromkeys([*(earlier or "").split(", "), now or ""])
    return ", ".join(filter(None, known)) or None


def _git(folder: Path, *arguments: str) -> str | None:
    """Return the output of git; None without git, without a repository, or after a timeout."""
    command = ["git", "--no-optional-locks", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout if done.returncode == 0 else None


def _installed_from() -> str | None:
    """Return the commit in pip's `direct_url.json` (PEP 610)."""
    try:
        origin = json.loads(distribution("bpkd-search").read_text("direct_url.json") or "{}")
    except (PackageNotFoundError, OSError, ValueError):
        return None
    commit = origin.get("vcs_info", {}).get("commit_id")
    return None if commit is None else str(commit)
