"""Who may know whom: rooms, private names, circles. Held by reading the code and by importing each room alone."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "bpkd_search"
HEAVY = {"torch", "ray", "optuna", "pandas", "pyarrow"}

# Module -> libraries that importing it must not load: in a process of its own for each group, one module after the
# other, so that what a module loads counts for the later ones of its group too.
LOADS_NONE_OF = {
    "without torch": {
        "bpkd_search": HEAVY | {"pydantic", "yaml"},
        "bpkd_search.cli": HEAVY | {"pydantic", "yaml"},
        "bpkd_search.config": HEAVY,
        "bpkd_search.losses.methods": HEAVY,
        "bpkd_search.metrics.table": HEAVY,
        "bpkd_search.data.kinds": HEAVY,
        "bpkd_search.stores.experiment": {"torch", "ray", "optuna", "pandas"},
        "bpkd_search.experiment.recorder": {"torch", "ray", "optuna"},
        "bpkd_search.experiment.folder": {"torch", "ray", "optuna"},
        "bpkd_search.results.leaderboard": {"torch", "ray", "optuna", "sklearn", "scipy"},
        "bpkd_search.show.leaderboard": {"torch", "ray", "optuna"},
        "bpkd_search.report.page": {"torch", "ray", "optuna"},
        "bpkd_search.export": {"torch", "ray", "optuna"},
        "bpkd_search.surrogate.model": {"torch", "ray", "optuna"},
        "bpkd_search.report": {"torch", "ray"},
        "bpkd_search.search.engine": {"torch", "ray"},
        "bpkd_search.search.simulate": {"torch", "ray"},
    },
    "with torch": {
        "bpkd_search.losses": {"ray", "optuna", "pyarrow"},
        "bpkd_search.metrics": {"ray", "optuna", "pyarrow"},
        "bpkd_search.models": {"ray", "optuna", "pyarrow"},
        "bpkd_search.data.views": {"ray", "optuna", "pyarrow"},
        "bpkd_search.training.train": {"ray", "optuna"},
    },
}

# Room -> libraries that none of its files may name, however late.
NAMES_NONE_OF = {
    **{room: {"ray", "optuna", "pyarrow", "pandas"} for room in ("losses", "metrics", "models", "data")},
    "surrogate": {"ray", "torch", "optuna", "pyarrow", "pandas"},
    **{room: {"ray", "torch"} for room in ("search", "experiment", "stores", "results", "show", "report")},
    **{room: {"ray"} for room in ("config", "cli", "export", "pictures", "training")},
}

# Room -> rooms that none of its files may name.
BELOW_ALL = {
    "surrogate", "search", "cluster", "experiment", "results", "show", "report", "export", "training", "pictures",
    "cli",
}  # fmt: skip
KNOWS_NONE_OF = {
    "losses": BELOW_ALL | {"config", "models", "data", "metrics"},
    "metrics": BELOW_ALL | {"config", "models", "data", "losses"},
    "data": BELOW_ALL | {"config", "models", "losses", "metrics"},
    "models": BELOW_ALL | {"data", "losses", "metrics"},
    "config": BELOW_ALL | {"models"},
    "training": {"surrogate", "search", "cluster", "results", "show", "report", "export", "cli"},
    "surrogate": (BELOW_ALL - {"surrogate"}) | {"models", "data", "losses"},
    "search": {"cluster", "training", "models", "data", "losses", "show", "report", "export", "pictures", "cli"},
    "stores": BELOW_ALL - {"experiment"} | {"models", "data", "losses", "metrics"},
    "experiment": {
        "cluster",
        "training",
        "models",
        "data",
        "losses",
        "surrogate",
        "search",
        "results",
        "show",
        "report",
        "cli",
    },
    "results": {"cluster", "training", "models", "data", "losses", "search", "show", "report", "export", "cli"},
    "show": {"cluster", "training", "models", "data", "losses", "report", "cli"},
    "report": {"cluster", "training", "models", "data", "losses", "cli"},
}


def files(room: str = ".") -> list[Path]:
    return sorted((PACKAGE / room).rglob("*.py"))


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def imported(path: Path, *, typing_only: bool = True) -> Iterator[str]:
    """Every module, and every name of one, that a file imports at any depth."""
    skipped: set[ast.AST] = set()
    if not typing_only:
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
                skipped |= {inner for part in node.body for inner in ast.walk(part)}
    for node in ast.walk(tree(path)):
        if node in skipped:
            continue
        if isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


@pytest.mark.parametrize("group", LOADS_NONE_OF)
def test_importing_a_module_loads_only_what_it_may_know(group: str) -> None:
    code = "import sys" + "".join(
        f"\nimport {module}; print('{module}', *(name for name in sys.modules if '.' not in name))"
        for module in LOADS_NONE_OF[group]
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    loaded = {line.split()[0]: set(line.split()[1:]) for line in printed.splitlines()}
    assert loaded.keys() == LOADS_NONE_OF[group].keys()
    found = {module: loaded[module] & forbidden for module, forbidden in LOADS_NONE_OF[group].items()}
    assert not {module: names for module, names in found.items() if names}


@pytest.mark.parametrize("room", NAMES_NONE_OF)
def test_a_room_names_only_the_libraries_it_may(room: str) -> None:
    named = {(path.name, name.split(".")[0]) for path in files(room) for name in imported(path, typing_only=False)}
    assert not [(file, name) for file, name in named if name in NAMES_NONE_OF[room]]


@pytest.mark.parametrize("room", KNOWS_NONE_OF)
def test_a_room_names_only_the_rooms_it_may(room: str) -> None:
    named = {(path.name, name) for path in files(room) for name in imported(path) if name.startswith("bpkd_search.")}
    assert not [(file, name) for file, name in named if name.split(".")[1] in KNOWS_NONE_OF[room]]


def test_only_cluster_imports_ray() -> None:
    naming = {
        path.relative_to(PACKAGE).parts[0] for path in files() for name in imported(path) if name.split(".")[0] == "ray"
    }
    assert naming == {"cluster"}


def test_imports_are_absolute() -> None:
    relative = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in files()
        for node in ast.walk(tree(path))
        if isinstance(node, ast.ImportFrom) and node.level
    ]
    assert not relative


def private_uses(path: Path) -> Iterator[str]:
    """Private names that a file takes from elsewhere: imported, or read from anything but `self` and `cls`."""
    own = {
        node.name if isinstance(node, ast.FunctionDef | ast.ClassDef) else node.attr
        for node in ast.walk(tree(path))
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
        or (isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in ("self", "cls"))
    }
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.ImportFrom | ast.Import):
            names = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
            found = [part for name in names for part in name.split(".") if part.startswith("_")]
        elif isinstance(node, ast.Attribute) and node.attr not in own:
            found = [node.attr] if node.attr.startswith("_") else []
        else:
            continue
        for name in found:
            if not (name.startswith("__") and name.endswith("__")):
                yield f"{path.relative_to(ROOT)}:{node.lineno} {name}"


# PyTorch and Ray offer no public name for these, and `os._exit` is public.
ALLOWED_PRIVATE = {
    "_dynamo",
    "_inductor",
    "_python_dispatch",
    "_pytree",
    "_private",
    "_actor_id",
    "_raylet",
    "_to_copy",
    "_exit",
}


def test_no_file_reads_private_names_of_another() -> None:
    found = [use for path in files() for use in private_uses(path)]
    assert not [use for use in found if use.split()[-1] not in ALLOWED_PRIVATE]


def test_no_circle_of_files() -> None:
    modules = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in files()}
    graph = {}
    for path in files():
        here = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        names = imported(path, typing_only=False)
        graph[here] = {n if n in modules else n.rpartition(".")[0] for n in names} & modules - {here}
    done: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, " -> ".join([*trail[trail.index(module) :], module])
        if module not in done:
            for other in sorted(graph[module]):
                visit(other, (*trail, module))
            done.add(module)

    for module in sorted(graph):
        visit(module, ())


def test_few_modules_lie_loose_at_the_top() -> None:
    assert {path.stem for path in PACKAGE.glob("*.py")} == {
        "__init__",
        "__main__",
        "blocks",
        "errors",
        "files",
        "imports",
        "machine",
        "morphology",
        "predict",
    }
