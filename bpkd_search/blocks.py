"""Frozen blocks of the configuration, their shared field types, and readable validation errors.

This module does not import torch, so that a configuration is read in milliseconds.
"""

from __future__ import annotations

import difflib
import json
import math
import re
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    JsonValue,
    Tag,
    model_validator,
)
from pydantic_core.core_schema import CoreSchema, no_info_after_validator_function


class Block(BaseModel):
    """A part of the configuration: frozen, and unknown keys are errors."""

    model_config = ConfigDict(ser_json_inf_nan="constants", extra="forbid", frozen=True, allow_inf_nan=False)


class Schedule(Block):
    """A weight or temperature that changes from `start` to `end` over the first fraction `until` of the run."""

    shape: Literal["constant", "linear", "cosine"] = Field(
        default="linear", description="Shape of the change; `constant` stays at `start` and needs no `end`."
    )
    start: float = Field(ge=0, description="Value at the beginning of the run.")
    end: float = Field(ge=0, description="Value from the fraction `until` of the run on.")
    until: float = Field(default=1.0, gt=0, le=1, description="Fraction of the run at which `end` is reached.")

    @model_validator(mode="before")
    @classmethod
    def _constant(cls, value: Any) -> Any:
        if isinstance(value, dict) and value.get("shape") == "constant" and "start" in value:
            return {"end": value["start"], **value}
        return value

    def at(self, progress: float) -> float:
        """Return the value at `progress`, the completed fraction of the run, from 0 to 1."""
        if self.shape == "constant":
            return self.start
        done = min(max(progress, 0.0) / self.until, 1.0)
        if self.shape == "cosine":
            done = (1 - math.cos(math.pi * done)) / 2
        return self.start + (self.end - self.start) * done


class PositiveSchedule(Schedule):
    """A schedule that is never zero, as temperatures must be positive."""

    start: float = Field(gt=0, description="Value at the beginning of the run.")
    end: float = Field(gt=0, description="Value from the fraction `until` of the run on.")


def _number_or_schedule(value: Any) -> str:
    return "schedule" if isinstance(value, dict | BaseModel) else "number"


def _number_or_list(value: Any) -> str:
    return "per class" if isinstance(value, list | tuple) else "number"


Weight = Annotated[
    Annotated[float, Field(ge=0), Tag("number")] | Annotated[Schedule, Tag("schedule")],
    Discriminator(_number_or_schedule),
]
Temperature = Annotated[
    Annotated[float, Field(gt=0), Tag("number")] | Annotated[PositiveSchedule, Tag("schedule")],
    Discriminator(_number_or_schedule),
]
PerClass = Annotated[
    Annotated[float, Field(ge=0), Tag("number")]
    | Annotated[tuple[Annotated[float, Field(ge=0)], ...], Tag("per class")],
    Discriminator(_number_or_list),
]


class _Arguments(dict[str, Any]):
    """A mapping that is hashed by its contents, as the blocks around it are."""

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(json.dumps(self, sort_keys=True))


# Arguments of a user's function: plain values by name.
Arguments = Annotated[dict[str, JsonValue], AfterValidator(_Arguments)]


@dataclass(frozen=True)
class Matching:
    """A validator of strings that match `pattern` as a whole; `rule` is the pattern in words, after "must be"."""

    pattern: str
    rule: str

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {**handler(schema), "rule": self.rule}

    def _check(self, value: str) -> str:
        if not re.fullmatch(self.pattern, value):
            raise ValueError(f"must be {self.rule}")
        return value


def in_words(model: type[BaseModel], error: Any) -> str:
    """Format one of pydantic's errors on `model` as `path: got VALUE, RULE`."""
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
        tag, valid = error["ctx"]["tag"], error["ctx"]["expected_tags"].replace("'", "")
        key = next((key for key, value in dict(error["input"]).items() if str(value) == tag), "name")
        return f"{path}.{key}: got {tag!r}, valid: {valid}"
    if kind == "bool_type":
        return f"{path}: got {_short(error['input'])}, must be true or false"
    if kind in ("dict_type", "model_type", "model_attributes_type"):
        return f"{path}: got {_short(error['input'])}, must be a mapping of keys"
    if kind == "string_type" and isinstance(error["input"], int | float):
        return f"{path}: got {_short(error['input'])}, must be a string: put it in quotes"
    if path == "space" and kind == "too_short":
        return "space: got an empty space, must name at least one parameter"
    message = message.replace("Input should", "must").replace("must a valid", "must be a valid")
    return f"{path}: got {_short(error['input'])}, {message[:1].lower()}{message[1:]}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _locate(model: type[BaseModel], loc: tuple[Any, ...]) -> tuple[list[str], list[str]]:
    """Return the user's path to an error and the keys valid there; pydantic's union tags are not part of the path."""
    parts: list[str] = []
    current: Any = model
    fields: list[str] = []
    for part in loc:
        if isinstance(current, type) and issubclass(current, BaseModel):
            fields = [f.alias or name for name, f in current.model_fields.items()]
            by_alias = {f.alias or name: f.annotation for name, f in current.model_fields.items()}
            parts.append(str(part))
            current = _given(by_alias.get(str(part)))
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


def _given(annotation: Any) -> Any:
    """Return the block of an optional block."""
    if get_origin(annotation) in (Union, UnionType):
        members = [member for member in get_args(annotation) if member is not NoneType]
        if len(members) == 1:
            return members[0]
    return annotation


def _tagged(annotation: Any, tag: str) -> Any:
    """Return the member of a tagged union with the tag `tag`, or None."""
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
