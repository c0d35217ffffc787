"""Rows of pictures, as a page shows them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Picture:
    """One picture of a panel: what it shows and the picture itself as a `data:` address."""

    caption: str
    address: str


@dataclass(frozen=True)
class Panels:
    """Rows of pictures, each under a title; the colours of classes as (name, #rrggbb); remarks.

    Without rows, the remarks say why there are none.
    """

    rows: Sequence[tuple[str, Sequence[Picture]]] = ()
    colours: Sequence[tuple[str, str]] = ()
    remarks: Sequence[str] = ()
    pixelated: bool = field(default=False)
