"""The distributions of a search space, as a configuration gives them."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Discriminator, Field, StrictBool, StrictFloat, StrictInt, Tag

from bpkd_search.blocks import Block


class FloatRange(Block):
    """A real number from `float: [low, high]`, on a log scale or in steps if asked."""

    bounds: tuple[float, float] = Field(alias="float", description="Lowest and highest value.")
    step: float | None = Field(default=None, gt=0, description="Distance between values.")
    log: StrictBool = Field(default=False, description="Sample on a logarithmic scale.")
    when: dict[str, Any] = Field(
        default={}, description="Sampled only where these paths have these values (one, or any of a list)."
    )


class IntRange(Block):
    """A whole number from `int: [low, high]`, in steps if asked."""

    bounds: tuple[int, int] = Field(alias="int", description="Lowest and highest value.")
    step: int = Field(default=1, ge=1, description="Distance between values.")
    log: StrictBool = Field(default=False, description="Sample on a logarithmic scale.")
    when: dict[str, Any] = Field(
        default={}, description="Sampled only where these paths have these values (one, or any of a list)."
    )


class Choice(Block):
    """One of a list of values."""

    options: tuple[StrictBool | StrictInt | StrictFloat | str, ...] = Field(
        alias="choice", min_length=1, description="The values."
    )
    when: dict[str, Any] = Field(
        default={}, description="Sampled only where these paths have these values (one, or any of a list)."
    )


def _kind(value: Any) -> str | None:
    if isinstance(value, dict):
        return next((kind for kind in ("float", "int", "choice") if kind in value), None)
    kinds = {"float": FloatRange, "int": IntRange, "choice": Choice}
    return next((kind for kind, model in kinds.items() if isinstance(value, model)), None)


Distribution = Annotated[
    Annotated[FloatRange, Tag("float")] | Annotated[IntRange, Tag("int")] | Annotated[Choice, Tag("choice")],
    Discriminator(
        _kind,
        custom_error_type="distribution",
        custom_error_message="must be {float: [low, high]}, {int: [low, high]} or {choice: [...]}",
    ),
]
