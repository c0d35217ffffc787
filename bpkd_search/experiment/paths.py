"""The path of each file in an experiment directory and in a `bpkd-search train` directory, listed only here."""

from __future__ import annotations

import json
import os
from pathlib import Path

CONFIG = "config.yaml"
FACTS = "experiment.json"
# Seconds of a step by kind of device.
CALIBRATION = "calibration.json"
EVENTS = "events.jsonl"
STUDY = "study.journal"
LOCK = "lock"
# The object store that the directory is a local copy of.
STORE = "store.json"
# Requests that wait for the driver, a JSON file each.
REQUESTS = "requests"

# The tables: directories of Parquet files, named as the table.
TRIALS, REPORTS, CONFIRM = "trials", "reports", "confirm"
# The table that a finished search leaves in the memory of searches, which is no part of its directory.
MEMORY = "memory"

# The runs of a confirmation, in a directory with the same layout as the experiment directory.
CONFIRMATION = "confirmation"
LOGS = "logs"
# What Ray Tune writes while a search runs; removed at its end.
RAY = "ray"
STUDENTS, CHECKPOINTS = "students", "checkpoints"
TRIAL_LOGS = f"{LOGS}/trials"
# On an object store: the teacher that the search has trained or copied.
TEACHER = "teacher"

# The directory of a single training, which also has a `CONFIG`.
METRICS = "metrics.json"
HISTORY = "history.csv"
STUDENT = "student.safetensors"
CHECKPOINT = "checkpoint.pt"


def student_file(directory: Path, number: int) -> Path:
    """Return the path of the weights of a finished trial."""
    return directory / STUDENTS / f"{number:05d}.safetensors"


def trial_log(directory: Path, number: int) -> Path:
    """Return the path of the log of a trial's failures with their tracebacks; it exists after the first failure."""
    return directory / TRIAL_LOGS / f"{number:05d}.txt"


def checkpoint_file(directory: Path, number: int) -> Path:
    """Return the path of the checkpoint of an unfinished trial."""
    return directory / CHECKPOINTS / f"{number:05d}.pt"


def store_of(directory: Path) -> dict[str, str]:
    """Return the `url` and the `id` of a directory that is the local copy of an object store; empty for another one."""
    try:
        facts: dict[str, str] = json.loads((directory / STORE).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    return facts


def short(directory: Path) -> str:
    """Return the folder as a person at this prompt would write it: the URL of a copy, else the shorter path."""
    if url := store_of(directory).get("url"):
        return url
    relative = os.path.relpath(directory)
    return str(directory) if relative.startswith("..") else relative
