"""Looks over a cluster before a search: asks the driver's machine and every node, and finds what does not fit."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bpkd_search.cluster import node_facts
from bpkd_search.cluster.connection import connect_ray
from bpkd_search.cluster.node_checks import Finding, Folder, Machine, find_faults
from bpkd_search.cluster.nodes import Node, pinned
from bpkd_search.config import SearchConfig
from bpkd_search.data.views import cache_dir
from bpkd_search.errors import UserError
from bpkd_search.stores.store import is_url
from bpkd_search.training.fingerprints import fingerprints
from bpkd_search.training.inputs import Say

DRIVER = "driver"
ANSWER_SECONDS, CONTENT_SECONDS = 180.0, 3600.0
STORE_REMEDY = "give all machines its address, such as AWS_ENDPOINT_URL, and the credentials, before Ray starts there"
EXPERIMENTS, VIEWS, COPIES, TEMPORARY = "experiments", "views", "copies", "temporary"


@dataclass
class Diagnosis:
    """The machines, the driver's first, and everything that is wrong with them."""

    machines: list[Machine]
    findings: list[Finding]


@dataclass
class Answers:
    """What the machines said: values and errors by name, and bounds of how far their clocks are from the driver's."""

    values: dict[str, Any] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    spans: dict[str, tuple[float, float]] = field(default_factory=dict)


def diagnose(
    config: SearchConfig | None, experiments: Path | str, say: Say, *, address: str | None = None, verbose: bool = False
) -> Diagnosis:
    """Ask every node of a Ray cluster, or of one started on this machine, and this process, and compare the answers.

    `experiments` is the folder of experiment folders, or a URL of a store; with a `config`, what it reads and writes
    is looked at too. Of what this writes, only hashes of the data stay, with the views, and empty objects in a store.
    Raises `ResourceError` if Ray cannot be reached or started.
    """
    on_store = is_url(experiments)
    folders = {EXPERIMENTS: str(experiments) if on_store else str(Path(experiments).absolute())}
    if config is not None:
        folders[VIEWS] = str(cache_dir(config.data.views_dir))
        if config.data.local_dir is not None:
            folders[COPIES] = str(config.data.local_dir)
    with connect_ray(address, verbose) as nodes:
        say(f"asking {len(nodes)} node(s)")
        machines = _machines(nodes)
        facts = _ask(nodes, node_facts.machine_facts, lambda name: name != DRIVER)
        nodes = [node for node in nodes if node.name not in facts.errors]
        placed, clocks, lost = _folders(nodes, folders)
        for i, machine in enumerate(machines):
            name = machine.name
            machines[i] = replace(
                machine,
                facts=facts.values.get(name, {}),
                error={**lost, **facts.errors}.get(name),
                folders=placed.get(name, {}),
                skew=clock_error(clocks, name),
            )
        unread = _read(config, machines, nodes, say) if config is not None else {}
    return Diagnosis(machines, find_faults(machines, folder_rules(config, on_store=on_store), unread))


def folder_rules(config: SearchConfig | None, *, on_store: bool = False) -> dict[str, Folder]:
    """Return the folders that are looked at, and what is expected of each; `on_store` says that experiments are."""
    copied = config is not None and config.data.local_dir is not None
    rules = {EXPERIMENTS: Folder("experiments", "give --out a folder that all machines share")}
    if on_store:
        rules[EXPERIMENTS] = Folder("experiments", STORE_REMEDY, store=True)
    if config is not None:
        option = "set data.views_dir to a folder that all machines share"
        rules[VIEWS] = Folder("views", option if copied else f"{option}, or data.local_dir", shared=not copied)
    if copied:
        rules[COPIES] = Folder("copies", "set data.local_dir to another folder", shared=False)
    rules[TEMPORARY] = Folder("Ray's files", "start Ray with another --temp-dir", shared=False)
    return rules


def _machines(nodes: Sequence[Node]) -> list[Machine]:
    import ray

    stores = {node["NodeID"]: int(node["Resources"].get("object_store_memory", 0)) for node in ray.nodes()}
    found = (Machine(node.name, node.gpus, stores.get(node.id, 0), kind=node.kind) for node in nodes)
    return [Machine(DRIVER), *found]


def _ask(
    nodes: Sequence[Node],
    function: Callable[[Any], Any],
    argument: Callable[[str], Any],
    seconds: float = ANSWER_SECONDS,
    here: bool = True,
) -> Answers:
    """Call a function on every node, and `here`, in this process, with the `argument` for its name."""
    import ray
    from ray.exceptions import GetTimeoutError, RayError, RayTaskError

    # Nodes without this package or with another version run the functions all the same.
    ray.cloudpickle.register_pickle_by_value(node_facts)
    # No CPU is asked for: a search may hold them all.
    task: Any = ray.remote(num_cpus=0, max_retries=0)(function)
    answers = Answers()
    running = {}
    for node in nodes:
        running[node.name] = (time.time(), task.options(**pinned(node.id)).remote(argument(node.name)))
    if here:
        start = time.time()
        answers.values[DRIVER] = function(argument(DRIVER))
        answers.spans[DRIVER] = (start, time.time())
    deadline = time.monotonic() + seconds
    for name, (began, reference) in running.items():
        try:
            answers.values[name] = ray.get(reference, timeout=max(0.0, deadline - time.monotonic()))
            answers.spans[name] = (began, time.time())
        except GetTimeoutError:
            answers.errors[name] = f"no answer within {seconds:g} s"
            ray.cancel(reference, force=True)
        except RayTaskError as e:
            answers.errors[name] = str(e.cause if isinstance(e.cause, UserError) else str(e).strip().splitlines()[-1])
        except RayError as e:
            answers.errors[name] = str(e).strip().splitlines()[0]
    return answers


def _folders(
    nodes: Sequence[Node], folders: dict[str, str]
) -> tuple[dict[str, dict[str, Any]], Answers, dict[str, str]]:
    """Return the folders of each machine, the clocks, and errors: all leave marks and look for those of the others."""
    left = _ask(nodes, node_facts.leave_marks, lambda name: {**folders, TEMPORARY: None})
    own = {name: [each["mark"] for each in found.values() if each["mark"]] for name, found in left.values.items()}
    try:
        elsewhere = [mark for name, marks in own.items() if name != DRIVER for mark in marks]
        seen = _ask(nodes, node_facts.see_marks, lambda name: elsewhere if name == DRIVER else own[DRIVER])
    finally:
        clocks = _ask(nodes, node_facts.remove_marks, lambda name: own.get(name, []))
    by_driver = dict(zip(elsewhere, seen.values[DRIVER], strict=True))
    for name, found in left.values.items():
        by_node = dict(zip(own[DRIVER], seen.values.get(name, []), strict=False))
        for kind, facts in found.items():
            mark, drivers = facts["mark"], left.values[DRIVER][kind]["mark"]
            facts["same"] = name == DRIVER or (by_driver.get(mark, False) and by_node.get(drivers, drivers is None))
    return left.values, clocks, {**clocks.errors, **seen.errors, **left.errors}


def clock_error(clocks: Answers, name: str) -> float | None:
    """Seconds by which a clock is wrong at least: its time lies outside of the driver's, before and after the call."""
    if name not in clocks.spans:
        return None
    before, after = clocks.spans[name]
    there = float(clocks.values[name])
    return min(0.0, there - before) + max(0.0, there - after)


def _read(config: SearchConfig, machines: list[Machine], nodes: Sequence[Node], say: Say) -> dict[str, str]:
    """Give the machines their contents of what trials read; return the errors of reading it.

    Nodes that only get copies, and those with another version of the package, are not asked.
    """
    say("reading what trials read")
    try:
        machines[0] = replace(machines[0], contents=contents(config))
    except UserError as e:
        return {DRIVER: str(e)}
    package = machines[0].facts["versions"]["bpkd-search"]
    asked = {
        machine.name
        for machine in machines
        if machine.error is None
        and machine.facts["versions"]["bpkd-search"] == package
        and (config.data.local_dir is None or machine.folders[VIEWS]["same"])
    }
    nodes = [node for node in nodes if node.name in asked]
    answers = _ask(nodes, contents, lambda name: config, CONTENT_SECONDS, here=False)
    for i, machine in enumerate(machines):
        machines[i] = replace(machine, contents=answers.values.get(machine.name, machine.contents))
    return answers.errors


def contents(config: SearchConfig) -> dict[str, str]:
    """Return hashes of data and weights as this process reads them. Raises what `fingerprints` raises."""
    kept = ("data.train", "data.val", "student.weights", "teacher")
    return {name: found.value for name, found in fingerprints(config).items() if name in kept and found.value}
