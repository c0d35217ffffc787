"""What `bpkd_search` offers at the top: the verbs of the command line, light to import, the same in any order."""

from __future__ import annotations

import inspect
import json
import pydoc
import re
import subprocess
import sys
from importlib import import_module
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import pytest

import bpkd_search
from bpkd_search.config import SearchConfig
from bpkd_search.config.load import parse

ROOT = Path(__file__).parent.parent
VERBS = {
    "confirm": "bpkd_search.cluster.confirm",
    "export": "bpkd_search.export.write",
    "load_run": "bpkd_search.config.load",
    "load_search": "bpkd_search.config.load",
    "load_student": "bpkd_search.predict",
    "predict": "bpkd_search.predict",
    "report": "bpkd_search.report",
    "resume_search": "bpkd_search.cluster.driver",
    "run_search": "bpkd_search.cluster.driver",
    "simulate": "bpkd_search.search.simulate",
    "train": "bpkd_search.training.train",
}


def python(code: str) -> str:
    """Run code in a fresh interpreter; gives what it printed."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout


def test_every_public_name_can_be_imported() -> None:
    for name in bpkd_search.__all__:
        assert getattr(bpkd_search, name) is not None
    assert set(VERBS) <= set(dir(bpkd_search))
    with pytest.raises(AttributeError, match="has no attribute 'serch'"):
        bpkd_search.serch  # noqa: B018


@pytest.mark.parametrize("name", VERBS)
def test_a_verb_is_the_function_of_its_room(name: str) -> None:
    verb, function = getattr(bpkd_search, name), getattr(import_module(VERBS[name]), name)
    if verb is not function:
        assert verb is sys.modules[f"bpkd_search.{name}"] and getattr(verb, name) is function and callable(verb)


CALLS = """
for call in (
    lambda: bpkd_search.export("none", "out", formats=["xml"]),
    lambda: bpkd_search.predict("none.safetensors", "images", "out"),
    lambda: bpkd_search.report("none", "out.html"),
):
    try:
        call()
    except bpkd_search.UserError as e:
        print(e)
"""
IMPORTS = """
import bpkd_search.export, bpkd_search.predict as module, bpkd_search.report
from bpkd_search.predict import load_student
from bpkd_search import export, predict, report
assert module.load_student is load_student is bpkd_search.load_student and predict is module
"""


@pytest.mark.parametrize("order", [("import bpkd_search", CALLS, IMPORTS, CALLS), (IMPORTS, CALLS)], ids=len)
def test_a_verb_that_is_a_submodule_too_is_both_in_any_order(order: tuple[str, ...]) -> None:
    printed = python("\n".join(order))
    for said in ("valid: yaml, json", "none.safetensors: no such", "none: is not an experiment"):
        assert printed.count(said) == order.count(CALLS)


def test_a_submodule_is_patched_by_its_dotted_name_though_a_verb_has_the_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bpkd_search.export.write.FORMATS", ("patched",))
    monkeypatch.setattr("bpkd_search.predict.OVERLAY", 2)
    monkeypatch.setattr("bpkd_search.report.page.BEFORE", ())
    write, predict, page = (import_module(f"bpkd_search.{name}") for name in ("export.write", "predict", "report.page"))
    assert (write.FORMATS, predict.OVERLAY, page.BEFORE) == (("patched",), 2, ())
    assert bpkd_search.export.write is write and callable(bpkd_search.predict.load_student)


@pytest.mark.parametrize(("name", "first"), [("export", "source"), ("predict", "student"), ("report", "directory")])
def test_help_of_a_verb_that_is_a_submodule_too_is_that_of_its_function(name: str, first: str) -> None:
    verb = getattr(bpkd_search, name)
    function = getattr(verb, name)
    assert inspect.signature(verb) == inspect.signature(function) and first in inspect.signature(verb).parameters
    text = pydoc.render_doc(verb, renderer=pydoc.plaintext)
    assert f"{name}({first}:" in text and str(inspect.getdoc(function)).splitlines()[0] in text


def test_importing_the_report_verb_loads_neither_torch_nor_ray() -> None:
    code = "import sys; from bpkd_search import report, export; print({'torch', 'ray'} & set(sys.modules))"
    assert python(code) == "set()\n"


def test_a_commands_verb_has_its_name() -> None:
    from typer.main import get_command

    from bpkd_search.cli import app

    commands = set(get_command(app).commands)  # type: ignore[attr-defined]
    assert {"confirm", "export", "predict", "report", "simulate", "train"} <= commands & set(bpkd_search.__all__)


def test_there_is_one_version(monkeypatch: pytest.MonkeyPatch) -> None:
    written = re.findall(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    cited = re.findall(r"^version: (.+)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    assert [bpkd_search.__version__] == written == cited

    def missing(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr("importlib.metadata.version", missing)
    assert [bpkd_search.__version__] == written


def test_verbs_take_paths_as_text_and_train_prints_nothing(
    tiny: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny["train"]["epochs"] = 1
    run = parse(SearchConfig, tiny, "test").run()
    metrics = bpkd_search.train(run, str(tmp_path / "run"))
    assert capsys.readouterr() == ("", "")
    assert json.loads((tmp_path / "run" / "metrics.json").read_text()) == metrics
    (exported,) = bpkd_search.export(str(tmp_path / "run"), str(tmp_path / "best"))
    assert exported.parent == tmp_path / "best" and bpkd_search.load_run(str(exported)).student == run.student
    for verb in (bpkd_search.resume_search, bpkd_search.confirm):
        with pytest.raises(bpkd_search.UserError, match="is not an experiment directory"):
            verb(str(tmp_path))
