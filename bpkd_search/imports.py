"""Deferred imports: names of slow modules, and optional packages."""

from __future__ import annotations

import difflib
import inspect
import os
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from importlib import import_module
from types import ModuleType
from typing import Any

from bpkd_search.errors import ConfigError, MissingPackageError


def lazy_names(package: str, homes: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return `__getattr__` and `__dir__` (PEP 562) for a package whose names load on first use.

    `homes` maps each public name to the module that defines it. A name that is also a submodule returns that
    submodule, so that it is the same before and after the submodule is imported: see `callable_module`.
    """

    def get(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        home = import_module(homes[name])
        return home if homes[name] == f"{package}.{name}" else getattr(home, name)

    def names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *homes})

    return get, names


def callable_module(module: str, function: str) -> None:
    """Make a module callable as one of its functions, with the signature and documentation of that function.

    Importing `bpkd_search.export` sets that attribute of the package to the module, whatever the package assigned to
    the name. With a callable module, `bpkd_search.export(...)` works before and after that import.
    """

    class CallableModule(ModuleType):
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return getattr(self, function)(*args, **kwargs)

    home = sys.modules[module]
    home.__class__ = CallableModule
    signature = inspect.signature(getattr(home, function))
    vars(home)["__signature__"] = signature
    home.__doc__ = f"{function}{signature}\n\n{inspect.getdoc(getattr(home, function))}"


def require(package: str, extra: str, purpose: str) -> Any:
    """Import and return an optional package.

    Raises `MissingPackageError`, which names the purpose and the extra to install, if the package is missing or broken.
    """
    try:
        return import_module(package)
    except ModuleNotFoundError as e:
        fault = f"needs {(e.name or package).partition('.')[0]}, which is not installed"
        raise MissingPackageError(f"{purpose}: {fault}; run: pip install 'bpkd-search[{extra}]'") from e
    except ImportError as e:
        fault = f"{package} is installed but cannot be imported ({e})"
        raise MissingPackageError(f"{purpose}: {fault}; run: pip install --upgrade 'bpkd-search[{extra}]'") from e


def import_object(place: str, key: str) -> Any:
    """Import and return what `place` names as `package.module:name`; `key` is the configuration key that gives it.

    Modules are also found below the working directory, after all others.

    Raises `ConfigError` if the text has another form or names Python's own library, or the module or the name is
    missing or raises when imported.
    """
    module, _, name = place.partition(":")
    if not all(part.isidentifier() for part in (*module.split("."), *name.split("."))):
        raise ConfigError([f"{key}: got {place!r}, must be package.module:name"])
    if module.partition(".")[0] in sys.stdlib_module_names:
        # None of these makes a network, a loss, a metric or a data set, but some run what they are given.
        raise ConfigError([f"{key}: got {place!r}, a module of Python's own; must be one with a function of yours"])
    # Python does not look there if it was started by a script that is elsewhere, as an installed command is.
    if (here := os.getcwd()) not in sys.path:
        sys.path.append(here)
    try:
        found = import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except ModuleNotFoundError as e:
        if e.name is None or not f"{module}.".startswith(f"{e.name}."):
            raise ConfigError([f"{key}: {module} needs {e.name}, which is not installed"]) from e
        raise ConfigError(
            [f"{key}: no module {e.name!r}; it must be installed, or be below the working directory or on PYTHONPATH"]
        ) from e
    except AttributeError as e:
        raise ConfigError([f"{key}: got {place!r}, but {e}"]) from e
    except Exception as e:
        raise ConfigError([f"{key}: importing {module} raised {type(e).__name__}: {e}"]) from e
    return found


def argument_faults(
    function: Callable[..., Any], place: str, given: Collection[str], key: str, *, handed: Sequence[str], also: str = ""
) -> list[str]:
    """Return what is wrong with the names of the arguments for a user's function, a line each.

    `handed` are the arguments that it gets by position, `also` one that it gets by name; `given` are those that the
    configuration gives under `key`. A function without a signature, as some of C have none, has no faults.
    """
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return []
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    any_number = any(p.kind is p.VAR_POSITIONAL for p in parameters)
    any_name = any(p.kind is p.VAR_KEYWORD for p in parameters)
    if len(positional) < len(handed) and not any_number:
        return [f"{key}: {place} takes {len(positional)} arguments by position, must take {', '.join(handed)}"]
    taken = positional[: len(handed)]
    named = [p for p in parameters if p not in taken and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    names = [p.name for p in named]
    faults = [] if not also or also in names or any_name else [f"{key}: {place} must take an argument {also}"]
    valid = [name for name in names if name != also]
    for name in given if not any_name else ():
        if name not in valid:
            close = difflib.get_close_matches(name, valid, n=1)
            hint = f"did you mean {close[0]}? " if close else ""
            faults.append(f"{key}.{name}: {place} has no such argument; {hint}valid: {', '.join(valid) or 'none'}")
    required = [p.name for p in named if p.default is p.empty and p.name != also]
    return faults + [f"{key}.{name}: is required by {place}" for name in required if name not in given]


def first_line(error: BaseException) -> str:
    """Return an exception's type and the first line of its text, for a sentence."""
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0]}" if text else type(error).__name__
