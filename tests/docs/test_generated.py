"""The generated pages are up to date, complete, and true of the models."""

from __future__ import annotations

import json
import re

import nbformat
import pytest
from pydantic import BaseModel, TypeAdapter, ValidationError

from bpkd_search.config import RunConfig
from bpkd_search.config.data import Data
from bpkd_search.config.models import SearchConfig
from bpkd_search.config.networks import Student, Teacher
from bpkd_search.config.optimisation import Optimisation
from bpkd_search.config.search import Budget, Scheduler, Search
from bpkd_search.losses.methods import METHODS
from bpkd_search.metrics.table import COSTS, SCORES
from tests.docs.pages import DOCS, blocks, script

generate, schema = script("generate"), script("schema")
CONFIGURATION = (DOCS / "configuration.md").read_text()


def section(title: str) -> dict[str, list[str]]:
    """A section's table: key -> type, default, range, meaning."""
    text = CONFIGURATION.split(f"\n## {title}\n")[1].split("\n## ")[0]
    rows = [re.split(r" *(?<!\\)\| *", row)[1:-1] for row in text.splitlines() if row.startswith("| `")]
    return {key.strip("`"): rest for key, *rest in rows}


@pytest.mark.parametrize("page", generate.PAGES)
def test_no_page_is_stale(page: str) -> None:
    assert (DOCS / page).read_text("utf-8") == generate.PAGES[page](), "run `make docs-reference`"


def test_every_key_has_a_meaning() -> None:
    silent = [
        f"{name}.{key}"
        for name, block in {"SearchConfig": schema.SCHEMA, **schema.BLOCKS}.items()
        for key, field in block["properties"].items()
        if "const" not in field and not schema.blocks_of(field) and not field.get("description")
    ]
    assert not silent


@pytest.mark.parametrize(
    "title, model",
    [
        ("`data`", Data),
        ("`teacher`", Teacher),
        ("`student`", Student),
        ("`teacher.train` and `train`", Optimisation),
        ("`search`", Search),
        ("`search.scheduler`", Scheduler),
        ("`search.budget`", Budget),
    ],
)
def test_defaults_and_ranges_are_those_of_the_models(title: str, model: type[BaseModel]) -> None:
    table, fresh = section(title), model()
    assert {key for key, value in fresh if value is not None and not isinstance(value, BaseModel)} <= set(table)
    for key, (_, default, limits, _) in table.items():
        shown = json.loads(default.strip("`")) if default else None
        assert shown == json.loads(fresh.model_dump_json()).get(key, getattr(fresh, key)), key
        for sign, bound in re.findall(r"([≥>≤<]) (-?[\d.]+)", limits):
            number = int(bound) if "." not in bound else float(bound)
            inside = {"≥": number, "≤": number, ">": number + 1, "<": number - 1}[sign]
            outside = {"≥": number - 1, "≤": number + 1, ">": number, "<": number}[sign]
            assert accepts(model, key, inside) or sign == "<", (key, inside)
            assert not accepts(model, key, outside), (key, outside)


def accepts(model: type[BaseModel], key: str, value: float) -> bool:
    try:
        TypeAdapter(model).validate_python({key: value})
    except ValidationError:
        return False
    return True


def test_a_different_default_elsewhere_is_named() -> None:
    assert RunConfig().teacher.train.epochs != RunConfig().train.epochs
    assert f"Other defaults in `teacher.train`: `epochs: {RunConfig().teacher.train.epochs}`." in CONFIGURATION


def test_all_blocks_have_a_section() -> None:
    titles = re.findall(r"^## (.+)$", CONFIGURATION, re.MULTILINE)
    for key, value in RunConfig():
        if isinstance(value, BaseModel):
            assert any(f"`{key}`" in title for title in titles), key
    assert {f"`{key}`" for key in ("search", "logging")} <= set(titles)
    for name in ("tpe", "random", "qmc", "gp", "cmaes", "nsga2"):
        assert f"`search.sampler` with `name: {name}`" in titles
    for data in SearchConfig.model_json_schema()["$defs"]["Data"]["properties"]:
        assert data in section("`data`") or f"`data.{data}`" in titles


def test_every_loss_is_listed_with_its_published_weights() -> None:
    page = (DOCS / "losses.md").read_text()
    for name, method in METHODS.items():
        text = page.split(f"\n## {name}\n")[1].split("\n## ")[0]
        assert method.source in text
        for known in method.published:
            row = f"| {known.codebase} | `{known.parameter}` | {known.weight:g} | {known.factor} |"
            assert row in text
        for parameter in method.model_fields:
            assert parameter == "method" or f"| `{parameter}` |" in text


def test_every_measure_is_listed() -> None:
    page = (DOCS / "measures.md").read_text()
    assert all(f"| `{name}` | score | max | " in page for name in SCORES)
    assert all(f"| `{name}` | cost | min | " in page for name in COSTS)


def test_the_notebook_holds_the_cells_and_outputs_of_the_tutorial() -> None:
    book = nbformat.read(DOCS / "tutorial.ipynb", as_version=4)
    nbformat.validate(book)
    code = [cell for cell in book.cells if cell.cell_type == "code"]
    assert [cell.source.strip() for cell in code] == [block.strip() for block in blocks(DOCS / "tutorial.md", "python")]
    printed = [cell.outputs[0].text for cell in code if cell.outputs]
    assert printed == blocks(DOCS / "tutorial.md", "")
