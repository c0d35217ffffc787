"""Commands that look at a data set before a search: check it, show it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from bpkd_search.cli.app import Overrides, Space, app, print_columns, say
from bpkd_search.errors import DataError, UserError

data = typer.Typer(no_args_is_help=True, help="Check and show the data set of a search space.")
app.add_typer(data, name="data")


@data.command()
def check(
    space: Space,
    report: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Also write the report to this new file.")
    ] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Reading threads; default: one per CPU.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit code 1 for warnings too.")] = False,
    overrides: Overrides = None,
) -> None:
    """Read every image and mask of all splits, and list what is wrong; exit code 1 if something is.

    Faults: unreadable files, masks of another size than their image, ids outside the classes, images without masks and
    masks without images, equal images, a split without labelled pixels. Warnings: masks without labelled
    pixels, classes that never occur, images of two splits that look alike, images with an EXIF orientation.
    """
    from bpkd_search.config import load_run

    if report is not None and report.exists():
        raise UserError(f"{report}: exists already; choose another --json")
    block = load_run(space, list(overrides or [])).data

    from bpkd_search.data.base import listed
    from bpkd_search.data.findings import as_json, class_rows, findings, split_rows
    from bpkd_search.data.inspection import inspect_split
    from bpkd_search.files import write_text
    from bpkd_search.machine import usable_cpus
    from bpkd_search.training.source import open_data, split_names

    opened = {}
    for name in split_names(block):
        try:
            opened[name] = open_data(block, name, incomplete=True)
        except DataError as e:
            if name in ("train", "val", block.test_split):
                raise
            say(f"{name}: is not read: {str(e).splitlines()[0]}")
    splits, start = [], time.monotonic()
    with progress_bar(sum(map(len, opened.values()))) as step:
        for name, dataset in opened.items():
            splits.append(inspect_split(name, dataset, workers=workers or usable_cpus(), progress=step))
    found = findings(splits)
    seconds = time.monotonic() - start
    print_columns(split_rows(splits), right={1, 3})
    print()
    print_columns(class_rows(splits), right={0, *range(2, 2 + 2 * len(splits))})
    for finding in found:
        print(f"\n{finding.title}")
        if finding.items:
            print(listed(list(finding.items)))
    faults, warnings = (sum(finding.level == level for finding in found) for level in ("fault", "warning"))
    verdict = f"{faults} kind(s) of faults, {warnings} of warnings" if faults or warnings else "sound"
    print(f"\n{block.kind}: {sum(len(split.samples) for split in splits)} images read in {seconds:.0f} s: {verdict}")
    if report is not None:
        write_text(report, json.dumps(as_json(splits, found), indent=1) + "\n")
    if faults or (strict and warnings):
        raise SystemExit(1)


@data.command()
def show(
    space: Space,
    out: Annotated[Path, typer.Option(metavar="FILE.png", help="The new image file.")],
    split: Annotated[str, typer.Option(help="train, val, or another split.")] = "train",
    count: Annotated[int, typer.Option(min=1, max=100, help="Number of images, evenly spaced over the split.")] = 12,
    crops: Annotated[
        bool, typer.Option("--crops", help="Training crops as a run draws them in its first epoch.")
    ] = False,
    overrides: Overrides = None,
) -> None:
    """Draw images with their labels in the colours of the classes; ignored pixels are hatched."""
    from bpkd_search.config import load_run

    if out.exists():
        raise UserError(f"{out}: exists already; choose another --out")
    if out.suffix.lower() != ".png":
        raise UserError(f"--out: got {out}, must end in .png")
    if crops and split != "train":
        raise UserError(f"--crops: only the training split is cropped, got --split {split}")
    run = load_run(space, list(overrides or []))

    from bpkd_search.pictures.contact_sheet import draw_samples, samples_of

    dataset, samples = samples_of(run, split, count, crops=crops)
    print(draw_samples(samples, dataset.class_names, dataset.palette, out))


@contextmanager
def progress_bar(total: int) -> Iterator[Callable[[], None]]:
    """Within the block, show on a terminal's standard error how much of the work is done; yields what counts a step."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=total)
        yield lambda: bar.advance(task)
