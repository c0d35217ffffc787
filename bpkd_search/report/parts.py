"""The section of the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bpkd_search.report.figures import Figure


@dataclass(frozen=True)
class Section:
    """A section of the page: figures side by side under a title, and remarks below."""

    title: str
    figures: Sequence[Figure] = ()
    remarks: Sequence[str] = ()
    narrow: bool = False
