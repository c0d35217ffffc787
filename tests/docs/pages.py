"""The written pages and their parts: sections, code blocks, code spans, links, anchors."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
LOOSE = ("README.md", "CONTRIBUTING.md", "SECURITY.md", "runners/README.md")
PAGES = sorted([*(ROOT / page for page in LOOSE), *DOCS.glob("*.md")])
BLOCK = re.compile(r"^( *)```(\w*)\n(.*?)^ *```$", re.DOTALL | re.MULTILINE)


def name(page: Path) -> str:
    """A page's name for a test."""
    return str(page.relative_to(ROOT))


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of a language, without their indentation."""
    found = BLOCK.findall(page.read_text("utf-8"))
    return [re.sub(rf"^{indent}", "", code, flags=re.MULTILINE) for indent, lang, code in found if lang == language]


def prose(page: Path) -> str:
    """A page without its fenced blocks."""
    return BLOCK.sub("", page.read_text("utf-8"))


def spans(page: Path) -> list[str]:
    """The code spans in a page's text, and each line of its blocks without a language."""
    lines = [line.split("  #")[0].strip() for block in blocks(page, "") for line in block.splitlines()]
    return [*re.findall(r"`([^`\n]+)`", prose(page)), *lines]


def links(page: Path) -> list[str]:
    """The targets of links and pictures that stay in the repository."""
    found = re.findall(r"\]\(([^)\s]+)\)", prose(page))
    return [target for target in found if not re.match(r"[a-z]+:", target)]


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def script(stem: str) -> ModuleType:
    """A script of `docs/`, imported as its neighbours import it."""
    if str(DOCS) not in sys.path:
        sys.path.insert(0, str(DOCS))
    return __import__(stem)
