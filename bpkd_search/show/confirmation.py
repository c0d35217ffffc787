"""A confirmation for display, on the terminal or in a report: tables, verdicts, and their limits."""

from __future__ import annotations

import sys
from dataclasses import dataclass

import numpy as np
import pandas as pd

from bpkd_search.metrics.table import held_out
from bpkd_search.results.confirm import format_interval, label
from bpkd_search.results.leaderboard import Leaderboard
from bpkd_search.show.leaderboard import remarks
from bpkd_search.show.text_table import TextTable, terminal

_INTERVALS = {"95 % interval": "", "from bpkd-paper": "vs_paper", "from the best plain": "vs_plain"}


@dataclass(frozen=True)
class Confirmed:
    """What a confirmation found by one metric: a table with one row per setting, best first, and the verdict."""

    metric: str
    table: pd.DataFrame
    verdict: str


def confirmed(board: Leaderboard) -> tuple[list[Confirmed], list[str]]:
    """Return the result by each metric, last by that of the held-out split if tested, and remarks on their limits.

    Raises what `Leaderboard.winner` raises.
    """
    found = []
    searched = board.trials(["number"]).set_index("number")[board.metric]
    tested = bool(board.confirm()[held_out(board.metric)].notna().any())
    for metric in (board.metric, held_out(board.metric))[: 1 + tested]:
        table = board.winner(metric)
        shown = pd.DataFrame({"setting": table.apply(label, axis=1), "seeds": table["seeds"]})
        if table["failed"].any():
            shown["failed"] = table["failed"]
        shown["mean"] = [_digits(mean) for mean in table["mean"]]
        for title, name in _INTERVALS.items():
            shown[title] = [format_interval(row, name) for _, row in table.iterrows()]
        if table["p_best"].notna().any():
            shown["P(best)"] = [_digits(p, 2) for p in table["p_best"]]
        if metric == board.metric:
            shown["in the search"] = [_digits(searched[number]) for number in table["number"]]
        found.append(Confirmed(metric, shown, str(table.attrs["verdict"])))
    limits = [
        "Fresh training seeds, the same for every setting; differences are paired by seed; 95 % intervals by Student's"
        " t. P(best): how likely the mean over all seeds is the highest, by Student's t, from 3 seeds on.",
        "The verdict is on the best of the searched settings; its intervals are corrected for the number of those, and"
        " the deviation between seeds in them is partly that of all settings. The mean of the best of many is partly"
        " luck.",
        "The settings were chosen on this validation split: seeds do not show overfitting to its images"
        + ("; the held-out split does, and nothing was chosen on it." if tested else "."),
    ]
    return found, limits


def show_confirmation(board: Leaderboard) -> None:
    """Print the result of the confirmation of an experiment. Raises what `Leaderboard.winner` raises."""
    _, styled = terminal()
    lines: list[str] = []
    found, limits = confirmed(board)
    for result in found:
        lines += [f"{result.metric}:", *TextTable(result.table).lines(styled=styled), "", result.verdict, ""]
    sys.stdout.write("\n".join([*lines, *remarks(limits, styled)]) + "\n")


def _digits(value: float, digits: int = 4) -> str:
    return "" if np.isnan(value) else f"{value:.{digits}f}"
