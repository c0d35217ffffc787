"""What a machine says of itself: versions, GPUs, folders, limits. It needs the standard library alone, but for URLs.

Ray gets these functions by value, so that they also run where this package, or PyTorch, is missing or another version.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

Facts = dict[str, Any]
PACKAGES = ("torch", "torchvision", "timm", "ray", "optuna")
# Files by which machines show each other their folders; one that a killed process left is removed after an hour.
MARK, STALE_SECONDS = ".bpkd-search-doctor-", 3600
PROBE_SECONDS = 120

# In a process of its own: PyTorch may crash, and what it takes of a GPU is given back at its end.
TORCH_PROBE = """
import json, warnings
warnings.simplefilter("ignore")
found = {"cuda": None, "gpus": [], "why": None}
try:
    import torch
    found["cuda"] = torch.version.cuda
    if torch.cuda.device_count() == 0:
        torch.cuda.init()
    for index in range(torch.cuda.device_count()):
        gpu = {"name": None, "error": None}
        found["gpus"].append(gpu)
        try:
            gpu["name"] = torch.cuda.get_device_name(index)
            torch.ones(2, device=f"cuda:{index}").sum().item()
        except Exception as e:
            gpu["error"] = (str(e).strip() or type(e).__name__).splitlines()[0]
except Exception as e:
    found["why"] = (str(e).strip() or type(e).__name__).splitlines()[0]
print(json.dumps(found))
"""


def machine_facts(on_ray: bool) -> Facts:
    """Return versions, GPUs, driver and limits of this machine, from this process or a task `on_ray`."""
    return {
        "versions": {"python": platform.python_version(), **package_versions()},
        "torch": torch_facts(ray_environment() if on_ray else dict(os.environ)),
        "driver": driver_version(),
        "open_files": open_files(),
        "shared_memory": disk("/dev/shm")[1],
        "token": os.environ.get("RAY_AUTH_MODE", "").lower() == "token",
    }


def package_versions() -> dict[str, str | None]:
    """Return the version of each library and of this package with a hash of its code; None if it is not installed."""
    from importlib.metadata import PackageNotFoundError, version

    found: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    try:  # its builds have several names
        from PIL import __version__ as pillow
    except ImportError:
        found["Pillow"] = None
    else:
        found["Pillow"] = pillow
    try:
        import bpkd_search

        code = hashlib.sha256()
        root = Path(bpkd_search.__file__).parent
        for path in sorted(root.rglob("*.py")):
            code.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
        found["bpkd-search"] = f"{bpkd_search.__version__} ({code.hexdigest()[:6]})"
    except ImportError:
        found["bpkd-search"] = None
    return found


def torch_facts(environment: Mapping[str, str]) -> Facts:
    """Return what PyTorch can use: CUDA's version, each GPU's name and error, and `why` there are none."""
    command = [sys.executable, "-c", TORCH_PROBE]
    try:
        done = subprocess.run(command, env=dict(environment), capture_output=True, text=True, timeout=PROBE_SECONDS)
        found: Facts = json.loads(done.stdout.splitlines()[-1])
    except subprocess.TimeoutExpired:
        return {"cuda": None, "gpus": [], "why": f"it did not answer within {PROBE_SECONDS} s"}
    except (OSError, ValueError, IndexError):
        return {"cuda": None, "gpus": [], "why": "its process crashed"}
    return found


def ray_environment() -> dict[str, str]:
    """Return the environment of this node's Ray: a task without GPUs has its own variables that hide them."""
    try:
        entries = Path(f"/proc/{os.getppid()}/environ").read_bytes().split(b"\0")
    except OSError:
        return dict(os.environ)
    return {name: value for name, _, value in (os.fsdecode(entry).partition("=") for entry in entries) if name}


def driver_version() -> str | None:
    """Return the version of the NVIDIA driver; None without one."""
    try:
        command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        text = subprocess.run(command, capture_output=True, text=True, timeout=PROBE_SECONDS).stdout
    except (OSError, subprocess.TimeoutExpired):
        text = ""
    if not re.match(r"\d+\.", text):
        try:
            text = Path("/proc/driver/nvidia/version").read_text(encoding="utf-8", errors="replace")
        except OSError:
            return None
    found = re.search(r"\b\d{3,}\.\d+(\.\d+)?\b", text)
    return found[0] if found else None


def open_files() -> int:
    """Return how many files a process of this machine may open."""
    import resource

    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def disk(path: str) -> tuple[int | None, int | None]:
    """Return free and total bytes of the file system of a path; None where there is none."""
    try:
        usage = shutil.disk_usage(path)
    except OSError:
        return None, None
    return usage.free, usage.total


def leave_marks(folders: Mapping[str, str | None]) -> dict[str, Facts]:
    """Write a file into each folder, or where it does not exist yet into the nearest parent; free bytes and errors.

    A folder at a URL gets an object, through this package. `~` and `$VARIABLES` are those of this machine; None is the
    folder of its Ray.
    """
    return {name: _leave_mark(ray_folder() if given is None else given) for name, given in folders.items()}


def _leave_mark(given: str) -> Facts:
    if "://" in given:
        return _leave_object(given)
    path = Path(os.path.expandvars(given)).expanduser()
    facts: Facts = {"path": str(path), "mark": None, "error": None, "free": None}
    if "$" in str(path):
        return {**facts, "error": "a variable that is not set"}
    try:
        folder = next(each for each in (path, *path.parents) if each.exists())
        facts["free"] = disk(str(folder))[0]
        for old in folder.glob(f"{MARK}*"):
            if time.time() - old.stat().st_mtime > STALE_SECONDS:
                old.unlink(missing_ok=True)
        mark = folder / f"{MARK}{uuid.uuid4().hex}"
        with mark.open("xb") as file:
            file.write(mark.name.encode())
            file.flush()
            os.fsync(file.fileno())
    except OSError as e:
        return {**facts, "error": e.strerror or str(e)}
    return {**facts, "mark": str(mark)}


def _leave_object(url: str) -> Facts:
    facts: Facts = {"path": url, "mark": None, "error": None, "free": None}
    # Objects are emptied, not deleted: each node, which is its tasks' parent, has one for all times.
    name, what = f"{MARK}{platform.node()}-{os.getppid()}", uuid.uuid4().hex
    try:
        from bpkd_search.stores.store import Store

        store = Store(url)
        facts["path"] = store.name
        store.put(f"clock/{name}", what.encode())
        there = store.get(f"clock/{name}")
    except Exception as e:
        return {**facts, "error": str(e).removeprefix(f"{facts['path']}: ").removeprefix("cannot be written to: ")}
    if there != what.encode():
        return {**facts, "error": "what is written is not what is read"}
    return {**facts, "mark": f"{url.rstrip('/')}#{name}#{what}"}


def see_marks(marks: Sequence[str]) -> list[bool]:
    """Return for each mark whether this machine reads it."""
    return [_reads_object(mark) if "://" in mark else _reads(Path(mark)) for mark in marks]


def _reads(mark: Path) -> bool:
    try:
        return mark.read_text(encoding="utf-8") == mark.name
    except (OSError, ValueError):
        return False


def _reads_object(mark: str) -> bool:
    url, name, what = mark.rsplit("#", 2)
    try:
        from bpkd_search.stores.store import Store

        return Store(url).get(f"clock/{name}") == what.encode()
    except Exception:
        return False


def remove_marks(marks: Sequence[str]) -> float:
    """Remove marks; return this machine's clock."""
    for mark in marks:
        if "://" not in mark:
            Path(mark).unlink(missing_ok=True)
            continue
        url, name, _ = mark.rsplit("#", 2)
        with suppress(Exception):
            from bpkd_search.stores.store import Store

            Store(url).empty(f"clock/{name}")
    return time.time()


def ray_folder() -> str:
    """Return the folder in which this node's Ray keeps its files."""
    try:
        from ray._private.worker import global_worker

        return str(global_worker.node.get_session_dir_path())
    except Exception:  # not a public name
        return os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()
