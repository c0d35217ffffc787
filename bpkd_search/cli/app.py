"""The application and the options that its commands share."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    name="bpkd-search",
    help="Find the loss hyperparameters of boundary-privileged knowledge distillation.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a key, as in train.epochs=4.")
]
Address = Annotated[
    str | None, typer.Option(help="A Ray cluster that is up: auto, or ray://host:port. Default: a local one.")
]
Verbose = Annotated[bool, typer.Option("--verbose", help="Let Ray and Optuna say what they do.")]
Experiment = Annotated[Path, typer.Argument(metavar="DIR", help="An experiment folder.")]
Experiments = Annotated[
    list[str], typer.Argument(metavar="DIR...", help="Experiment folders, also as s3:// or gs:// URLs.")
]
Format = Annotated[str, typer.Option(help="table, csv, json, parquet, markdown or latex.")]
NewFile = Annotated[Path | None, typer.Option("--out", help="Write to this new file, not to the screen.")]


def say(line: str) -> None:
    """A line of progress, on standard error so that output can be piped."""
    print(line, file=sys.stderr, flush=True)


@contextmanager
def warnings_as_lines() -> Iterator[None]:
    """Warnings about results as one line each, without the place in the code."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = lambda message, *_, **__: say(f"warning: {message}")
        yield
