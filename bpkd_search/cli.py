"""The command line: each command calls one function of the library, imported when it runs."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
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
Experiments = Annotated[
    list[str], typer.Argument(metavar="DIR...", help="Experiment folders, also as s3:// or gs:// URLs.")
]
Format = Annotated[str, typer.Option(help="table, csv, json, parquet, markdown or latex.")]
NewFile = Annotated[Path | None, typer.Option("--out", help="Write to this new file, not to the screen.")]


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


@contextmanager
def _warnings_as_lines() -> Iterator[None]:
    """Warnings about results as one line each, without the place in the code."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = lambda message, *_, **__: _say(f"warning: {message}")
        yield


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
    from bpkd_search.results.confirm import show_confirmation
    from bpkd_search.search.confirm import run_confirmation

    with _warnings_as_lines():
        _finish(
            lambda: run_confirmation(directory, top=top, seeds=seeds, test=test, address=address, verbose=verbose),
            show_confirmation,
        )


def _finish(search: Any, show: Any = None) -> None:
    """Run a search and show what came of it, by default its leaderboard; a stopped one says how it goes on."""
    from bpkd_search.results.show import show_leaderboard
    from bpkd_search.search.driver import Interrupted

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
def leaderboard(
    directories: Experiments,
    where: Annotated[
        str | None, typer.Option(metavar="CONDITION", help="Only these, as in \"method == 'bpkd' and miou > 0.5\".")
    ] = None,
    sort: Annotated[
        str | None, typer.Option(metavar="COLUMNS", help="Sort by columns, best first; -COLUMN turns one around.")
    ] = None,
    columns: Annotated[str | None, typer.Option(metavar="COLUMNS", help="Show these, separated by commas.")] = None,
    top: Annotated[int | None, typer.Option(min=1, help="Only so many rows.")] = None,
    format: Format = "table",
    out: NewFile = None,
    watch: Annotated[bool, typer.Option("--watch", help="Redraw until no trial runs.")] = False,
) -> None:
    """Show the trials of one or more experiments, best first; also while their searches run."""
    from bpkd_search.results.leaderboard import Leaderboard
    from bpkd_search.results.show import View, show_leaderboard, watch_leaderboard

    view = View(where, sort, columns, top)
    with _warnings_as_lines():
        if watch:
            if format != "table" or out is not None:
                raise UserError("--watch: draws a table, valid without --format and --out")
            watch_leaderboard(Leaderboard(directories), view)
        else:
            show_leaderboard(Leaderboard(directories), format, view, out)


@app.command()
def compare(
    directories: Experiments,
    methods: Annotated[str | None, typer.Option(help="Only these, separated by commas.")] = None,
    format: Format = "table",
    out: NewFile = None,
) -> None:
    """Set methods and experiments beside one another, at equal epochs and at equal GPU-seconds."""
    from bpkd_search.results.leaderboard import Leaderboard
    from bpkd_search.results.show_analysis import show_comparison

    with _warnings_as_lines():
        chosen = [name.strip() for name in methods.split(",")] if methods else None
        show_comparison(Leaderboard(directories), chosen, format, out)


@app.command()
def show(
    directory: Annotated[str, typer.Argument(metavar="DIR", help="An experiment folder, also as a URL.")],
    trial: Annotated[str, typer.Argument(help="Its number, its trial_id, or best.")] = "best",
    format: Annotated[str, typer.Option(help="table or json.")] = "table",
) -> None:
    """Show everything about one trial."""
    from bpkd_search.results.detail import show_trial
    from bpkd_search.results.leaderboard import Leaderboard

    with _warnings_as_lines():
        show_trial(Leaderboard(directory), trial, format)


@app.command()
def importance(
    directories: Experiments,
    format: Format = "table",
    out: NewFile = None,
) -> None:
    """Show how much each searched parameter matters, by PED-ANOVA and fANOVA."""
    from bpkd_search.results.leaderboard import Leaderboard
    from bpkd_search.results.show_analysis import show_importance

    with _warnings_as_lines():
        show_importance(Leaderboard(directories), format, out)


@app.command()
def report(
    directory: Annotated[str, typer.Argument(metavar="DIR", help="An experiment folder, also as a URL.")],
    out: Annotated[Path, typer.Option(metavar="FILE.html", help="The page to write.")],
    panels: Annotated[int, typer.Option(min=0, max=24, help="Validation images to show.")] = 4,
) -> None:
    """Write one HTML page of an experiment that works without a network."""
    from bpkd_search.results.leaderboard import Leaderboard

    if out.exists():
        raise UserError(f"{out}: exists already; choose another --out")
    with _warnings_as_lines():
        board = Leaderboard(directory)
        board.trials(["state"])

        from bpkd_search.panels import make_panels
        from bpkd_search.results.report import plotly_script, write_report

        plotly_script()  # said before the pictures are made
        print(write_report(board, out, make_panels(board, panels)))


@app.command()
def dashboard(
    directory: Experiment,
    port: Annotated[int, typer.Option(min=1, max=65535, help="On 127.0.0.1.")] = 8080,
) -> None:
    """Serve Optuna's dashboard of an experiment's study on this machine."""
    from bpkd_search.results.report_dashboard import serve

    serve(directory, port, _say)


@app.command()
def export(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="An experiment folder, or one that `train` wrote.")],
    out: Annotated[Path, typer.Option(help="Folder for the files.")],
    top: Annotated[int, typer.Option(min=1, help="How many settings.")] = 1,
    format: Annotated[
        list[str] | None, typer.Option(help="yaml, json, mmseg, card, safetensors, onnx, torch, or all; repeatable.")
    ] = None,
) -> None:
    """Write the best settings as configurations that `train` takes unchanged, their students, a model card."""
    from bpkd_search.export import export as export_files

    for path in export_files(directory, out, top, format or ["yaml"]):
        print(path)


@app.command()
def predict(
    student: Annotated[Path, typer.Argument(metavar="STUDENT", help="A .safetensors file of `train` or `export`.")],
    images: Annotated[Path, typer.Argument(metavar="IMAGES", help="An image, or a folder of images.")],
    out: Annotated[Path, typer.Option(help="Folder for the masks and overlays.")],
) -> None:
    """Segment images: masks of class ids in class colours, and overlays."""
    from bpkd_search.predict import predict as predict_images

    for path in predict_images(student, images, out):
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
def views(
    space: Annotated[Path | None, typer.Argument(metavar="SPACE.yaml", help="Build what this one reads.")] = None,
    verify: Annotated[bool, typer.Option("--verify", help="Compare checksums first; without a space, of all.")] = False,
    listed: Annotated[bool, typer.Option("--list", help="Say what is kept; so without any option.")] = False,
    prune: Annotated[str | None, typer.Option(metavar="KEY", help="Free this one.")] = None,
    unused_for: Annotated[float | None, typer.Option(metavar="DAYS", min=0, help="Free those unused so long.")] = None,
    folder: Annotated[Path | None, typer.Option("--dir", help="Their folder; default: the cache.")] = None,
    overrides: Overrides = None,
    address: Annotated[
        str | None, typer.Option(help="Build by all of a Ray cluster: local, auto, or ray://host:port.")
    ] = None,
    verbose: Verbose = False,
) -> None:
    """Build views and the teacher's logits ahead of a search; list, check and free what is kept."""
    from bpkd_search.data.views import cache_dir
    from bpkd_search.data.views.catalog import choose, find, list_stores, remove, verify_store

    if space is not None and (listed or prune is not None or unused_for is not None):
        raise UserError(f"{space}: --list, --prune and --unused-for take no space; --dir names another folder")
    if space is None:
        root = cache_dir(folder)
        chosen = choose(root, prune, unused_for)
        for entry in chosen:
            _say(f"removing {entry.line()}")
            remove(entry)
        if verify and any([verify_store(entry.path, _say) for entry in list_stores(root)]):
            raise UserError("damaged chunks were found; `bpkd-search views SPACE.yaml` builds them again")
        if listed or not (prune is not None or unused_for is not None or verify):
            for entry in list_stores(root):
                print(entry.line())
        return
    from bpkd_search.config import load_run

    run = load_run(space, [*(overrides or []), *([f"data.views_dir={folder}"] if folder else [])])

    from bpkd_search.prepare import views_path
    from bpkd_search.search.build import build

    if verify:
        verify_store(views_path(run.data), _say)
    build(run, _say, address=address, verbose=verbose)
    print(find(cache_dir(run.data.views_dir), views_path(run.data).name).line())


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
        from bpkd_search.search.simulate_picture import draw

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
