"""The search spaces that are installed with the package: found by name, and copied to change them."""

from __future__ import annotations

import difflib
from pathlib import Path

from bpkd_search.errors import ConfigError, UserError

PACKAGE = Path(__file__).parents[1]


def installed_spaces() -> dict[str, Path]:
    """Files of the installed search spaces by name, in alphabetical order."""
    folder = PACKAGE / "search_spaces"
    if not folder.is_dir():  # in a checkout it is beside the package
        folder = PACKAGE.parent / "search_spaces"
    found = {path.relative_to(folder).with_suffix("").as_posix(): path for path in folder.rglob("*.yaml")}
    return dict(sorted(found.items()))


def find_space(given: Path | str) -> Path:
    """The file that `given` means: a path or, where no such file exists, the name of an installed search space.

    Raises `ConfigError` for what has no suffix and is neither.
    """
    path = Path(given)
    return path if path.is_file() or path.suffix else _installed(path.as_posix(), "no such file, and ")


def copy_space(name: str, out: Path | None = None) -> Path:
    """Copy an installed search space to a new file, by default `NAME.yaml` here; gives the file.

    Raises `ConfigError` for an unknown name, `UserError` for a file that exists or cannot be written.
    """
    source = _installed(name)
    out = out or Path(source.name)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with out.open("x", encoding="utf-8") as file:
            file.write(source.read_text(encoding="utf-8"))
    except OSError as e:
        if out.exists():
            raise UserError(f"{out}: exists already; choose another --out") from None
        raise UserError(f"{out}: cannot be written: {e.strerror}") from e
    return out


def summary(path: Path) -> str:
    """The first line of a search space's header, which says what the search is."""
    with path.open(encoding="utf-8") as file:
        return file.readline().lstrip("# ").rstrip()


def _installed(name: str, but: str = "") -> Path:
    spaces = installed_spaces()
    if name in spaces:
        return spaces[name]
    close = difflib.get_close_matches(name, spaces, n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    raise ConfigError([f"{but}no search space of this name; {hint}valid: {', '.join(spaces)}"], name)
