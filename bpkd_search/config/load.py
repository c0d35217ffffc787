"""Reading configurations: safe YAML, `a.b=c` overrides, and every fault at once in words."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from bpkd_search.blocks import in_words
from bpkd_search.config.loss import terms_by_path
from bpkd_search.config.models import Choice, Distribution, RunConfig, SearchConfig
from bpkd_search.config.paths import get_path, set_path
from bpkd_search.config.points import in_order, is_active, probe_values, run_at, to_tree
from bpkd_search.config.search_spaces import find_space
from bpkd_search.data.kinds import KINDS
from bpkd_search.errors import ConfigError

C = TypeVar("C", bound=RunConfig)

# Only these leave the stored views valid and the trials comparable.
SEARCHABLE = ("loss.", "train.", "student.")


def load_run(path: Path | str, overrides: Sequence[str] = ()) -> RunConfig:
    """One run from a YAML file. Of a search file, the run that it varies. Raises `ConfigError`."""
    tree = read_yaml(path)
    if "space" in tree:
        return parse(SearchConfig, tree, str(path), overrides).run()
    return parse(RunConfig, tree, str(path), overrides)


def load_search(path: Path | str, overrides: Sequence[str] = ()) -> SearchConfig:
    """A search from a YAML file. Raises `ConfigError` with every fault found."""
    return parse(SearchConfig, read_yaml(path), str(path), overrides)


def dump(config: BaseModel) -> str:
    """A configuration as YAML that reads back to an equal one."""
    tree = {k: v for k, v in to_tree(config).items() if not (k == "provenance" and v is None)}
    return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)


def read_yaml(path: Path | str) -> dict[str, Any]:
    """A YAML file's mapping, read with the safe loader. Raises `ConfigError`."""
    file = find_space(path)
    try:
        tree = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as e:
        raise ConfigError([f"cannot be read: {e.strerror}"], str(path)) from e
    except (yaml.YAMLError, UnicodeDecodeError) as e:
        raise ConfigError([f"is not valid YAML: {' '.join(str(e).split())}"], str(path)) from e
    if not isinstance(tree, dict):
        raise ConfigError([f"must hold a mapping of keys, got {type(tree).__name__}"], str(path))
    return tree


def parse(model: type[C], tree: dict[str, Any], source: str, overrides: Sequence[str] = ()) -> C:
    """Validate a plain tree with its overrides; faults of all kinds are collected before raising."""
    faults: list[str] = []
    for text in overrides:
        path, equals, value = text.partition("=")
        try:
            if not equals or not all(path.split(".")):
                raise ValueError("must be key.subkey=value")
            set_path(tree, path, yaml.safe_load(value))
        except (ValueError, IndexError, TypeError, AttributeError, yaml.YAMLError) as e:
            faults.append(f"--set {text}: {e}")
    config: C | None = None
    try:
        config = model.model_validate(tree)
    except ValidationError as e:
        faults += [in_words(model, error) for error in e.errors()]
        broken = {str(error["loc"][0]) if error["loc"] else "" for error in e.errors()}
        try:  # the rest may be wrong as well, and one round of fixes should be enough
            config = model.model_validate({k: v for k, v in tree.items() if k not in broken})
        except ValidationError:
            config = None
    if config is not None:
        faults += cross_faults(config)
    if faults or config is None:
        raise ConfigError(faults, source)
    return config


def cross_faults(config: RunConfig) -> list[str]:
    """What single values cannot show: combinations that exclude each other."""
    faults = run_faults(config)
    kind = config.data.kind
    if (required := KINDS[kind].required) and config.data.options is None:
        faults.append(f"data.{kind}: got nothing, is required with data.kind: {kind} ({', '.join(required)})")
    if isinstance(config, SearchConfig):
        faults += space_faults(config)
        scheduler = config.search.scheduler
        if scheduler.name != "none" and scheduler.axis == "epochs" and scheduler.grace > config.train.epochs:
            faults.append(
                f"search.scheduler.grace: got {scheduler.grace:g}, must not exceed train.epochs = {config.train.epochs}"
            )
    return faults


def run_faults(run: RunConfig) -> list[str]:
    """Combinations that exclude each other within one run, in the parts a search may vary."""
    faults = []
    for path, term in terms_by_path(run.loss).items():
        if term.needs == "teacher features" and run.teacher.mode != "online":
            faults.append(
                f"{path}.method: got {term.method}, needs the teacher's features: set teacher.mode to online"
                f" (got {run.teacher.mode})"
            )
    if run.train.warmup > run.train.epochs:
        faults.append(f"train.warmup: got {run.train.warmup}, must not exceed train.epochs = {run.train.epochs}")
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
    # Every parameter is tried at its ends (choices at each option) beside the others' first values.
    firsts = {path: probe_values(d)[0] for path, d in sound.items() if not d.when}
    said: set[str] = set()
    for path, distribution in sound.items():
        where = {
            other: wanted[0] if isinstance(wanted, list) else wanted for other, wanted in distribution.when.items()
        }
        for value in probe_values(distribution):
            new = [f for f in _point_faults(base_run, {**firsts, **where, path: value}) if f not in said]
            faults += [f"space.{path}: {fault}" for fault in new]
            said.update(new)
            if new:
                break
    base = to_tree(base_run)
    for index, given in enumerate(config.enqueue):
        where_given = f"enqueue.{index}"
        for path in given:
            if path not in config.space:
                faults.append(f"{where_given}.{path}: is no parameter of the space; valid: {', '.join(config.space)}")
        missing = [p for p, d in config.space.items() if p not in given and is_active(d, base, given)]
        missing = [p for p in missing if not _has(base, p)]
        faults += [f"{where_given}: no value for {path}" for path in missing]
        if not missing:
            faults += [f"{where_given}: {fault}" for fault in _point_faults(base_run, given)]
    return faults


def _own_fault(path: str, distribution: Distribution, config: SearchConfig) -> str | None:
    """What is wrong with one parameter, whatever the others are."""
    if not path.startswith(SEARCHABLE) or path in ("train.epochs", "train.device"):
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
    except (ValueError, IndexError, AttributeError, TypeError):
        return [f"got {list(point.items())[-1]}, which is no place in a run"]
