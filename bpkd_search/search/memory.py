"""Search memory: what a finished search leaves for others, and what a new one takes from those before it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa

from bpkd_search.config.distributions import apart
from bpkd_search.config.loss import label_of
from bpkd_search.config.models import RunConfig, SearchConfig
from bpkd_search.config.paths import find, leaves, set_path
from bpkd_search.config.points import Point, column_kind, holds, in_order, is_active, to_tree
from bpkd_search.errors import ExperimentError
from bpkd_search.experiment.events import read_events
from bpkd_search.experiment.folder import noted, read_config
from bpkd_search.experiment.memory import Memory, Past
from bpkd_search.experiment.origin import MAY_CHANGE
from bpkd_search.experiment.schema import COMPLETE, RUNNING, memory_schema
from bpkd_search.results.analysis import is_replicate
from bpkd_search.results.leaderboard import Leaderboard
from bpkd_search.search.agreement import predict
from bpkd_search.search.warm_start import LEARNING, Found, collect, find_sources

# Points of others that a search begins with. A memory that misleads costs no more than these.
FIRST = 4
# The searches that match best; more of them would only repeat one another.
_MOST_SOURCES = 16
# How far a trial speaks for others when the best are chosen, as a share of the ranges; and how many of each search are
# looked at.
_AROUND, _PROMISING = 0.1, 64
# Of two points that are nearer than this share of the ranges, one is tried.
_NEAR = 0.05
# The parts of a run that a table keeps.
_KEPT = ("loss", "train", "student")


class Offer(NamedTuple):
    """What other searches offer: trials to be judged, by source; points to begin with; lines for the user.

    `weighed` are the sources of the memory, which nobody has chosen by name: they count by how well they agree.
    """

    sources: dict[str, Found]
    first: list[Point]
    weighed: list[str]
    notes: list[str]


def offer_of(config: SearchConfig) -> Offer:
    """What the experiments of `search.warm_start` and the memory offer a search.

    Raises `ConfigError`, `ExperimentError`.
    """
    sources, notes = find_sources(config)
    if config.search.memory is None:
        return Offer(sources, [], [], notes)
    memory = Memory(config.search.memory)
    found, lines = recall(memory, config)
    if config.search.methods:
        why = "methods that it knows would be tuned better than others"
        return Offer(sources, [], [], [*notes, f"memory: nothing is taken from it with search.methods: {why}"])
    first = best_points(config, list(found.values()))
    notes += lines
    if first:
        notes.append(f"memory: the first {len(first)} points are the best of those searches")
    search = config.search
    if found and (search.constraints or search.sampler.name not in LEARNING):
        why = "search.constraints" if search.constraints else f"sampler {search.sampler.name}"
        notes.append(f"memory: nothing else is learned from it with {why}")
        found = {}
    return Offer(sources | found, first, list(found), notes)


def recall(memory: Memory, config: SearchConfig) -> tuple[dict[str, Found], list[str]]:
    """The searches of a memory that have trials in this search's space, the best match first, and lines on all.

    Searches of the same data and networks come first, then those that share most parameters, have most trials, are
    newest. Raises `ExperimentError` with a sentence on each table that cannot be read or is of other objectives.
    """
    searches = _with_goals(memory, config)
    own, place = _hashes(config), _shared(config)
    matches: list[tuple[tuple[Any, ...], Past, Found]] = []
    for past in searches:
        shared = len(set(past.space) & set(config.space))
        if shared and (found := collect(past.rows(), past.file, config, place)[0]):
            alike = ((past.data, past.networks) == own, past.networks == own[1], past.data == own[0])
            matches.append(((*alike, shared, len(found), past.date, past.file), past, found))
    matches.sort(key=lambda match: match[0], reverse=True)
    notes = [f"memory: {memory.name}: {len(searches)} searches, of which {len(matches)} have trials in this space"]
    notes += [f"memory: {len(found)} of {past.table.num_rows} trials of {past.file}" for _, past, found in matches]
    if left := matches[_MOST_SOURCES:]:
        notes[_MOST_SOURCES + 1 :] = [f"memory: the {len(left)} that match least are left out"]
    return {past.file: found for _, past, found in matches[:_MOST_SOURCES]}, notes


def best_points(config: SearchConfig, sources: Sequence[Found], most: int = FIRST) -> list[Point]:
    """The points that sources find best, the best first, each a little apart from the others and from `enqueue:`.

    Best is what trials around a point, of all sources together, have for a mean rank.
    """
    told = [trial for found in sources for trial in found]
    promising = [
        trial for found in sources for trial in sorted(found, key=lambda trial: -sum(trial["ranks"]))[:_PROMISING]
    ]
    if not told:
        return []
    pool = [trial["point"] for trial in promising]
    # A trial's own rank is partly luck; its neighbours, in its own search and in others, know better.
    ranks = [sum(trial["ranks"]) for trial in told]
    scores = predict(config.space, [trial["point"] for trial in told], ranks, pool, _AROUND)
    chosen: list[Point] = []
    for index in np.argsort(-np.array(scores), kind="stable"):
        if all(apart(config.space, pool[index], other) > _NEAR for other in (*config.enqueue, *chosen)):
            chosen.append(pool[index])
        if len(chosen) == most:
            break
    return chosen


def leave(directory: Path, memory: Memory) -> str:
    """Leave the table of a search in a memory, in place of the one that it left before; gives its place.

    Trials that have not ended are left out. Raises `ExperimentError`.
    """
    config = read_config(directory)
    trials = Leaderboard(directory).trials().sort_values("number")
    trials = trials[(trials["state"] != RUNNING) & ~is_replicate(trials)]
    if not (trials["state"] == COMPLETE).any():
        raise ExperimentError(f"{directory}: no trial has run in full, so there is nothing to remember")
    data, networks = _hashes(config)
    contents = (noted(directory).get("fingerprints") or {}).get("contents") or {}
    about = {
        "name": config.name,
        "date": trials["ended"].max().isoformat(timespec="seconds"),
        "version": str(trials["version"].iloc[-1]),
        "goals": dict(config.search.goals),
        "space": _without_folders(to_tree(config)["space"]),
        "data": data,
        "networks": networks,
        "contents": {name: value for name, value in contents.items() if isinstance(value, str)},
    }
    schema = memory_schema({path: column_kind(distribution) for path, distribution in config.space.items()})
    rows = [
        {name: None if pd.isna(row[name]) else _without_folders(row[name]) for name in schema.names if name in row}
        | {"config": _kept(row["config"])}
        for row in trials.to_dict("records")
    ]
    return memory.put(_file_of(directory, config.name), pa.Table.from_pylist(rows, schema=schema), about)


def add_experiment(directory: Path, memory: Memory) -> str:
    """Leave a finished search in a memory by hand; gives a sentence. Raises `ExperimentError` as `recall` does too."""
    _with_goals(memory, read_config(directory))
    return f"{directory}: its table is {leave(directory, memory)}"


def _with_goals(memory: Memory, config: SearchConfig) -> list[Past]:
    """The searches of a memory, all for the objectives of this one. Raises `ExperimentError`."""
    searches, faults = memory.searches()
    goals = dict(config.search.goals)
    faults += [
        f"{memory.name}/{past.file}.parquet: is a search for {_in_words(past.goals)}, {config.name} is for"
        f" {_in_words(goals)}; a memory is for one metric, choose another"
        for past in searches
        if past.goals != goals
    ]
    if faults:
        raise ExperimentError("\n".join(sorted(faults)))
    return searches


def _file_of(directory: Path, name: str) -> str:
    """A name that no other search has, and this one whenever it ends: its first events tell it from all others."""
    head = hashlib.sha256()
    for event in read_events(directory):
        head.update(json.dumps(event, sort_keys=True).encode())
        if event["event"] == "report":
            break
    return f"{name}-{head.hexdigest()[:16]}"


def _shared(config: SearchConfig) -> Callable[[RunConfig], Point | None]:
    """Places runs by the parameters of the space alone; whether the rest of a run matters, its agreement tells."""
    base = config.run()
    tree, label = to_tree(base), label_of(base.loss)
    methods_vary = any(path.startswith("loss.") and path.endswith("method") for path in config.space)

    def place(run: RunConfig) -> Point | None:
        if not methods_vary and label_of(run.loss) != label:
            return None
        there, point = to_tree(run), Point()
        for path, distribution in in_order(config.space):
            if is_active(distribution, tree, point):
                point[path] = find(there, path)
                if not holds(distribution, point[path]):
                    return None
        return point

    return place


def _hashes(config: SearchConfig) -> tuple[str, str]:
    """What tells the data of a search from others, and its networks; without places, which differ between machines."""
    tree = dict(leaves(to_tree(config.run())))
    parts = [("data",), ("teacher", "student")]
    return tuple(
        hashlib.sha256(
            json.dumps(
                {path: v for path, v in tree.items() if path.split(".")[0] in part and path not in MAY_CHANGE},
                sort_keys=True,
            ).encode()
        ).hexdigest()[:16]
        for part in parts
    )  # type: ignore[return-value]


def _kept(config: str) -> str:
    """What a table keeps of a run, given as JSON."""
    tree = {name: value for name, value in json.loads(config).items() if name in _KEPT}
    for path in MAY_CHANGE:
        if find(tree, path) is not None:
            set_path(tree, path, None if path != "train.device" else "auto")
    return json.dumps(_without_folders(tree))


def _without_folders(value: Any) -> Any:
    """A value with the file names of all absolute paths in it: folders differ between machines, and tell who ran it."""
    if isinstance(value, Mapping):
        return {key: _without_folders(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_without_folders(each) for each in value]
    return PurePath(value).name if isinstance(value, str) and value.startswith(("/", "~")) else value


def _in_words(goals: Mapping[str, str]) -> str:
    return ", ".join(f"{name} ({direction})" for name, direction in goals.items())
