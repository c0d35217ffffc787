"""What `bpkd-search validate --cost` prints: the figures of a search or run, with where each comes from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bpkd_search.cli.app import print_columns

if TYPE_CHECKING:
    from bpkd_search.config import RunConfig
    from bpkd_search.training.estimate import Figure


def figures_of(config: RunConfig, *, measure: bool) -> list[Figure]:
    """Return the figures of a search or run; with `measure`, hours are measured on this machine."""
    from bpkd_search.config import SearchConfig
    from bpkd_search.config.points import baselines_of
    from bpkd_search.search.expected import expected_shares
    from bpkd_search.training.estimate import Figure, Trials, estimate, rounds_of
    from bpkd_search.training.source import open_data

    train, val = open_data(config.data, "train"), open_data(config.data, "val")
    if not isinstance(config, SearchConfig):
        return estimate(config, Trials(1), train, val, measured=measure)
    trials = Trials(
        len(baselines_of(config)),
        max(config.search.trials, len(config.enqueue)),
        *expected_shares(config, rounds_of(config, train)),
    )
    expected = "expected, if early reports rank trials as their ends do"
    return [
        Figure("trials", "baselines, in full", trials.full, "runs", "computed"),
        Figure("trials", "sampled trials", trials.sampled, "runs", "computed"),
        Figure("trials", "their training", trials.sampled * trials.share, "runs", expected),
        *estimate(config, trials, train, val, measured=measure),
    ]


def print_figures(figures: Sequence[Figure]) -> None:
    """Print the figures as a table, with the sum of what is on the disk."""
    rows = [("", "", "", "")]
    for part in dict.fromkeys(figure.part for figure in figures):
        own = [figure for figure in figures if figure.part == part]
        rows += [(part if figure is own[0] else "", figure.what, _shown(figure), figure.how) for figure in own]
        if part == "disk":
            together = sum(figure.value for figure in own)
            rows.append(("", "together", _shown(type(own[0])(part, "", together, "bytes", "")), "computed"))
    print_columns(rows[1:], right={2})


def _shown(figure: Figure) -> str:
    from bpkd_search.files import shown_bytes

    value = figure.value
    if figure.unit == "bytes":
        return shown_bytes(round(value))
    if figure.unit == "hours":
        return f"{value:,.1f} hours" if value >= 1 else f"{60 * value:.1f} minutes"
    return f"{value:,.1f} {figure.unit}"
