"""The command that looks over the machines before a search."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bpkd_search.cli.app import Address, Overrides, Verbose, app, print_columns, say

if TYPE_CHECKING:
    from bpkd_search.cluster.doctor import Diagnosis
    from bpkd_search.cluster.node_checks import Machine


@app.command()
def doctor(
    space: Annotated[
        Path | None, typer.Argument(metavar="[SPACE.yaml]", help="Also check what this search reads and writes.")
    ] = None,
    out: Annotated[str, typer.Option(help="Directory of the experiments, or URL, as for `run`.")] = "runs",
    overrides: Overrides = None,
    address: Address = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print facts and findings as JSON.")] = False,
    verbose: Verbose = False,
) -> None:
    """Ask every node of a cluster what a search needs, and list what is wrong; exit code 1 if something is.

    Faults: nodes that do not answer, other versions of Python and libraries, GPUs that Ray counts and PyTorch cannot
    use, drivers that are too old, directories that cannot be written, are not shared or full, data and weights that
    differ, clocks that are off. Warnings: idle or mixed GPUs, low limits, a cluster without a token.
    """
    from bpkd_search.config import load_search
    from bpkd_search.errors import UserError
    from bpkd_search.stores.store import Store, is_url

    if is_url(out):
        Store(out)  # a wrong URL is refused before Ray starts
    if space is None and overrides:
        raise UserError(f"--set: got {overrides[0]}, needs SPACE.yaml")
    config = load_search(space, list(overrides or [])) if space is not None else None

    from bpkd_search.cluster.doctor import diagnose
    from bpkd_search.cluster.node_checks import FAULT
    from bpkd_search.cluster.node_checks import as_json as plain

    found = diagnose(config, out, say, address=address, verbose=verbose)
    faults = sum(finding.level == FAULT for finding in found.findings)
    if as_json:
        print(json.dumps(plain(found.machines, found.findings), indent=1))
    else:
        _print_table(found)
        print()
        for finding in found.findings:
            print(finding)
        warnings = len(found.findings) - faults
        verdict = f"{faults} fault(s), {warnings} warning(s)" if found.findings else "nothing is wrong"
        print(f"{len(found.machines) - 1} node(s) and the driver: {verdict}")
    if faults:
        raise SystemExit(1)


def _print_table(found: Diagnosis) -> None:
    """Print what all machines have in common, then one row for each."""
    answered = [machine for machine in found.machines if machine.error is None]
    versions = {name: {each.facts["versions"][name] for each in answered} for name in answered[0].facts["versions"]}
    same = [f"{name} {value}" for name, (value, *others) in versions.items() if not others and value]
    print(f"on all: {', '.join(same) or 'nothing the same'}\n")
    differing = [name for name, values in versions.items() if len(values) > 1 or None in values]
    folders = [*answered[0].folders]
    head = ["machine", *differing, "GPUs", "driver", *folders, "contents", "clock"]
    print_columns([head, *(_row(machine, answered[0], differing, folders) for machine in found.machines)], right=())


def _row(machine: Machine, driver: Machine, versions: list[str], folders: list[str]) -> list[str]:
    from bpkd_search.files import shown_bytes

    if machine.error is not None:
        return [machine.name, *["no answer", *[""] * (len(versions) + len(folders) + 3)]]
    usable, kinds = len(machine.facts["torch"]["gpus"]), f" ({machine.kinds})" if machine.kinds else ""
    states = []
    for name in folders:
        folder = machine.folders[name]
        free = f"{shown_bytes(folder['free'])} free" if folder["free"] is not None else "not there"
        free = "written" if "://" in folder["path"] else free
        states.append("not written" if folder["error"] else free if folder["same"] else f"own, {free}")
    contents = "" if not machine.contents else "same" if machine.contents == driver.contents else "other"
    return [
        machine.name,
        *(machine.facts["versions"][name] or "none" for name in versions),
        f"PyTorch {usable}" + (f", Ray {machine.gpus:g}" if machine is not driver else "") + kinds,
        machine.facts["driver"] or "none",
        *states,
        contents,
        f"{machine.skew or 0:+.1f} s",
    ]
