"""Commands that read experiments: tables, comparisons, the HTML report, the dashboard."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bpkd_search.cli.app import Experiment, Experiments, Format, NewFile, app, say, to_read, warnings_as_lines
from bpkd_search.errors import UserError


@app.command()
def leaderboard(
    directories: Experiments,
    where: Annotated[
        str | None,
        typer.Option(metavar="CONDITION", help="Only trials like \"method == 'bpkd' and miou > 0.5\"."),
    ] = None,
    sort: Annotated[
        str | None,
        typer.Option(metavar="COLUMNS", help="Sort by these, best first; -COLUMN: worst first."),
    ] = None,
    columns: Annotated[
        str | None, typer.Option(metavar="COLUMNS", help="Show only these, separated by commas.")
    ] = None,
    top: Annotated[int | None, typer.Option(min=1, help="Show only this many rows.")] = None,
    format: Format = "table",
    out: NewFile = None,
    watch: Annotated[bool, typer.Option("--watch", help="Redraw until no trial is running.")] = False,
) -> None:
    """Show the trials of one or more experiments, best first; works while their searches run.

    estimate, estimate_low and estimate_high are what a trial's setting is expected to reach in the mean over seeds at
    full budget, with a 95 % interval. A table of up to 1,000 trials shows them; other formats and --watch only if
    --sort, --where or --columns names them.
    """
    from bpkd_search.results.leaderboard import Leaderboard
    from bpkd_search.show.leaderboard import View, show_leaderboard, watch_leaderboard

    view = View(where, sort, columns, top)
    with warnings_as_lines():
        if watch:
            if format != "table" or out is not None:
                raise UserError("--watch: draws a table, valid without --format and --out")
            watch_leaderboard(Leaderboard(directories), view)
        else:
            show_leaderboard(Leaderboard(directories), format, view, out)


@app.command()
def compare(
    directories: Experiments,
    methods: Annotated[str | None, typer.Option(help="Compare only these, separated by commas.")] = None,
    expected_best: Annotated[
        bool, typer.Option("--expected-best", help="Compare the expected best score after k trials of each instead.")
    ] = False,
    format: Format = "table",
    out: NewFile = None,
) -> None:
    """Compare methods and experiments, at equal epochs and at equal GPU-seconds, or at equal numbers of trials."""
    from bpkd_search.results.leaderboard import Leaderboard
    from bpkd_search.show.analysis import show_comparison, show_expected_best

    with warnings_as_lines():
        chosen = [name.strip() for name in methods.split(",")] if methods else None
        show = show_expected_best if expected_best else show_comparison
        show(Leaderboard(directories), chosen, format, out)


@app.command()
def show(
    directory: Annotated[str, typer.Argument(metavar="DIR", help="An experiment directory, also as a URL.")],
    trial: Annotated[str, typer.Argument(help="A trial's number, its trial_id, or best.")] = "best",
    format: Annotated[str, typer.Option(help="table or json.")] = "table",
) -> None:
    """Show everything about one trial."""
    from bpkd_search.results.leaderboard import Leaderboard
    from bpkd_search.show.trial import show_trial

    with warnings_as_lines():
        show_trial(Leaderboard(directory), trial, format)


@app.command()
def importance(
    directories: Experiments,
    format: Format = "table",
    out: NewFile = None,
) -> None:
    """Show how much each searched parameter matters: by the model of the space (fANOVA) and by PED-ANOVA."""
    from bpkd_search.results.leaderboard import Leaderboard
    from bpkd_search.show.analysis import show_importance

    with warnings_as_lines():
        show_importance(Leaderboard(directories), format, out)


@app.command()
def report(
    directory: Annotated[str, typer.Argument(metavar="DIR", help="An experiment directory, also as a URL.")],
    out: Annotated[Path, typer.Option(metavar="FILE.html", help="The HTML file to write.")],
    panels: Annotated[int, typer.Option(min=0, max=24, help="Number of validation images to show.")] = 4,
) -> None:
    """Write the report of an experiment: one HTML file that works offline."""
    from bpkd_search.report import report as write_report

    with warnings_as_lines():
        print(write_report(to_read(directory), out, panels))


@app.command()
def dashboard(
    directory: Experiment,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port on 127.0.0.1.")] = 8080,
) -> None:
    """Serve Optuna's dashboard for an experiment's study on this machine."""
    from bpkd_search.show.dashboard import serve

    serve(Path(to_read(directory)), port, say)
