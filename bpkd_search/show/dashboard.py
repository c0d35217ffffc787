"""Optuna's own dashboard on an experiment's study, for this machine alone."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path

from bpkd_search.errors import ExperimentError, ResourceError, UserError

STUDY = "study.journal"
HOST = "127.0.0.1"


def serve(directory: Path, port: int, say: Callable[[str], None]) -> None:
    """Serve `optuna-dashboard` until it is interrupted; it shows a running search as it goes.

    Errors: `ExperimentError` for a folder without a study, `UserError` when optuna-dashboard is not installed,
    `ResourceError` for a port that cannot be had.
    """
    path = directory / STUDY
    if not path.is_file():
        raise ExperimentError(f"{directory}: has no study (it has no {STUDY})")
    try:
        dashboard = importlib.import_module("optuna_dashboard")
    except ImportError as e:
        raise UserError("the dashboard needs optuna-dashboard: pip install 'bpkd-search[dashboard]'") from e
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    say(f"http://{HOST}:{port}/ (Ctrl-C ends it)")
    try:
        dashboard.run_server(JournalStorage(JournalFileBackend(str(path))), host=HOST, port=port)
    except OSError as e:
        raise ResourceError(f"port {port}: cannot be had ({e.strerror}); choose another --port") from e
