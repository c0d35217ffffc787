"""Exports results: settings as text, students as weights, and the check that they reach their claimed score."""

from bpkd_search.export.write import export
from bpkd_search.imports import callable_module

__all__ = ["export"]

callable_module(__name__, "export")
