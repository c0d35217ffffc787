"""Commands that steer a search which has begun, from any terminal and node: enqueue, retry, stop, pause; and logs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bpkd_search.cli.app import Experiment, app, to_read
from bpkd_search.errors import UserError

if TYPE_CHECKING:
    from bpkd_search.search.requests import Request


@app.command()
def enqueue(
    directory: Experiment,
    point: Annotated[
        list[str],
        typer.Argument(metavar="PARAMETER=VALUE...", help="One point of the space; the base run has the other values."),
    ],
) -> None:
    """Try a point next, beside the trials that are planned; works while the search runs and after it."""
    from bpkd_search.search.requests import Enqueue, read_point

    _send(directory, Enqueue(point=read_point(point)))


@app.command()
def retry(
    directory: Experiment,
    trials: Annotated[list[int] | None, typer.Argument(metavar="TRIAL...", help="Numbers of trials.")] = None,
    failed: Annotated[bool, typer.Option("--failed", help="All trials that failed.")] = False,
) -> None:
    """Run trials again that failed or were stopped early, under their numbers and from the beginning."""
    from bpkd_search.search.requests import Retry

    if failed == bool(trials):
        got = "both" if failed else "neither"
        raise UserError(f"retry: got {got}, needs either the numbers of trials or --failed")
    _send(directory, Retry(trials=tuple(trials or ())))


@app.command()
def stop(
    directory: Experiment,
    trials: Annotated[list[int], typer.Argument(metavar="TRIAL...", help="Numbers of trials.")],
) -> None:
    """Stop trials that have not ended; they count as stopped early, and the search goes on."""
    from bpkd_search.search.requests import Stop

    _send(directory, Stop(trials=tuple(trials)))


@app.command()
def pause(directory: Experiment) -> None:
    """Start no more trials and end the search once the running ones have ended; `resume` goes on."""
    from bpkd_search.search.requests import Pause

    _send(directory, Pause())


@app.command()
def logs(
    directory: Experiment,
    trial: Annotated[int, typer.Argument(min=0, help="A trial's number.")],
    follow: Annotated[
        bool, typer.Option("--follow", help="Go on until the trial has ended, or nobody runs the search.")
    ] = False,
) -> None:
    """Show what happened to a trial, with the tracebacks of its failures."""
    from bpkd_search.show.logs import show_logs

    show_logs(Path(to_read(directory)), trial, follow)


def _send(directory: str, request: Request) -> None:
    from bpkd_search.search.sending import send

    print(send(directory, request))
