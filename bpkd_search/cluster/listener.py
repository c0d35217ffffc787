"""What happens beside the tables at each event of an engine: the display, and the files of ended trials."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from bpkd_search.cluster.failures import FailureStreak
from bpkd_search.cluster.progress import Progress
from bpkd_search.experiment.paths import checkpoint_file, student_file
from bpkd_search.experiment.schema import BASELINE
from bpkd_search.experiment.trial import Trial
from bpkd_search.search.engine import Engine

KEPT_STUDENTS = 5


def listener(directory: Path, progress: Progress) -> Callable[[str, Trial], None]:
    """A listener for the engine that `progress` follows; `directory` keeps its checkpoints and students."""

    failures = FailureStreak(directory)

    def listen(event: str, trial: Trial) -> None:
        progress.event(event, trial)
        if event in ("end", "retry"):
            checkpoint_file(directory, trial.number).unlink(missing_ok=True)
        if event == "end" and progress.engine is not None:
            keep_best_students(directory, progress.engine)
            failures.ended(progress.engine, trial)

    return listen


def keep_best_students(directory: Path, engine: Engine) -> None:
    """Remove the students of searched trials that are not among the five best; baselines keep theirs."""
    searched = [trial for trial in engine.ranked() if trial.origin != BASELINE]
    for trial in searched[KEPT_STUDENTS:]:
        student_file(directory, trial.number).unlink(missing_ok=True)
