"""Commands of a search: check, run, continue, confirm, simulate, replay."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from bpkd_search.cli.app import Address, Experiment, Overrides, Verbose, app, say, warnings_as_lines
from bpkd_search.errors import UserError


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

    from bpkd_search.cluster.driver import resume_search, run_search

    directory = out or Path("runs") / config.name
    if resume and (directory / "config.yaml").is_file():
        say(f"{directory}: exists; continuing it with its own settings")
        _finish(lambda: resume_search(directory, address=address, verbose=verbose))
    else:
        _finish(lambda: run_search(config, directory, address=address, verbose=verbose))


@app.command()
def resume(directory: Experiment, address: Address = None, verbose: Verbose = False) -> None:
    """Continue a search that was stopped or killed."""
    from bpkd_search.cluster.driver import resume_search

    _finish(lambda: resume_search(directory, address=address, verbose=verbose))


def _finish(search: Any, show: Any = None) -> None:
    """Run a search and show what came of it, by default its leaderboard; a stopped one says how it goes on."""
    from bpkd_search.cluster.driver import Interrupted
    from bpkd_search.show.leaderboard import show_leaderboard

    try:
        board = search()
    except Interrupted as e:
        print(e, file=sys.stderr)
        raise SystemExit(130) from None
    if show is None:
        show_leaderboard(board, "table")
    else:
        show(board)


@app.command()
def confirm(
    directory: Experiment,
    top: Annotated[int, typer.Option(help="How many of the searched settings, best first.")] = 3,
    seeds: Annotated[int, typer.Option(help="Training seeds for each, none of them the search's.")] = 3,
    test: Annotated[bool, typer.Option("--test", help="Then evaluate on data.test_split, once for each.")] = False,
    address: Address = None,
    verbose: Verbose = False,
) -> None:
    """Run the best settings and the baselines again over fresh seeds, and say whether there is a winner."""
    from bpkd_search.cluster.confirm import run_confirmation
    from bpkd_search.show.confirmation import show_confirmation

    with warnings_as_lines():
        _finish(
            lambda: run_confirmation(directory, top=top, seeds=seeds, test=test, address=address, verbose=verbose),
            show_confirmation,
        )


@app.command()
def simulate(
    space: Annotated[Path, typer.Argument(metavar="SPACE.yaml", help="The search space of the recorded trials.")],
    table: Annotated[Path, typer.Option(help="Recorded trials: a Parquet table, or an experiment folder.")],
    sampler: Annotated[list[str] | None, typer.Option(help="Samplers to compare; repeatable.")] = None,
    scheduler: Annotated[list[str] | None, typer.Option(help="Schedulers to compare; repeatable.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Searches a strategy.")] = 20,
    slots: Annotated[int, typer.Option(min=1, help="Trials at once.")] = 8,
    picture: Annotated[Path | None, typer.Option(help="Draw best so far against GPU-seconds (PNG, SVG).")] = None,
    overrides: Overrides = None,
) -> None:
    """Compare search strategies on recorded trials, in simulated time; random search in full is always among them."""
    from bpkd_search.config import load_search

    if picture is not None and picture.exists():
        raise UserError(f"{picture}: exists already; choose another --picture")
    config = load_search(space, list(overrides or []))

    from bpkd_search.search import simulate as simulation

    settings = config.search
    chosen = [
        (one, other)
        for one in sampler or [settings.sampler.name]
        for other in scheduler or [settings.scheduler.name]
        if (one, other) != ("random", "none")
    ]
    recorded = simulation.read_table(table)
    rows, outcomes = simulation.compare(config, recorded, [("random", "none"), *chosen], seeds=seeds, slots=slots)
    print(rows.to_string(index=False, float_format=lambda value: f"{value:.4g}"))
    if picture is not None:
        from bpkd_search.pictures.strategies import draw

        print(draw(outcomes, settings.ranked_by, simulation.target(config, recorded), picture))


@app.command()
def replay(directory: Experiment) -> None:
    """Regenerate every suggestion and decision of a search from its log, and say where one differs."""
    from bpkd_search.search.replay import replay as replay_log

    count, differences = replay_log(directory)
    for line in differences:
        print(line)
    print(f"{count} trials regenerated, {len(differences)} difference(s)")
    if differences:
        raise SystemExit(1)
