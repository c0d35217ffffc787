"""The application and the options that its commands share."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    name="bpkd-search",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Space = Annotated[
    Path, typer.Argument(metavar="SPACE.yaml", help="A search space: a file, or a name of `bpkd-search spaces`.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a key, as in train.epochs=4; repeatable."),
]
Address = Annotated[
    str | None,
    typer.Option(help="A running Ray cluster: auto, or ray://host:port. Default: Ray starts on this machine."),
]
NoWait = Annotated[bool, typer.Option("--no-wait", help="Stop on a full disk instead of waiting until there is room.")]
AcceptChanges = Annotated[
    bool,
    typer.Option("--accept-changes", help="Resume although data, teacher or configuration have changed; recorded."),
]
Verbose = Annotated[bool, typer.Option("--verbose", help="Print the messages of Ray and Optuna.")]
Experiment = Annotated[str, typer.Argument(metavar="DIR", help="An experiment directory, also as a URL of a store.")]
Experiments = Annotated[
    list[str], typer.Argument(metavar="DIR...", help="Experiment directories, also as s3:// or gs:// URLs.")
]
Format = Annotated[str, typer.Option(help="table, csv, json, parquet, markdown or latex.")]
NewFile = Annotated[Path | None, typer.Option("--out", help="Write to this new file instead of the terminal.")]


def print_version(wanted: bool) -> None:
    """Print the version and exit."""
    if wanted:
        from bpkd_search import __version__

        print(f"bpkd-search {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Find the loss hyperparameters of boundary-privileged knowledge distillation."""


def say(line: str) -> None:
    """Print a line of progress on standard error, so that output can be piped."""
    print(line, file=sys.stderr, flush=True)


def to_read(directory: str) -> str:
    """The path of an experiment directory; of one on an object store, that of a local copy as the store has it now."""
    if "://" not in directory:
        return directory
    from bpkd_search.stores.home import snapshot
    from bpkd_search.stores.store import is_store

    return str(snapshot(directory, say)) if is_store(directory) else directory


def print_columns(rows: Sequence[Sequence[str]], right: Collection[int]) -> None:
    """Print rows of equal length in columns; those with the indices `right` are right-aligned."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        texts = [
            text.rjust(width) if index in right else text.ljust(width)
            for index, (text, width) in enumerate(zip(row, widths, strict=True))
        ]
        print("  ".join(texts).rstrip())


@contextmanager
def warnings_as_lines() -> Iterator[None]:
    """Within the block, print warnings about results as one line each, once, without their location in the code."""
    said: set[str] = set()

    def once(message: Warning | str, *_: object, **__: object) -> None:
        if str(message) not in said:
            said.add(str(message))
            say(f"warning: {message}")

    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = once
        yield
