"""What single values of a configuration cannot show: combinations that exclude each other, and a space's own errors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import takewhile
from typing import Any

from pydantic import ValidationError

from bpkd_search.blocks import in_words
from bpkd_search.config.loss import terms_by_path
from bpkd_search.config.methods import METHOD, method_faults
from bpkd_search.config.models import RunConfig, SearchConfig
from bpkd_search.config.optimisation import LENGTH, Optimisation
from bpkd_search.config.paths import get_path
from bpkd_search.config.points import (
    Point,
    baselines_of,
    can_take,
    in_order,
    is_active,
    lay,
    probe_values,
    run_at,
    to_tree,
)
from bpkd_search.config.search import FEWEST_REPLICATES
from bpkd_search.config.space import Choice, Distribution, FloatRange
from bpkd_search.data.kinds import KINDS, repeated

OWN_SCORE = "custom_score"
# Only these leave the stored views valid and the trials comparable.
SEARCHABLE = ("loss.", "train.", "student.")
_FIXED = {f"train.{key}" for key in (*LENGTH, "device")}


def cross_faults(config: RunConfig) -> list[str]:
    """What single values cannot show: combinations that exclude each other."""
    faults = run_faults(config)
    kind = config.data.kind
    if config.teacher.mode == "maps" and config.data.views != "auto":
        faults.append(
            f"data.views: got {config.data.views}, must be auto with teacher.mode: maps, which keeps no views"
        )
    if (required := KINDS[kind].required) and config.data.options is None:
        faults.append(f"data.{kind}: got nothing, is required with data.kind: {kind} ({', '.join(required)})")
    # Scores of classes are listed by name. Searches of earlier versions, where names may repeat, can still be read.
    if twice := repeated(getattr(config.data.options, "class_names", ())):
        faults.append(f"data.{kind}.class_names: got {', '.join(twice)} more than once, must be distinct")
    teacher = config.teacher
    if teacher.smp is not None and teacher.checkpoint is None:
        faults.append(f"teacher.smp: got {dict(teacher.smp)}, needs teacher.checkpoint, the weights of that network")
    faults += _schedule_faults("teacher.train", config.teacher.train)
    if isinstance(config, SearchConfig):
        faults += space_faults(config) + method_faults(config)
        if config.search.feature_baseline and teacher.mode not in ("online", "auto"):
            faults.append(
                "search.feature_baseline: got true, needs the teacher's features: set teacher.mode to online or auto"
                f" (got {teacher.mode})"
            )
        used = {*config.search.goals, *(name for name, *_ in config.search.limits())}
        if OWN_SCORE in used and config.data.eval.metric is None:
            faults.append(f"data.eval.metric: got nothing, is required where the search uses {OWN_SCORE}")
        faults += _race_faults(config)
        scheduler = config.search.scheduler
        train = config.train
        if train.iterations is not None and train.validate_every is None:
            faults.append(
                "train.validate_every: got nothing, is required in a search of train.iterations, whatever the batch"
                " size of a trial"
            )
        elif scheduler.name != "none" and scheduler.axis == "epochs" and scheduler.grace > train.rounds():
            most = f"train.epochs = {train.epochs}" if train.epochs else f"the {train.rounds()} validations of a trial"
            faults.append(f"search.scheduler.grace: got {scheduler.grace:g}, must not exceed {most}")
    return faults


def _race_faults(config: SearchConfig) -> list[str]:
    """Where a search with replicates is sure to end before the second seed of any setting."""
    search, length = config.search, config.train.gpu_seconds
    if search.replicates is None:
        return []
    fewest = max(search.fewest_trials, len(config.enqueue) + FEWEST_REPLICATES)
    if search.trials < fewest:
        return [
            f"search.trials: got {search.trials}, must be at least {fewest} with search.replicates:"
            f" {search.replicates}, or the search ends before the second seed of any setting"
        ]
    # The baselines and one setting in full, and two further runs of one of them.
    least = (len(baselines_of(config)) + 3) * length / 3600 if length is not None else 0.0
    if search.budget.gpu_hours is not None and search.budget.gpu_hours < least:
        return [
            f"search.budget.gpu_hours: got {search.budget.gpu_hours:g}, must be at least {least:.3g} with"
            f" search.replicates: {search.replicates} and train.gpu_seconds = {length:g}, or the search ends before the"
            " second seed of any setting"
        ]
    return []


def run_faults(run: RunConfig) -> list[str]:
    """Combinations that exclude each other within one run, in the parts a search may vary."""
    faults = []
    for path, term in terms_by_path(run.loss).items():
        if term.needs == "teacher features" and run.teacher.mode not in ("online", "auto"):
            faults.append(
                f"{path}.method: got {term.method}, needs the teacher's features: set teacher.mode to online or auto"
                f" (got {run.teacher.mode})"
            )
    return [*faults, *_schedule_faults("train", run.train)]


def _schedule_faults(path: str, train: Optimisation) -> list[str]:
    faults = []
    for key, length in (("warmup", "epochs"), ("warmup_iterations", "iterations")):
        value, most = getattr(train, key), getattr(train, length)
        if most is not None and value > most:
            faults.append(f"{path}.{key}: got {value}, must not exceed {path}.{length} = {most}")
    for key, other in (("iterations", "gpu_seconds"), ("warmup_iterations", "warmup")):
        if getattr(train, key) and getattr(train, other):
            got = f"got {getattr(train, key)} beside {path}.{other} = {getattr(train, other):g}"
            faults.append(f"{path}.{key}: {got}, set one of them")
    if train.validate_every is not None and train.iterations is None and train.gpu_seconds is None:
        faults.append(
            f"{path}.validate_every: got {train.validate_every}, needs {path}.iterations or {path}.gpu_seconds: a run"
            " of epochs is validated after each"
        )
    if train.min_lr > train.lr:
        faults.append(f"{path}.min_lr: got {train.min_lr:g}, must not exceed {path}.lr = {train.lr:g}")
    return faults


def space_faults(config: SearchConfig) -> list[str]:
    """What is wrong with `space:` and `enqueue:`: paths, bounds, steps, conditions, values."""
    faults: list[str] = []
    try:
        ordered = list(in_order(config.space))
    except ValueError as e:
        return [f"space: {e}"]
    sound = {}
    for path, distribution in ordered:
        if fault := _own_fault(path, distribution, config):
            faults.append(f"space.{path}{fault}")
        else:
            sound[path] = distribution
    base_run = config.run()
    base = to_tree(base_run)
    # Every parameter is tried at its ends (choices at each option) beside the others' first values.
    firsts = {path: probe_values(d)[0] for path, d in sound.items() if not d.when}
    reported = set(run_faults(base_run))  # listed once, where they are
    for path, distribution in sound.items():
        for value in probe_values(distribution):
            point = _completed({**firsts, **_conditions(distribution, sound), path: value}, sound, base)
            new = [f for f in _point_faults(base_run, point) if f not in reported]
            faults += [f"{_place(config, _culprit(fault, path, point))}: {fault}" for fault in new]
            reported.update(new)
            if new:
                break
    return faults + enqueue_faults(config)


def enqueue_faults(config: SearchConfig) -> list[str]:
    """What is wrong with `enqueue:`: unknown parameters, values that a parameter cannot take, and missing values."""
    return [
        f"enqueue.{index}{fault if fault.startswith(':') else f'.{fault}'}"
        for index, given in enumerate(config.enqueue)
        for fault in given_faults(config, given)
    ]


def given_faults(config: SearchConfig, given: Point) -> list[str]:
    """What is wrong with a point that is to be tried; a fault of no single parameter begins with a colon."""
    base_run = config.run()
    base = to_tree(base_run)
    faults = []
    for path, value in given.items():
        if path not in config.space:
            faults.append(f"{path or repr(path)}: is no parameter of the space; valid: {', '.join(config.space)}")
        elif not can_take(config.space[path], value):
            faults.append(f"{path}: got {value!r}, {_rule(config.space[path])}")
    missing = [p for p, d in config.space.items() if p not in given and is_active(d, base, given)]
    unknown = {METHOD} if config.search.methods and base_run.loss.method not in config.search.methods else set()
    faults += [f": no value for {path}" for path in missing if not _has(base, path) or path in unknown]
    return faults or [f": {fault}" for fault in _point_faults(base_run, given)]


def _rule(distribution: Distribution) -> str:
    """What a parameter can take, in words."""
    if isinstance(distribution, Choice):
        return f"valid: {', '.join(map(str, distribution.options))}"
    (low, high), step = distribution.bounds, distribution.step
    kind = "a number" if isinstance(distribution, FloatRange) else "a whole number"
    steps = f" in steps of {step}" if step and step != 1 else ""
    return f"must be {kind} from {low} to {high}{steps}, as in the space"


def _own_fault(path: str, distribution: Distribution, config: SearchConfig) -> str | None:
    """What is wrong with one parameter, whatever the others are."""
    if not path.startswith(SEARCHABLE) or path in _FIXED:
        return ": cannot be searched; a parameter must be below loss, train or student"
    for other in distribution.when:
        if other not in config.space and not other.startswith(SEARCHABLE):
            return f".when: {other} is no parameter"
    if isinstance(distribution, Choice):
        return None
    (low, high), step = distribution.bounds, distribution.step
    if low > high:
        return f": got [{low}, {high}], low must not exceed high"
    if distribution.log and (low <= 0 or (step or 1) != 1):
        return f": log needs low > 0 and no step, got low {low}, step {step}"
    if step and abs((high - low) / step - round((high - low) / step)) > 1e-9:
        return f": high {high} is not low {low} plus a multiple of step {step}"
    return None


def _has(tree: dict[str, Any], path: str) -> bool:
    try:
        get_path(tree, path)
    except KeyError:
        return False
    return True


def _point_faults(base: RunConfig, point: dict[str, Any]) -> list[str]:
    try:
        return run_faults(run_at(base, point))
    except ValidationError as e:
        faults = []
        for error in e.errors():
            text = in_words(RunConfig, error)
            if error["type"] == "extra_forbidden" and error["loc"][0] == "loss":
                text += "; add `when: {loss.method: ...}` if it belongs to one method of several"
            faults.append(text)
        return faults
    except ValueError:  # an index that is not in its list
        return [f"{path}: is not a key of a run" for path in point if not _has_place(base, point, path)]


def _has_place(base: RunConfig, point: dict[str, Any], path: str) -> bool:
    method = {key: value for key, value in point.items() if key == "loss.method"}
    try:
        lay(to_tree(base), {**method, path: point[path]})
    except ValueError:
        return False
    return True


def _conditions(distribution: Distribution, space: Mapping[str, Distribution]) -> Point:
    """Values under which a parameter is sampled: the first of each that its `when` allows, and what those require."""
    point = Point()
    for path, wanted in distribution.when.items():
        if path in space:
            point |= _conditions(space[path], space)
        point[path] = wanted[0] if isinstance(wanted, list) else wanted
    return point


def _completed(point: Point, space: Mapping[str, Distribution], base: Mapping[str, Any]) -> Point:
    """The point with the first values of those parameters whose `when` holds in it: a method may require some."""
    for path, distribution in in_order(space):
        if path not in point and distribution.when and is_active(distribution, base, point):
            point[path] = probe_values(distribution)[0]
    return point


def _place(config: SearchConfig, path: str) -> str:
    """Where the configuration file has a parameter."""
    return "search.methods" if config.search.methods and path == METHOD else f"space.{path}"


def _culprit(fault: str, path: str, point: Iterable[str]) -> str:
    """The parameter of a point that an error is about: the nearest to the key it names, `path` if several are.

    A key of the loss that no parameter is near to is the method's own.
    """
    place = fault.partition(":")[0].split(".")

    def shared(other: str) -> int:
        pairs = zip(place, other.split("."), strict=False)
        return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))

    nearest = max((path, *point), key=shared)
    if shared(nearest) < 2:
        return "loss.method" if place[0] == "loss" and "loss.method" in point else path
    return nearest
