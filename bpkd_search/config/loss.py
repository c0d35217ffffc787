"""The `loss:` block: one method, or a sum of several. The methods' own blocks are in `bpkd_search.losses.methods`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias, Union

from pydantic import Discriminator, Field, Tag

from bpkd_search.blocks import Block
from bpkd_search.losses.entry import LossMethod
from bpkd_search.losses.methods import METHODS, Custom


def _method(value: Any) -> str:
    """The union's tag; a block that lists `terms` and names no method is a mixture."""
    get = value.get if isinstance(value, dict) else lambda key, default=None: getattr(value, key, default)
    return str(get("method") or ("mix" if get("terms") else "bpkd"))


def _union(blocks: dict[str, Any]) -> Any:
    members = tuple(Annotated[block, Tag(name)] for name, block in blocks.items())
    return Annotated[Union[members], Discriminator(_method)]  # noqa: UP007


if TYPE_CHECKING:
    Term: TypeAlias = LossMethod
else:
    Term = _union({name: entry for name, entry in METHODS.items() if entry.function} | {Custom.name: Custom})


class Mix(Block):
    """A sum of methods, each with its own weights."""

    method: Literal["mix"] = "mix"
    terms: tuple[Term, ...] = Field(min_length=1, description="The methods, each with its parameters.")


if TYPE_CHECKING:
    Loss: TypeAlias = LossMethod | Mix
else:
    Loss = _union({**METHODS, Custom.name: Custom, "mix": Mix})


def terms_by_path(loss: Loss) -> dict[str, LossMethod]:
    """The methods that a `loss` block sums, by their paths in the configuration: none for `ce`, several for `mix`."""
    if isinstance(loss, Mix):
        return {f"loss.terms.{position}": term for position, term in enumerate(loss.terms)}
    return {"loss": loss} if loss.function else {}


def terms_of(loss: Loss) -> tuple[LossMethod, ...]:
    """The methods that a `loss` block sums: none for `ce`, several for `mix`."""
    return tuple(terms_by_path(loss).values())


def label_of(loss: Loss) -> str:
    """What a table calls the loss: its method, or the methods of a mixture joined by `+`."""
    return "+".join(term.method for term in loss.terms) if isinstance(loss, Mix) else loss.method
