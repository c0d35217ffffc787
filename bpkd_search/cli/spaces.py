"""Commands around the search spaces that are installed with the package."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bpkd_search.cli.app import app, print_columns

spaces = typer.Typer(invoke_without_command=True)
app.add_typer(spaces, name="spaces")


@spaces.callback()
def list_spaces(context: typer.Context) -> None:
    """List the search spaces that come with the package; `spaces copy` writes one to a file."""
    if context.invoked_subcommand is not None:
        return
    from bpkd_search.config import load_search
    from bpkd_search.config.search_spaces import installed_spaces, summary

    rows = [("name", "data", "trials", "")]
    for name, path in installed_spaces().items():
        config = load_search(path)
        rows.append((name, config.data.kind, str(config.search.trials), summary(path)))
    print_columns(rows, right={2})


@spaces.command()
def copy(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A name of `bpkd-search spaces`.")],
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="The new file; default: NAME.yaml here.")] = None,
) -> None:
    """Copy a search space to a new file, to change it."""
    from bpkd_search.config.search_spaces import copy_space

    print(copy_space(name, out))
