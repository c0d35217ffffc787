"""Searches that fail as a whole: the same failure again and again, or an end without a single result."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from bpkd_search.errors import SearchFailed
from bpkd_search.experiment.paths import short, trial_log
from bpkd_search.experiment.schema import COMPLETE, FAILED
from bpkd_search.experiment.trial import Trial
from bpkd_search.search.engine import Engine

# Trials in a row that fail for the same reason, before a search without any result stops.
ALIKE = 3


class FailureStreak:
    """Stops a search in which trial after trial fails for the same reason and none completes.

    It counts from the start of this session: a search that was stopped and whose cause is fixed can be resumed.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.trials: list[Trial] = []

    def ended(self, engine: Engine, trial: Trial) -> None:
        """Count an end, and stop the engine if it is one failure too many."""
        if trial.state != FAILED:
            self.trials = []
            return
        self.trials = [each for each in self.trials if each.reason == trial.reason] + [trial]
        if len(self.trials) < ALIKE or COMPLETE in engine.states.values():
            return
        lines = [f"{len(self.trials)} trials in a row failed and none has completed; the last one, {trial.number}"]
        lines[0] += f" {trial.method}: {describe_failure(engine, trial)}"
        if (log := trial_log(self.directory, trial.number)).is_file():
            lines.append(f"its log: {log}")
        folder = short(self.directory)
        lines.append(f"fix the cause, then run them again: bpkd-search retry {folder} --failed, then resume {folder}")
        engine.stop_for(SearchFailed("\n".join(lines)))


def require_a_result(engine: Engine, directory: Path) -> None:
    """Raises `SearchFailed` if none of the engine's trials completed."""
    if COMPLETE in engine.states.values():
        return
    reasons = Counter(f"{trial.state or 'RUNNING'} {trial.reason or ''}".strip() for trial in engine.trials.values())
    counts = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
    raise SearchFailed(f"{directory}: no trial completed ({counts}); `bpkd-search show` tells more of each")


def describe_failure(engine: Engine, trial: Trial) -> str:
    """A failed trial's reason, and the first line of its message."""
    message = str(engine.recorder.trials[trial.number].get("message") or "").strip()
    return f"{trial.reason}: {message.splitlines()[0]}" if message else str(trial.reason)
