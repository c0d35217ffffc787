"""Prints a confirmation as text: one table, the verdict, and their limits."""

from __future__ import annotations

import sys

import numpy as np
import pandas as pd

from bpkd_search.metrics.table import held_out
from bpkd_search.results.confirm import format_interval, label
from bpkd_search.results.leaderboard import Leaderboard
from bpkd_search.show.leaderboard import remarks
from bpkd_search.show.text_table import TextTable, terminal

_INTERVALS = {"95 % interval": "", "from bpkd-paper": "vs_paper", "from the best plain": "vs_plain"}


def show_confirmation(board: Leaderboard) -> None:
    """Print the result of the confirmation of an experiment. Raises what `Leaderboard.winner` raises."""
    _, styled = terminal()
    lines: list[str] = []
    searched = board.trials(["number"]).set_index("number")[board.metric]
    tested = board.confirm()[held_out(board.metric)].notna().any()
    for metric in (board.metric, held_out(board.metric))[: 1 + tested]:
        table = board.winner(metric)
        shown = pd.DataFrame({"setting": table.apply(label, axis=1), "seeds": table["seeds"]})
        if table["failed"].any():
            shown["failed"] = table["failed"]
        shown["mean"] = [_digits(mean) for mean in table["mean"]]
        for title, name in _INTERVALS.items():
            shown[title] = [format_interval(row, name) for _, row in table.iterrows()]
        shown["P(best)"] = [_digits(p, 2) for p in table["p_best"]]
        if metric == board.metric:
            shown["in the search"] = [_digits(searched[number]) for number in table["number"]]
        lines += [f"{metric}:", *TextTable(shown).lines(styled=styled), "", str(table.attrs["verdict"]), ""]
    said = [
        "Fresh training seeds, the same for every setting; differences are paired by seed; 95 % intervals by Student's"
        " t. P(best): how often the mean is the highest when seeds are resampled. The verdict is on the best of the"
        " searched settings and is not corrected for their number.",
        "The settings were chosen on this validation split: seeds do not show overfitting to its images"
        + ("; the held-out split does, and nothing was chosen on it." if tested else "."),
    ]
    sys.stdout.write("\n".join([*lines, *remarks(said, styled)]) + "\n")


def _digits(value: float, digits: int = 4) -> str:
    return "" if np.isnan(value) else f"{value:.{digits}f}"
