"""The command that says what networks cost."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bpkd_search.cli.app import app, print_columns, say
from bpkd_search.errors import UserError

_KEYS = ("encoder", "head", "channels", "output_stride", "auxiliary_weight")


@app.command()
def models(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="NAME|FILE.yaml...", help="The paper's networks (default: all), or files with networks."
        ),
    ] = None,
    size: Annotated[str, typer.Option(metavar="HEIGHTxWIDTH", help="Size of an image in pixels.")] = "512x1024",
    classes: Annotated[int, typer.Option(min=1, help="Number of classes.")] = 19,
) -> None:
    """Print networks, as keys of `student` and `teacher`, with their parameters and multiply-adds.

    The columns are millions of parameters, millions of them in the auxiliary head (which only training uses), and
    billions of multiply-adds for one image without that head. A file is a search space or a run.
    """
    height, _, width = size.partition("x")
    if not (height.isdecimal() and width.isdecimal() and 32 <= int(height) <= 4096 and 32 <= int(width) <= 4096):
        raise UserError(f"--size: got {size!r}, must be HEIGHTxWIDTH in pixels from 32 to 4096, such as 512x1024")
    from bpkd_search.config.load import load_run
    from bpkd_search.config.networks import Model
    from bpkd_search.config.points import to_tree
    from bpkd_search.config.search_spaces import installed_spaces
    from bpkd_search.config.software import software_of, teacher_title
    from bpkd_search.errors import ConfigError
    from bpkd_search.models.cost import cost_of
    from bpkd_search.models.paper import NETWORKS

    chosen: dict[str, Model] = {}
    for name in names or NETWORKS:
        if name in NETWORKS:
            chosen[name] = NETWORKS[name]
        elif name in installed_spaces() or Path(name).is_file():
            run = load_run(name)
            if software_of(run.teacher) == "own":
                chosen[f"{Path(name).stem}.teacher"] = run.teacher
            else:
                say(f"{name}: its teacher is {teacher_title(to_tree(run.teacher))}, which is not listed")
            chosen[f"{Path(name).stem}.student"] = run.student
        else:
            raise UserError(f"{name}: is neither a network of the paper nor a file; valid: {', '.join(NETWORKS)}")
    rows: list[tuple[str, ...]] = [("", *_KEYS, "parameters_m", "auxiliary_m", "multiply_adds_g")]
    for name, spec in chosen.items():
        try:
            cost = cost_of(spec, classes, int(height), int(width))
        except ConfigError as e:
            raise ConfigError(e.faults, name) from e
        millions = f"{cost.parameters / 1e6:.2f}", f"{cost.auxiliary / 1e6:.2f}"
        given = [f"{getattr(spec, key)}" for key in _KEYS] if spec.factory is None else [spec.described, *[""] * 4]
        rows.append((name, *given, *millions, f"{cost.multiply_adds / 1e9:.1f}"))
    print_columns(rows, right=range(3, 9))
