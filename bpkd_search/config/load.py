"""Reading configurations: safe YAML, `a.b=c` overrides, and every fault at once in words."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from bpkd_search.config.loss import LOSSES, NEEDS_FEATURES, terms_of
from bpkd_search.config.models import Choice, Distribution, RunConfig, SearchConfig
from bpkd_search.config.paths import get_path, set_path
from bpkd_search.config.points import in_order, is_active, probe_values, run_at, to_tree
from bpkd_search.errors import ConfigError

C = TypeVar("C", bound=RunConfig)

# Only these leave the stored views valid and the trials comparable.
SEARCHABLE = ("loss.", "train.", "student.")


def load_run(path: Path | str, overrides: Sequence[str] = ()) -> RunConfig:
    """One run from a YAML file. Of a search file, the run that it varies. Errors: `ConfigError`."""
    tree = read_yaml(path)
    if "space" in tree:
        return parse(SearchConfig, tree, str(path), overrides).run()
    return parse(RunConfig, tree, str(path), overrides)


def load_search(path: Path | str, overrides: Sequence[str] = ()) -> SearchConfig:
    """A search from a YAML file. Errors: `ConfigError` with every fault found."""
    return parse(SearchConfig, read_yaml(path), str(path), overrides)


def dump(config: BaseModel) -> str:
    """A configuration as YAML that reads back to an equal one."""
    tree = {k: v for k, v in to_tree(config).items() if not (k == "provenance" and v is None)}
    return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)


def read_yaml(path: Path | str) -> dict[str, Any]:
    """A YAML file's mapping, read with the safe loader. Errors: `ConfigError`."""
    path = Path(path)
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
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
        faults += [_in_words(model, error) for error in e.errors()]
        broken = {str(error["loc"][0]) if error["loc"] else "" for error in e.errors()}
        try:  # what is left may be wrong as well, and one round of mending should do
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
    if config.data.kind == "folder" and config.data.folder is None:
        faults.append("data.folder: got nothing, is required with data.kind: folder (images, masks, class_names)")
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
    for term in terms_of(run.loss):
        method = getattr(term, "method", "")
        if method in NEEDS_FEATURES and run.teacher.mode != "online":
            faults.append(
                f"loss.method: got {method}, needs the teacher's features: set teacher.mode to online"
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
        return ": cannot be searched; a parameter lies under loss, train or student"
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
            text = _in_words(RunConfig, error)
            if error["type"] == "extra_forbidden" and error["loc"][0] == "loss":
                text += "; add `when: {loss.method: ...}` if it belongs to one method of several"
            faults.append(text)
        return faults
    except (ValueError, IndexError, AttributeError, TypeError):
        return [f"got {list(point.items())[-1]}, which is no place in a run"]


def _in_words(model: type[BaseModel], error: Any) -> str:
    """One pydantic error as `path: got VALUE, RULE`."""
    parts, fields = _locate(model, error["loc"])
    path = ".".join(parts) or "config"
    kind, message = error["type"], error["msg"].removeprefix("Value error, ")
    if kind == "extra_forbidden":
        close = difflib.get_close_matches(parts[-1], fields, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        return f"{path}: unknown key; {hint}valid: {', '.join(fields)}"
    if kind == "missing":
        return f"{path}: is required"
    if kind == "union_tag_invalid":
        key, valid = ("method", list(LOSSES)) if path.startswith("loss") else ("name", _tags(error))
        return f"{path}.{key}: got {error['ctx']['tag']!r}, valid: {', '.join(valid)}"
    if path == "space" and kind == "too_short":
        return "space: got an empty space, must name at least one parameter"
    message = message.replace("Input should", "must").replace("must a valid", "must be a valid")
    return f"{path}: got {_short(error['input'])}, {message[:1].lower()}{message[1:]}"


def _tags(error: Any) -> list[str]:
    return [tag.strip(" '") for tag in str(error["ctx"]["expected_tags"]).split(",")]


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _locate(model: type[BaseModel], loc: tuple[Any, ...]) -> tuple[list[str], list[str]]:
    """The user's path to an error and the keys valid there; pydantic's union tags are no part of the path."""
    parts: list[str] = []
    current: Any = model
    fields: list[str] = []
    for part in loc:
        if isinstance(current, type) and issubclass(current, BaseModel):
            fields = [f.alias or name for name, f in current.model_fields.items()]
            by_alias = {f.alias or name: f.annotation for name, f in current.model_fields.items()}
            parts.append(str(part))
            current = by_alias.get(str(part))
        elif tagged := _tagged(current, str(part)):
            current = tagged
        elif get_origin(current) in (tuple, dict):
            parts.append(str(part))
            inner = [a for a in get_args(current) if a is not Ellipsis]
            current = inner[-1] if inner else None
        else:
            if not (isinstance(part, str) and current is not None and get_origin(current) is not None):
                parts.append(str(part))
            current = None
    return parts, fields


def _tagged(annotation: Any, tag: str) -> Any:
    """The member of a tagged union that carries `tag`, or None."""
    from pydantic import Tag

    while get_origin(annotation) is not None and get_origin(annotation) is not Union:
        if hasattr(annotation, "__metadata__"):
            if any(isinstance(m, Tag) and m.tag == tag for m in annotation.__metadata__):
                return get_args(annotation)[0]
            annotation = get_args(annotation)[0]
        else:
            break
    for member in get_args(annotation):
        if any(isinstance(m, Tag) and m.tag == tag for m in getattr(member, "__metadata__", ())):
            return get_args(member)[0]
    return None
