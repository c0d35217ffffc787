"""Serves Optuna's dashboard for the study of an experiment, reachable from this machine only."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from bpkd_search.errors import ExperimentError, ResourceError
from bpkd_search.experiment.paths import STUDY
from bpkd_search.imports import require

HOST = "127.0.0.1"


def serve(directory: Path, port: int, say: Callable[[str], None]) -> None:
    """Serve `optuna-dashboard` until it is interrupted; a running search is updated live.

    Raises `ExperimentError` if the directory has no study, `MissingPackageError` without optuna-dashboard,
    `ResourceError` if the port is not available.
    """
    path = directory / STUDY
    if not path.is_file():
        raise ExperimentError(f"{directory}: has no study (it has no {STUDY})")
    dashboard = require("optuna_dashboard", "dashboard", "the dashboard")
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    say(f"http://{HOST}:{port}/ (stop with Ctrl-C)")
    try:
        dashboard.run_server(JournalStorage(JournalFileBackend(str(path))), host=HOST, port=port)
    except OSError as e:
        raise ResourceError(f"port {port}: is not available ({e.strerror}); choose another --port") from e
