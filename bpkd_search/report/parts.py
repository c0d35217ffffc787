"""The section of the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from bpkd_search.report.figures import Figure


@dataclass(frozen=True)
class Section:
    """A section of the page: tables with their titles, figures side by side, and remarks below."""

    title: str
    figures: Sequence[Figure] = ()
    remarks: Sequence[str] = ()
    narrow: bool = False
    tables: Sequence[tuple[str, pd.DataFrame]] = ()
