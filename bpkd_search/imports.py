"""Imports that wait until they are needed: names of slow modules, and packages that may be missing."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from types import ModuleType
from typing import Any

from bpkd_search.errors import MissingPackageError


def lazy_names(package: str, homes: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` (PEP 562) for a package whose names load on first use.

    `homes` maps each public name to the module that defines it.
    """

    def get(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(homes[name]), name)

    def names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *homes})

    return get, names


def callable_module(module: str, function: str) -> None:
    """Make a module callable as one of its functions.

    Importing `bpkd_search.export` sets that attribute of the package to the module, whatever the package wanted the
    name to mean. Once the module can be called, `bpkd_search.export(...)` works before and after that import.
    """

    class CallableModule(ModuleType):
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return getattr(self, function)(*args, **kwargs)

    sys.modules[module].__class__ = CallableModule


def require(package: str, extra: str, purpose: str) -> Any:
    """Import an optional package.

    Raises `MissingPackageError`, which names the purpose and the extra to install, where the package is missing.
    """
    try:
        return import_module(package)
    except ImportError as e:
        missing = e.name or package
        raise MissingPackageError(
            f"{purpose}: needs {missing}, which is not installed; run: pip install 'bpkd-search[{extra}]'"
        ) from e
