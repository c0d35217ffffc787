"""Names of files: each is written down once."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import bpkd_search
from bpkd_search.experiment import paths

PACKAGE = Path(bpkd_search.__file__).parent
NAMES = {name: value for name, value in vars(paths).items() if name.isupper()}
FILES = {value for name, value in NAMES.items() if "." in value}
FOLDERS = {value for name, value in NAMES.items() if "." not in value and name != "LOCK"}  # views have a lock as well


def spelled(path: Path) -> Iterator[str]:
    """Where a module spells the name of a file, or joins that of a folder to a path."""
    for node in ast.walk(ast.parse(path.read_text())):
        part = node.right if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div) else None
        if isinstance(part, ast.Constant) and part.value in FOLDERS:
            yield f"{path.name}:{node.lineno} {part.value}"
        if isinstance(node, ast.Constant) and node.value in FILES:
            yield f"{path.name}:{node.lineno} {node.value}"


def test_no_other_module_spells_a_name_of_the_experiment_folder() -> None:
    others = [path for path in PACKAGE.rglob("*.py") if path != Path(paths.__file__)]
    assert [found for path in others for found in spelled(path)] == []


def test_files_of_trials_are_numbered_with_five_digits() -> None:
    assert paths.student_file(Path("e"), 7) == Path("e/students/00007.safetensors")
    assert paths.checkpoint_file(Path("e"), 123456) == Path("e/checkpoints/123456.pt")
