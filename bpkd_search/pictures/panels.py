"""Rows of pictures for a page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Picture:
    """One picture of a panel: its caption and the picture as a `data:` address."""

    caption: str
    address: str


@dataclass(frozen=True)
class Panels:
    """Rows of pictures, each under a title; the colours of classes as (name, #rrggbb); remarks.

    If there are no rows, the remarks state why.
    """

    rows: Sequence[tuple[str, Sequence[Picture]]] = ()
    colours: Sequence[tuple[str, str]] = ()
    remarks: Sequence[str] = ()
    pixelated: bool = field(default=False)
