"""What happens beside the tables at each event of an engine: the display, and the files of ended trials."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from bpkd_search.cluster.failures import FailureStreak
from bpkd_search.cluster.progress import Progress
from bpkd_search.experiment.paths import checkpoint_file, student_file
from bpkd_search.experiment.schema import BASELINE, REPLICATE
from bpkd_search.experiment.trial import Trial
from bpkd_search.search.engine import Engine
from bpkd_search.stores.experiment import Place

KEPT_STUDENTS = 5


def listener(directory: Path, progress: Progress, place: Place | None = None) -> Callable[[str, Trial], None]:
    """A listener for the engine that `progress` follows; `directory` in `place` keeps its checkpoints and students."""

    failures = FailureStreak(directory)

    def listen(event: str, trial: Trial) -> None:
        progress.event(event, trial)
        if event in ("end", "retry"):
            checkpoint_file(directory, trial.number).unlink(missing_ok=True)
            if progress.engine is not None:
                keep_best_students(directory, progress.engine, place)
        if event == "end" and progress.engine is not None:
            failures.ended(progress.engine, trial)

    return listen


def keep_best_students(directory: Path, engine: Engine, place: Place | None = None) -> None:
    """Remove the students of replicates, and of searched trials not among the five best; baselines keep theirs.

    From `place` too, with the checkpoints of ended trials.
    """
    searched = [trial for trial in engine.ranked() if trial.origin != BASELINE]
    again = [engine.trials[number] for number in engine.states if engine.trials[number].origin == REPLICATE]
    dropped = [student_file(directory, trial.number) for trial in [*searched[KEPT_STUDENTS:], *again]]
    for path in dropped:
        path.unlink(missing_ok=True)
    if place is not None:
        place.release([*dropped, *(checkpoint_file(directory, number) for number in engine.states)])
