"""Handing results on: settings as text, students as weights, and the check that they score what they claim."""

from bpkd_search.export.write import export

__all__ = ["export"]
