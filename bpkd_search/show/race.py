"""The race of a search for display, on the terminal or in a report: a table, the verdict, and their limits."""

from __future__ import annotations

import sys

import pandas as pd

from bpkd_search.results.confirm import format_gain, format_interval, label
from bpkd_search.results.leaderboard import Leaderboard
from bpkd_search.results.race import MOST_SEEDS
from bpkd_search.results.selection import FEWEST
from bpkd_search.show.leaderboard import remarks
from bpkd_search.show.text_table import TextTable, terminal


def raced(board: Leaderboard) -> tuple[pd.DataFrame, list[str]]:
    """Return the table of the race, the leader first, and the verdict with remarks on its limits.

    Raises what `Leaderboard.race` raises.
    """
    table = board.race()
    verdict = str(table.attrs["verdict"])
    if table["number"].isna().all():
        return pd.DataFrame(), [verdict]
    shown = pd.DataFrame({"setting": table.apply(label, axis=1), "seeds": table["seeds"]})
    if table["failed"].any():
        shown["failed"] = table["failed"]
    shown["expected mean"] = ["" if pd.isna(mean) else f"{mean:.4f}" for mean in table["expected"]]
    shown["by fresh seeds"] = ["" if pd.isna(mean) else f"{mean:.4f}" for mean in table["mean"]]
    shown["95 % interval"] = [format_interval(row, "") for _, row in table.iterrows()]
    shown["leader minus it"] = [format_gain(r["lead"], r["lead_low"], r["lead_high"]) for _, r in table.iterrows()]
    limits = [
        *_ahead(table),
        "The leader is the one that has won, or of those that ran again the one that is expected to be the best by all"
        " trials and all seeds. What is stated by fresh training seeds, the same for every setting, leaves out the run"
        " by which a setting came into the race; it takes the settings that the search chose for draws of one"
        " distribution, so that the best of them is not taken for better than it is.",
        f"Differences from the leader are paired by seed; from {FEWEST} shared seeds on they have an interval, which is"
        f" corrected for the settings of one method that have as many, and for {FEWEST} to {MOST_SEEDS} seeds at which"
        " the race may end.",
        "The settings were chosen on this validation split: seeds do not show overfitting to its images.",
    ]
    return shown, [verdict, *limits]


def _ahead(table: pd.DataFrame) -> list[str]:
    if table.attrs["ahead"] is None:
        return []
    number, mean = table.attrs["ahead"]
    return [
        f"Trial {number} has not run again, and is expected to be better than all that have, by its own score and the"
        f" model: {mean:.4f}. `resume --trials +N` goes on with the race."
    ]


def show_race(board: Leaderboard) -> None:
    """Print the race of a search. Raises what `Leaderboard.race` raises."""
    _, styled = terminal()
    table, (verdict, *limits) = raced(board)
    lines = [f"Race by {board.metric}:", *TextTable(table).lines(styled=styled), ""] if len(table) else []
    sys.stdout.write("\n".join(["", *lines, verdict, "", *remarks(limits, styled)]) + "\n")
