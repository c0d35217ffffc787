"""How many CPUs a process may use, from made-up control groups; and Windows."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from bpkd_search import machine
from bpkd_search.errors import ResourceError
from bpkd_search.files import lock
from bpkd_search.machine import cpu_quota, usable_cpus

V2 = "0::/kubepods/pod1/box\n"
V1 = "12:pids:/docker/1\n4:cpu,cpuacct:/docker/1\n1:name=systemd:/docker/1\n"


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize(
    ("groups", "files", "quota"),
    [
        # Version 2: the group itself, one above it, none, and a container that sees its own group as the root.
        (V2, {"kubepods/pod1/box/cpu.max": "150000 100000\n"}, 1.5),
        (V2, {"kubepods/pod1/box/cpu.max": "max 100000\n", "kubepods/pod1/cpu.max": "400000 100000\n"}, 4),
        (V2, {"kubepods/pod1/box/cpu.max": "800000 100000\n", "kubepods/cpu.max": "200000 100000\n"}, 2),
        (V2, {"kubepods/pod1/box/cpu.max": "max 100000\n"}, None),
        ("0::/\n", {"cpu.max": "300000 100000\n"}, 3),
        # Version 1: the same, with two files.
        (V1, {"cpu,cpuacct/docker/1/cpu.cfs_quota_us": "250000", "cpu,cpuacct/docker/1/cpu.cfs_period_us": "100000"},
         2.5),
        (V1, {"cpu,cpuacct/docker/1/cpu.cfs_quota_us": "-1", "cpu,cpuacct/docker/1/cpu.cfs_period_us": "100000"},
         None),
        (V1, {"cpu/cpu.cfs_quota_us": "200000", "cpu/cpu.cfs_period_us": "50000"}, 4),
        # Other controllers and unreadable figures limit nothing.
        ("3:memory:/x\n", {"cpu.max": "100000 100000"}, None),
        ("0::/\n", {"cpu.max": "many"}, None),
    ],
)  # fmt: skip
def test_the_smallest_quota_on_the_way_up_counts(
    tmp_path: Path, groups: str, files: dict[str, str], quota: float | None
) -> None:
    (tmp_path / "groups").write_text(groups)
    assert cpu_quota(tmp_path / "groups", write(tmp_path / "mount", files)) == quota


def test_without_control_groups_there_is_no_quota(tmp_path: Path) -> None:
    assert cpu_quota(tmp_path / "none", tmp_path) is None


@pytest.mark.parametrize(("quota", "cpus"), [(None, 6), (64.0, 6), (2.9, 2), (0.5, 1)])
def test_affinity_and_quota_both_bound_the_cpus(
    monkeypatch: pytest.MonkeyPatch, quota: float | None, cpus: int
) -> None:
    monkeypatch.setattr(machine, "cpu_quota", lambda: quota)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(6)), raising=False)
    assert usable_cpus() == cpus


def test_macos_has_no_affinity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "cpu_quota", lambda: None)
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 10)
    assert usable_cpus() == 10


def test_windows_is_refused_in_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    refused = pytest.raises(ResourceError, match=r"^bpkd-search runs on Linux and macOS, not on Windows")
    with refused, lock(tmp_path / "lock"):
        pass
