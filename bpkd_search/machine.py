"""What this machine gives to this process: CPUs, a directory for caches, and whether it is supported at all."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterator
from pathlib import Path

from bpkd_search.errors import ResourceError


def usable_cpus() -> int:
    """Number of CPUs that this process may use: its affinity, or less where a container's quota allows less."""
    # macOS has no affinity.
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cpu_quota()
    return cpus if quota is None else max(1, min(cpus, int(quota)))


def cpu_model(facts: Path = Path("/proc/cpuinfo")) -> str:
    """The name of this machine's kind of CPU, as far as the system tells."""
    try:
        lines = facts.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine() or "CPU"


def cpu_quota(memberships: Path = Path("/proc/self/cgroup"), mount: Path = Path("/sys/fs/cgroup")) -> float | None:
    """CPUs that this process's control groups (v1 or v2) and those above them allow; None without a limit.

    `memberships` lists the groups of the process, `mount` is where they are mounted.
    """
    try:
        lines = memberships.read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    quotas: list[float] = []
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if not controllers:
            roots = [mount, mount / "unified"]
        elif "cpu" in controllers.split(","):
            roots = [mount / controllers, mount / "cpu"]
        else:
            continue
        for root in roots:
            # In a container, the group is often not below its own mount: then the root is the group.
            for folder in (root / group.lstrip("/"), *(root / group.lstrip("/")).parents):
                quotas += _quotas(folder)
                if folder == root:
                    break
    return min(quotas, default=None)


def cache_root() -> Path:
    """The directory of what can be made or fetched again: `BPKD_SEARCH_CACHE`, or in the user's cache."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bpkd-search"
    return Path(os.environ.get("BPKD_SEARCH_CACHE") or home)


def refuse_windows() -> None:
    """Raises `ResourceError` on Windows, which has no `flock`."""
    if sys.platform == "win32":
        raise ResourceError("bpkd-search runs on Linux and macOS, not on Windows; there, install it in WSL 2")


def _quotas(folder: Path) -> Iterator[float]:
    try:
        quota, _, period = (folder / "cpu.max").read_text(encoding="ascii").partition(" ")
        if quota.strip() != "max":
            yield int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        pass
    try:
        quota, period = ((folder / f"cpu.cfs_{name}_us").read_text(encoding="ascii") for name in ("quota", "period"))
        if int(quota) > 0:
            yield int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        pass
