"""Where each file of an experiment folder is, and of a `bpkd-search train` folder: the only list of their names."""

from __future__ import annotations

from pathlib import Path

CONFIG = "config.yaml"
FACTS = "experiment.json"
EVENTS = "events.jsonl"
STUDY = "study.journal"
LOCK = "lock"

# The tables: folders of Parquet files, each named as its table.
TRIALS, REPORTS, CONFIRM = "trials", "reports", "confirm"

# The runs of a confirmation, in a folder that is laid out as the search's own.
CONFIRMATION = "confirmation"
LOGS = "logs"
# What Ray Tune writes while a search runs; removed at its end.
RAY = "ray"
STUDENTS, CHECKPOINTS = "students", "checkpoints"

# The folder of a single training, which has a `CONFIG` as well.
METRICS = "metrics.json"
HISTORY = "history.csv"
STUDENT = "student.safetensors"
CHECKPOINT = "checkpoint.pt"


def student_file(directory: Path, number: int) -> Path:
    """Where the weights of a finished trial are."""
    return directory / STUDENTS / f"{number:05d}.safetensors"


def trial_log(directory: Path, number: int) -> Path:
    """Where a trial's failures are told in full, with their tracebacks; exists once one has happened."""
    return directory / LOGS / "trials" / f"{number:05d}.txt"


def checkpoint_file(directory: Path, number: int) -> Path:
    """Where the state of an unfinished trial is."""
    return directory / CHECKPOINTS / f"{number:05d}.pt"
