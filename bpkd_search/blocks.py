"""Frozen blocks of the configuration, and the field types that losses, data sets and searches share.

Free of torch, so that a configuration is read in milliseconds.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag


class Block(BaseModel):
    """A part of the configuration: frozen, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Schedule(Block):
    """A weight or temperature that moves from `start` to `end` over the first `until` of the run."""

    shape: Literal["constant", "linear", "cosine"] = "linear"
    start: float = Field(ge=0)
    end: float = Field(ge=0)
    until: float = Field(default=1.0, gt=0, le=1)


class PositiveSchedule(Schedule):
    """A schedule that never reaches zero, as temperatures must not."""

    start: float = Field(gt=0)
    end: float = Field(gt=0)


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
