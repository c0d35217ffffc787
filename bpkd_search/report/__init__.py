"""The HTML report of an experiment."""

from __future__ import annotations

from pathlib import Path

from bpkd_search.errors import UserError
from bpkd_search.imports import callable_module

__all__ = ["report"]


def report(directory: Path | str, out: Path | str, panels: int = 4) -> Path:
    """Write the report of an experiment, one HTML file that works offline; returns its path.

    `directory` may be a URL; `panels` is the number of validation images to show, with their predictions.
    Raises `UserError`: `out` exists, plotly is missing, or `directory` is not an experiment.
    """
    from bpkd_search.report.page import plotly_script, write_report
    from bpkd_search.results.leaderboard import Leaderboard

    out = Path(out)
    if out.exists():
        raise UserError(f"{out}: exists already; choose another --out")
    board = Leaderboard(directory)
    board.trials(["state"])
    plotly_script()  # before the panels, which take long

    from bpkd_search.pictures.comparison import make_panels

    return write_report(board, out, make_panels(board, panels))


callable_module(__name__, "report")
