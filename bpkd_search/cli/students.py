"""Commands around one network: train, export, predict, and what they read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bpkd_search.cli.app import Overrides, Space, Verbose, app, say, to_read
from bpkd_search.errors import UserError


@app.command()
def export(
    given: Annotated[
        str,
        typer.Argument(
            metavar="DIR|FILE.yaml",
            help="An experiment directory or its URL, a `train` directory, or an exported file to verify.",
        ),
    ],
    out: Annotated[Path | None, typer.Option(help="Output directory.")] = None,
    top: Annotated[int, typer.Option(min=1, help="Number of settings.")] = 1,
    trial: Annotated[
        int | None, typer.Option(min=0, help="Export this trial, by its number, not the best ones.")
    ] = None,
    confirmed: Annotated[
        bool, typer.Option("--confirmed", help="Rank by the mean over the seeds of `confirm`, not by the search.")
    ] = False,
    format: Annotated[
        list[str] | None, typer.Option(help="yaml, json, mmseg, card, safetensors, onnx, torch, or all; repeatable.")
    ] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Then train each setting; exit code 1 if a score differs from its claim.")
    ] = False,
) -> None:
    """Export the best settings: configurations that `train` takes unchanged, students, model cards.

    With --verify, each YAML file is trained once more: with a fresh seed against its 95 % prediction interval where
    `confirm` has run, else with its own seed against its score.
    """
    if trial is not None and (top != 1 or confirmed):
        raise UserError(f"--trial: got {trial} with {'--confirmed' if confirmed else f'--top {top}'}, use one of them")
    source = Path(to_read(given))
    if source.is_file():
        if not verify or out is not None:
            raise UserError(f"{source}: is a file, which can only be verified: use --verify without --out")
        runs = [source]
    elif out is None:
        raise UserError(
            f"{source}: needs --out, the output directory"
            if source.is_dir()
            else f"{source}: no such file or directory"
        )
    else:
        from bpkd_search.export.write import export as export_files

        files = export_files(source, out, top, format or ["yaml"], claimed=verify, trial=trial, confirmed=confirmed)
        for path in files:
            print(path, flush=True)
        runs = [path for path in files if path.suffix == ".yaml"]
    if verify:
        from bpkd_search.export.verify import verify as train_again

        inside = []
        for verdict in train_again(runs, say):
            print(verdict, flush=True)
            inside.append(verdict.inside)
        if not all(inside):
            raise SystemExit(1)


@app.command()
def predict(
    student: Annotated[Path, typer.Argument(metavar="STUDENT", help="A .safetensors file of `train` or `export`.")],
    images: Annotated[Path, typer.Argument(metavar="IMAGES", help="An image, or a directory of images.")],
    out: Annotated[Path, typer.Option(help="Output directory for masks and overlays.")],
) -> None:
    """Segment images: writes masks of class ids in class colours, and overlays."""
    from bpkd_search.predict import predict as predict_images

    predict_images(student, images, out, on_file=print)


@app.command()
def train(
    config: Annotated[
        Path, typer.Argument(metavar="CONFIG.yaml", help="A run, or a search space, whose base run is trained.")
    ],
    out: Annotated[Path, typer.Option(help="Output directory for metrics, history and weights.")],
    overrides: Overrides = None,
) -> None:
    """Train one student."""
    from bpkd_search.config import load_run

    settings = load_run(config, list(overrides or []))

    from bpkd_search.training.train import train as train_run

    metrics = train_run(settings, out, say)
    print(f"miou {metrics['miou']:.4f}, edge_miou {metrics['edge_miou']:.4f}, weights in {out}/student.safetensors")


@app.command()
def teacher(
    space: Space,
    overrides: Overrides = None,
) -> None:
    """Train the teacher, or only evaluate it if it exists, and print where it is stored."""
    from bpkd_search.config import load_run

    settings = load_run(space, list(overrides or []))

    from bpkd_search.training.check import check_networks
    from bpkd_search.training.forms import teacher_form
    from bpkd_search.training.inputs import prepare_views
    from bpkd_search.training.teacher import prepare_teacher

    check_networks(settings)
    path, scores = prepare_teacher(settings, prepare_views(settings.data, teacher_form(settings.data), say), say)
    print(f"{path}\nmiou {scores['miou']:.4f}")


@app.command()
def views(
    space: Annotated[
        Path | None, typer.Argument(metavar="SPACE.yaml", help="Build what this search space reads.")
    ] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Check checksums first; without a space, of all stores.")
    ] = False,
    listed: Annotated[bool, typer.Option("--list", help="List what is stored; the default without a space.")] = False,
    prune: Annotated[str | None, typer.Option(metavar="KEY", help="Delete this store.")] = None,
    unused_for: Annotated[
        float | None, typer.Option(metavar="DAYS", min=0, help="Delete stores unused for so many days.")
    ] = None,
    folder: Annotated[Path | None, typer.Option("--dir", help="Directory of the stores; default: the cache.")] = None,
    overrides: Overrides = None,
    address: Annotated[
        str | None, typer.Option(help="Build on a Ray cluster: local, auto, or ray://host:port.")
    ] = None,
    verbose: Verbose = False,
) -> None:
    """Build views and the teacher's logits ahead of a search; list, verify and delete what is stored."""
    from bpkd_search.data.views import cache_dir
    from bpkd_search.data.views.catalog import find, list_stores, remove, select_stores, verify_store

    if space is not None and (listed or prune is not None or unused_for is not None):
        raise UserError(f"{space}: --list, --prune and --unused-for take no space; --dir selects another directory")
    if space is None:
        root = cache_dir(folder)
        chosen = select_stores(root, prune, unused_for)
        for entry in chosen:
            say(f"removing {entry.line()}")
            remove(entry)
        if verify:
            stores = list_stores(root)
            if any([verify_store(entry.path, say) for entry in stores]):
                raise UserError("damaged chunks were found; `bpkd-search views SPACE.yaml` builds them again")
            print(f"{root / 'views'}: {len(stores)} store(s) checked, no damaged chunks")
        if listed or not (prune is not None or unused_for is not None or verify):
            for entry in list_stores(root):
                print(entry.line())
        return
    from bpkd_search.config import load_run

    run = load_run(space, [*(overrides or []), *([f"data.views_dir={folder}"] if folder else [])])

    from bpkd_search.cluster.view_building import build_inputs
    from bpkd_search.training.forms import first_form
    from bpkd_search.training.inputs import store_path, view_recipe

    if verify:
        store = store_path(run.data, view_recipe(run.data, first_form(run)))
        if store.is_dir() and not verify_store(store, say):
            say(f"{store}: checked, no damaged chunks")
    prepared = build_inputs(run, say, address=address, verbose=verbose)
    print(find(cache_dir(run.data.views_dir), Path(prepared.store).name).line())


@app.command()
def losses() -> None:
    """List the loss methods: what they need, their parameters with defaults, sources, published weights."""
    from bpkd_search.losses.methods import METHODS, parameters

    for method in METHODS.values():
        source = f" ({method.source})" if method.source else ""
        print(f"{method.name}: {method.summary}{source}")
        print(f"  needs: {method.needs}")
        print("  parameters: " + (", ".join(f"{k}={v}" for k, v in parameters(method.name).items()) or "none"))
        for known in method.published:
            print(
                f"  published: {known.codebase}: {known.parameter} {known.weight:g},"
                f" times {known.factor} in this package ({known.why})"
            )


@app.command("show-edges")
def show_edges(
    target: Annotated[
        Path, typer.Argument(metavar="DIR|SPACE", help="A search space, an experiment directory or a data directory.")
    ],
    width: Annotated[str, typer.Option(help="Edge widths in pixels, odd, separated by commas.")] = "3,7,15",
    out: Annotated[Path, typer.Option(help="The image file to write.")] = Path("edges.png"),
    images: Annotated[int, typer.Option(min=1, max=12, help="Number of images.")] = 3,
    overrides: Overrides = None,
) -> None:
    """Draw images with their edge bands at several widths, to choose the range of a search."""
    from bpkd_search.errors import ConfigError

    try:
        widths = [int(part) for part in width.split(",")]
    except ValueError:
        raise ConfigError([f"got {width!r}, must be odd integers separated by commas"], "--width") from None
    if out.exists():
        raise UserError(f"{out}: exists already; choose another --out")

    from bpkd_search.pictures.edges import draw_edges, samples_of

    print(draw_edges(samples_of(target, images, list(overrides or [])), widths, out))
