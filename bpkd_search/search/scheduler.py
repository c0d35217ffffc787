"""Ray Tune's `TrialScheduler`, as a thin adapter to the engine."""

from __future__ import annotations

from typing import Any

from ray.tune import Stopper
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from bpkd_search.search.engine import Engine
from bpkd_search.search.searcher import EngineSearcher, Unsaved, report_of, stopping


class EngineScheduler(Unsaved, FIFOScheduler):  # type: ignore[misc]
    """Passes every report to the engine and stops the trials that it stops.

    The engine rebuilds its rungs from the recorded reports, which Ray's own ASHA cannot after a restore
    (ray-project/ray#30838).
    """

    def __init__(self, engine: Engine, searcher: EngineSearcher) -> None:
        super().__init__()
        self.engine, self.searcher = engine, searcher

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """CONTINUE or STOP, as the engine decides."""
        go_on = False
        with stopping(self.engine):
            go_on = self.engine.report(self.searcher.numbers[trial.trial_id], report_of(result))
        return str(TrialScheduler.CONTINUE if go_on else TrialScheduler.STOP)


class StopOnRequest(Unsaved, Stopper):  # type: ignore[misc]
    """Stops all trials once the engine has been interrupted."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """No single trial is stopped here."""
        return False

    def stop_all(self) -> bool:
        """Whether the engine has been interrupted; also the moment to write rows that wait."""
        with stopping(self.engine):
            self.engine.recorder.flush_if_due()
        return self.engine.interrupted
