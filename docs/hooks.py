"""MkDocs hooks: what the site takes from outside `docs/`, so that nothing is copied in the repository.

Links in the pages are written as they work in the repository, and turned here into those of the site.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent
IMAGES = ".github/images"
PAGES = {"CONTRIBUTING.md": "contributing.md", "SECURITY.md": "security.md", "CHANGELOG.md": "changelog.md"}


def on_files(files: Files, config: Any) -> Files:
    """Add the pictures and the pages that lie at the root of the repository."""
    for picture in sorted((ROOT / IMAGES).glob("*.png")):
        files.append(File.generated(config, f"images/{picture.name}", abs_src_path=str(picture)))
    for source, page in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text("utf-8")))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Turn links of the repository into links of the site."""
    markdown = markdown.replace(f"../{IMAGES}/", "images/")
    for source, page in PAGES.items():
        markdown = re.sub(rf"\]\((\.\./)?{source}", f"]({page}", markdown)
    return markdown.replace("](docs/", "](")
