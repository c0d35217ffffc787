"""The command that lists the searches of a memory, and adds finished ones to it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bpkd_search.cli.app import app, print_columns
from bpkd_search.errors import ExperimentError


@app.command()
def memory(
    where: Annotated[str, typer.Argument(metavar="DIR", help="A memory (search.memory): a folder, or a URL.")],
    add: Annotated[
        list[Path] | None,
        typer.Option("--add", metavar="EXPERIMENT", help="Leave the table of this finished search there; repeatable."),
    ] = None,
) -> None:
    """List the searches that a memory holds, the newest first; with --add, leave others there first.

    The best is the best score of one trial, in full and within the constraints.
    """
    from bpkd_search.experiment.memory import Memory
    from bpkd_search.search.memory import add_experiment

    place = Memory(where)
    for directory in add or ():
        print(add_experiment(directory, place))
    searches, faults = place.searches()
    rows = [("name", "date", "trials", "metric", "best", "space", "file")]
    for past in sorted(searches, key=lambda past: (past.date, past.file), reverse=True):
        metric = next(iter(past.goals))
        best = past.best()
        shown = "" if best is None else f"{best:.4f}"
        trials = str(past.table.num_rows)
        rows.append((past.name, past.date[:10], trials, metric, shown, ", ".join(past.space), past.file))
    if searches:
        print_columns(rows, right={2, 4})
    elif not faults:
        print(f"{place.name}: holds no search yet")
    if faults:
        raise ExperimentError("\n".join(faults))
