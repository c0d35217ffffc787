"""Every link, picture, file, command and option that a page names exists."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
from typer.main import get_command

from bpkd_search.cli import app
from tests.docs.pages import DOCS, PAGES, ROOT, anchors, blocks, links, name, prose, script, spans

OPTIONS = {
    command: {option for parameter in found.params for option in parameter.opts}
    for command, found in script("generate").all_commands("bpkd-search", get_command(app))
}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_and_anchors_lead_somewhere(page: Path) -> None:
    for target in links(page):
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        if anchor:
            assert anchor in anchors(file), target


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_commands_and_their_options_exist(page: Path) -> None:
    for span in spans(page):
        if found := re.match(r"(?:\$ )?bpkd-search ([a-z][a-z-]*)(?: ([a-z]+)\b)?(.*)", span):
            nested = f"bpkd-search {found[1]} {found[2]}"
            command = nested if nested in OPTIONS else f"bpkd-search {found[1]}"
            assert command in OPTIONS, span
            assert set(re.findall(r"--[a-z-]+", found[3])) <= OPTIONS[command] | {"--help"}, span


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_make_targets_and_source_files_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for span in spans(page):
        if found := re.fullmatch(r"make ([a-z- ]+)", span):
            assert set(found[1].split()) <= targets, span
        if re.fullmatch(r"[\w/.]+/[\w.]*(\.py|\.sh|\.sbatch|\.yaml|/)", span) and not span.startswith(
            ("runs/", "best/")
        ):
            assert any((base / span).exists() for base in (ROOT, ROOT / "bpkd_search", page.parent)), span


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_imports_in_examples_resolve(page: Path) -> None:
    for code in blocks(page, "python"):
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("bpkd_search"):
                module = import_module(node.module or "")
                assert all(hasattr(module, alias.name) for alias in node.names), ast.unparse(node)


def test_every_page_is_in_the_navigation() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text()
    assert all(f"- {page.name}\n" in navigation for page in DOCS.glob("*.md"))


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 200


def test_figures_of_the_readme_are_those_of_the_pages() -> None:
    elsewhere = "".join(page.read_text() for page in DOCS.glob("*.md"))
    figures = set(re.findall(r"\b\d+\.\d{2,4}\b", (ROOT / "README.md").read_text())) - {"3.10"}  # Python
    assert len(figures) > 20 and not {figure for figure in figures if figure not in elsewhere}


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("mkdocstrings")
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    pictures = {picture.name for picture in (tmp_path / "site/images").iterdir()}
    assert pictures >= {Path(target).name for page in DOCS.glob("*.md") for target in links(page) if "images" in target}
    assert "load_student" in (tmp_path / "site/api.html").read_text()
    assert not [page for page in (tmp_path / "site").rglob("*.html") if "fonts.googleapis" in page.read_text()]


def test_pages_name_nothing_of_one_machine() -> None:
    for page in PAGES:
        assert not re.search(r"/(home|work|root)/", prose(page)), page
