"""Commands of a search: validate, run, resume, confirm, simulate, replay."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from bpkd_search.cli.app import (
    AcceptChanges,
    Address,
    Experiment,
    NoWait,
    Overrides,
    Space,
    Verbose,
    app,
    say,
    to_read,
    warnings_as_lines,
)
from bpkd_search.errors import HeldError, UserError


@app.command()
def validate(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE...", help="YAML files, or names of `bpkd-search spaces`.")
    ],
    overrides: Overrides = None,
    cost: Annotated[
        bool, typer.Option("--cost", help="Print what each needs: disk, memory, hours. The data must be there.")
    ] = False,
    measure: Annotated[
        bool, typer.Option("--measure", help="With --cost: measure hours here, by some real steps of training.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="With --cost: print the figures as JSON.")] = False,
) -> None:
    """Check search spaces and run configurations, and list every error of every file; --set applies to each.

    The hours of --cost are those of one device that trains one trial after the other. Without --measure they are
    operations at an assumed speed, a quarter of what the makers of some GPUs state. Nothing is written.
    """
    if (measure or as_json) and not cost:
        raise UserError(f"{'--measure' if measure else '--json'}: needs --cost")
    from dataclasses import asdict

    from bpkd_search.cli.cost import figures_of, print_figures
    from bpkd_search.config import RunConfig
    from bpkd_search.config.load import load_run, load_search, read_yaml
    from bpkd_search.errors import ConfigError

    config: RunConfig
    failed: list[str] = []
    found = {}
    for path in files:
        try:
            tree = read_yaml(path)
            if "provenance" in tree or ("space" not in tree and "search" not in tree):
                config = load_run(path, overrides or ())
            else:
                config = load_search(path, overrides or ())
            # PyTorch is imported only once there are networks to build.
            from bpkd_search.training.check import check_networks

            check_networks(config)
            if not as_json:
                print(f"{path}: ok")
            if cost:
                found[str(path)] = figures_of(config, measure=measure)
                if not as_json:
                    print_figures(found[str(path)])
        except ConfigError as e:
            failed.append(str(ConfigError(e.faults, str(path))))
    if as_json:
        print(json.dumps({name: [asdict(figure) for figure in figures] for name, figures in found.items()}, indent=1))
    if failed:
        raise UserError("\n".join(failed))


@app.command()
def run(
    space: Space,
    name: Annotated[str | None, typer.Option(help="Name of the experiment; default: the one in the file.")] = None,
    out: Annotated[
        str | None, typer.Option(help="Experiment directory, also as a URL of a store; default: runs/NAME.")
    ] = None,
    trials: Annotated[int | None, typer.Option(help="Number of trials, not counting the baselines.")] = None,
    overrides: Overrides = None,
    resume: Annotated[bool, typer.Option("--resume", help="Resume the search if its directory exists.")] = False,
    address: Address = None,
    verbose: Verbose = False,
    no_wait: NoWait = False,
    accept_changes: AcceptChanges = False,
) -> None:
    """Run a search: baselines first, then trials of the space; ends with a leaderboard."""
    from bpkd_search.config import load_search

    settings = list(overrides or [])
    if name is not None:
        settings.append(f"name={json.dumps(name)}")  # a name is a string, even if it looks like a number or a boolean
    if trials is not None:
        settings.append(f"search.trials={trials}")
    config = load_search(space, settings)

    from bpkd_search.cluster.driver import run_search
    from bpkd_search.experiment.reading import is_experiment

    directory = out or str(Path("runs") / config.name)
    if resume and is_experiment(directory):
        say(f"{directory}: exists; resuming it with its stored configuration")
        _resume(directory, address, verbose, no_wait, accept_changes)
    else:
        _finish(lambda: run_search(config, directory, address=address, verbose=verbose, wait=not no_wait))


@app.command()
def resume(
    directory: Experiment,
    trials: Annotated[
        str | None, typer.Option(metavar="+N|N", help="N more trials, or N in all, not counting the baselines.")
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Change search.trials, search.budget, search.concurrent, search.on_end or a range of the space.",
        ),
    ] = None,
    address: Address = None,
    verbose: Verbose = False,
    no_wait: NoWait = False,
    accept_changes: AcceptChanges = False,
) -> None:
    """Resume a search that was stopped, killed or paused, or change one that runs or has ended, by --trials and --set.

    More trials are those that a longer search would have had. Of a search that runs elsewhere, its driver is told.
    """
    settings, more = list(overrides or ()), 0
    if trials is not None:
        if not re.fullmatch(r"\+?[0-9]+", trials) or int(trials) == 0:
            raise UserError(f"--trials: got {trials!r}, must be +N for N more, or N for N in all, as in +20")
        if trials.startswith("+"):
            more = int(trials)
        else:
            settings.append(f"search.trials={int(trials)}")
    try:
        _resume(directory, address, verbose, no_wait, accept_changes, more, settings)
    except HeldError:
        if not settings and not more:
            raise
        from bpkd_search.search.requests import Change
        from bpkd_search.search.sending import send

        print(send(directory, Change(settings=tuple(settings), more_trials=more)))


def _resume(
    directory: str,
    address: str | None,
    verbose: bool,
    no_wait: bool,
    accept_changes: bool,
    more_trials: int = 0,
    settings: Sequence[str] = (),
) -> None:
    from bpkd_search.cluster.driver import resume_search

    _finish(
        lambda: resume_search(
            directory,
            address=address,
            verbose=verbose,
            wait=not no_wait,
            accept_changes=accept_changes,
            more_trials=more_trials,
            settings=settings,
        )
    )


def _finish(search: Any, show: Any = None) -> None:
    """Run a search and show its result, by default the leaderboard; print how to resume one that was stopped."""
    from bpkd_search.cluster.interruption import Interrupted
    from bpkd_search.show.leaderboard import show_leaderboard
    from bpkd_search.show.race import show_race

    try:
        board = search()
    except Interrupted as e:
        print(e, file=sys.stderr)
        raise SystemExit(130) from None
    if show is None:
        show_leaderboard(board, "table")
        if board.raced:
            show_race(board)
    else:
        show(board)


@app.command()
def confirm(
    directory: Experiment,
    top: Annotated[int, typer.Option(help="Number of searched settings, best first.")] = 3,
    seeds: Annotated[int, typer.Option(help="Number of training seeds for each setting, none used in the search.")] = 3,
    test: Annotated[
        bool, typer.Option("--test", help="Evaluate each student once on data.test_split afterwards.")
    ] = False,
    address: Address = None,
    verbose: Verbose = False,
    no_wait: NoWait = False,
    accept_changes: AcceptChanges = False,
) -> None:
    """Run the best settings and the baselines again over fresh seeds, and report whether there is a winner."""
    from bpkd_search.cluster import confirm as confirmation
    from bpkd_search.show.confirmation import show_confirmation

    with warnings_as_lines():
        _finish(
            lambda: confirmation.confirm(
                directory,
                top=top,
                seeds=seeds,
                test=test,
                address=address,
                verbose=verbose,
                wait=not no_wait,
                accept_changes=accept_changes,
            ),
            show_confirmation,
        )


@app.command()
def simulate(
    space: Space,
    table: Annotated[Path, typer.Option(help="Recorded trials: a Parquet table, or an experiment directory.")],
    sampler: Annotated[list[str] | None, typer.Option(help="Samplers to compare; repeatable.")] = None,
    scheduler: Annotated[list[str] | None, typer.Option(help="Schedulers to compare; repeatable.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Number of searches per strategy.")] = 20,
    slots: Annotated[int, typer.Option(min=1, help="Number of trials that run at once.")] = 8,
    picture: Annotated[
        Path | None, typer.Option(help="Plot the best score so far against GPU-seconds (PNG, SVG).")
    ] = None,
    overrides: Overrides = None,
) -> None:
    """Compare search strategies on recorded trials of a space, in simulated time, with random search at full budget."""
    from bpkd_search.config import load_search

    if picture is not None and picture.exists():
        raise UserError(f"{picture}: exists already; choose another --picture")
    config = load_search(space, list(overrides or []))

    from bpkd_search.search import simulate as simulation
    from bpkd_search.search.backends import read_table

    settings = config.search
    chosen = [
        (one, other)
        for one in sampler or [settings.sampler.name]
        for other in scheduler or [settings.scheduler.name]
        if (one, other) != ("random", "none")
    ]
    recorded = read_table(table)
    rows, outcomes = simulation.simulate(config, recorded, [("random", "none"), *chosen], seeds=seeds, slots=slots)
    print(rows.to_string(index=False, float_format=lambda value: f"{value:.4g}"))
    if picture is not None:
        from bpkd_search.pictures.strategies import draw

        print(draw(outcomes, settings.ranked_by, simulation.target(config, recorded), picture))


@app.command()
def replay(directory: Experiment) -> None:
    """Regenerate every suggestion and decision of a search from its event log, and print every difference."""
    from bpkd_search.search.replay import replay as replay_log

    count, differences = replay_log(Path(to_read(directory)))
    for line in differences:
        print(line)
    print(f"{count} trials regenerated, {len(differences)} difference(s)")
    if differences:
        raise SystemExit(1)
