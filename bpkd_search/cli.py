"""The command line: each command calls one function of the library, imported when it runs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from bpkd_search.errors import UserError

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


def main() -> None:
    """Run the command line; what the user can mend is printed and ends with exit code 2."""
    try:
        app(standalone_mode=True)
    except UserError as e:
        print(f"error: {e}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        raise SystemExit(130) from None
    except BrokenPipeError:
        sys.stderr.close()
        raise SystemExit(141) from None


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


@app.command()
def validate(files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="YAML files.")]) -> None:
    """Check search spaces and run configurations; every fault of every file is listed."""
    from bpkd_search.config.load import load_run, load_search, read_yaml
    from bpkd_search.errors import ConfigError

    failed: list[str] = []
    for path in files:
        try:
            tree = read_yaml(path)
            if "provenance" in tree or ("space" not in tree and "search" not in tree):
                load_run(path)
            else:
                load_search(path)
            print(f"{path}: ok")
        except ConfigError as e:
            failed.append(str(e))
    if failed:
        raise UserError("\n".join(failed))


@app.command()
def run(
    space: Annotated[Path, typer.Argument(metavar="SPACE.yaml", help="The search space.")],
    name: Annotated[str | None, typer.Option(help="Name of the experiment; default: the file's.")] = None,
    out: Annotated[Path | None, typer.Option(help="Its folder; default: runs/NAME.")] = None,
    trials: Annotated[int | None, typer.Option(help="Trials beside the baselines.")] = None,
    overrides: Overrides = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the search if its folder exists.")] = False,
    address: Address = None,
    verbose: Verbose = False,
) -> None:
    """Search: baselines first, then trials of the space, to a leaderboard."""
    from bpkd_search.config import load_search

    settings = list(overrides or [])
    if name is not None:
        settings.append(f"name={name}")
    if trials is not None:
        settings.append(f"search.trials={trials}")
    config = load_search(space, settings)

    from bpkd_search.search.driver import resume_search, run_search

    directory = out or Path("runs") / config.name
    if resume and (directory / "config.yaml").is_file():
        _say(f"{directory}: exists; continuing it with its own settings")
        _finish(lambda: resume_search(directory, address=address, verbose=verbose))
    else:
        _finish(lambda: run_search(config, directory, address=address, verbose=verbose))


@app.command()
def resume(directory: Experiment, address: Address = None, verbose: Verbose = False) -> None:
    """Continue a search that was stopped or killed."""
    from bpkd_search.search.driver import resume_search

    _finish(lambda: resume_search(directory, address=address, verbose=verbose))


def _finish(search: Any) -> None:
    """Run a search and show its leaderboard; a stopped one says how it goes on."""
    from bpkd_search.results.show import show_leaderboard
    from bpkd_search.search.driver import Interrupted

    try:
        board = search()
    except Interrupted as e:
        print(e, file=sys.stderr)
        raise SystemExit(130) from None
    show_leaderboard(board, "table")


@app.command()
def leaderboard(
    directory: Experiment,
    format: Annotated[str, typer.Option(help="table, csv or json.")] = "table",
    top: Annotated[int | None, typer.Option(min=1, help="Only so many rows.")] = None,
) -> None:
    """Show an experiment's trials, best first; also while its search runs."""
    from bpkd_search.results.leaderboard import Leaderboard
    from bpkd_search.results.show import show_leaderboard

    show_leaderboard(Leaderboard(directory), format, top)


@app.command()
def export(
    directory: Experiment,
    out: Annotated[Path, typer.Option(help="Folder for the files.")],
    top: Annotated[int, typer.Option(min=1, help="How many settings.")] = 1,
) -> None:
    """Write the best settings as configurations that `train` takes unchanged."""
    from bpkd_search.results.export import export_best
    from bpkd_search.results.leaderboard import Leaderboard

    for path in export_best(Leaderboard(directory), top, out):
        print(path)


@app.command()
def train(
    config: Annotated[Path, typer.Argument(metavar="CONFIG.yaml", help="A run; of a search space, its base.")],
    out: Annotated[Path, typer.Option(help="Folder for metrics, history and weights.")],
    overrides: Overrides = None,
) -> None:
    """Run one distillation."""
    from bpkd_search.config import load_run

    settings = load_run(config, list(overrides or []))

    from bpkd_search.train import train as train_run

    metrics = train_run(settings, out, _say)
    print(f"miou {metrics['miou']:.4f}, edge_miou {metrics['edge_miou']:.4f}, weights in {out}/student.safetensors")


@app.command()
def teacher(
    space: Annotated[Path, typer.Argument(metavar="SPACE.yaml", help="A search space or a run.")],
    overrides: Overrides = None,
) -> None:
    """Train the teacher, or only evaluate it where it exists, and say where it is kept."""
    from bpkd_search.config import load_run

    settings = load_run(space, list(overrides or []))

    from bpkd_search.prepare import prepare_teacher, prepare_views

    path, scores = prepare_teacher(settings, prepare_views(settings.data, _say), _say)
    print(f"{path}\nmiou {scores['miou']:.4f}")


@app.command()
def losses() -> None:
    """List the loss methods: what they need, their parameters with defaults, sources, published weights."""
    from bpkd_search.losses import METHODS, parameters

    for method in METHODS.values():
        source = f" ({method.source})" if method.source else ""
        print(f"{method.name}: {method.summary}{source}")
        print(f"  needs: {method.needs}")
        print("  parameters: " + (", ".join(f"{k}={v}" for k, v in parameters(method.name).items()) or "none"))
        for known in method.published:
            print(
                f"  published: {known.codebase}: {known.parameter} {known.weight:g},"
                f" times {known.factor} for ours ({known.why})"
            )


@app.command("show-edges")
def show_edges(
    target: Annotated[
        Path, typer.Argument(metavar="DIR|SPACE", help="A search space, an experiment or a data folder.")
    ],
    width: Annotated[str, typer.Option(help="Edge widths in pixels, odd, separated by commas.")] = "3,7,15",
    out: Annotated[Path, typer.Option(help="The picture to write.")] = Path("edges.png"),
    images: Annotated[int, typer.Option(min=1, max=12, help="How many images.")] = 3,
    overrides: Overrides = None,
) -> None:
    """Draw images with their edge bands at several widths, to choose a search range by looking."""
    from bpkd_search.errors import ConfigError

    try:
        widths = [int(part) for part in width.split(",")]
    except ValueError:
        raise ConfigError([f"got {width!r}, must be odd integers separated by commas"], "--width") from None
    if out.exists():
        raise UserError(f"{out}: exists already; choose another --out")

    from bpkd_search.edge_picture import draw_edges, samples_of

    print(draw_edges(samples_of(target, images, list(overrides or [])), widths, out))
