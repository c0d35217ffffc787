"""What a search was begun with: which changes are refused, which are not, and how an accepted one is recorded."""

from __future__ import annotations

import re
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from bpkd_search.config import SearchConfig
from bpkd_search.config.load import parse
from bpkd_search.config.points import to_tree
from bpkd_search.errors import ExperimentError
from bpkd_search.experiment import folder
from bpkd_search.experiment.origin import MAY_CHANGE, Content, Origin, configuration_changes, leaves

CONTENTS = {
    "data.val": Content("6 images, aa", "camvid in /data"),
    "teacher": Content("bb", "/t.pt"),
    "views": Content("cc"),
}


def begun(directory: Path, tiny: dict[str, Any], contents: dict[str, Content] = CONTENTS) -> SearchConfig:
    """A search folder with recorded fingerprints."""
    config = parse(SearchConfig, tiny, "test")
    folder.create(directory, config)
    folder.note(directory, class_names=["a"])
    origin = Origin(directory, config, "resume exp", False)
    origin.check_configuration()
    origin.check_contents(contents | {"teacher": Content(None, "/t.pt")}, lambda line: None)
    origin.record(teacher=contents["teacher"])
    return config


def later(directory: Path, tiny: dict[str, Any], contents: dict[str, Content], *, accept: bool = False) -> list[str]:
    """The lines of another session of the same search."""
    said: list[str] = []
    origin = Origin(directory, parse(SearchConfig, tiny, "test"), "resume exp", accept)
    origin.check_configuration()
    origin.check_contents(contents, said.append)
    origin.record(teacher=contents["teacher"])
    return said


def test_what_is_the_same_is_no_change(tiny: dict[str, Any], tmp_path: Path) -> None:
    begun(tmp_path / "exp", tiny)
    moved = {name: Content(content.value, "elsewhere") for name, content in CONTENTS.items()}
    assert later(tmp_path / "exp", tiny, moved) == []
    assert "accepted" not in folder.noted(tmp_path / "exp")
    assert folder.noted(tmp_path / "exp")["class_names"] == ["a"]


def test_what_changes_no_result_may_change(tiny: dict[str, Any], tmp_path: Path) -> None:
    begun(tmp_path / "exp", tiny)
    tiny["name"] = "other"
    tiny["logging"] = {"csv": True}
    tiny["data"] |= {"views_dir": "/elsewhere", "local_dir": "/scratch", "images": "computed", "root": "/moved"}
    tiny["teacher"] |= {"checkpoint": "/moved/teacher.pt", "weights": "/moved/encoder.pt"}
    tiny["teacher"]["train"]["device"] = tiny["train"]["device"] = "cpu"
    tiny["student"]["weights"] = "/moved/student.pt"
    tiny["search"] |= {"trials": 99, "budget": {"hours": 2}, "concurrent": 3, "resources": {"cpus": 2}}
    tiny["search"]["warm_start"] = ["runs/other"]
    assert later(tmp_path / "exp", tiny, CONTENTS) == []


def test_keys_that_may_change_are_keys_of_a_configuration(tiny: dict[str, Any]) -> None:
    known = [path for path, _ in leaves(to_tree(parse(SearchConfig, tiny, "test")))]
    assert all(any(path == key or path.startswith(f"{key}.") for path in known) for key in MAY_CHANGE)


def test_every_changed_key_is_named_with_both_values_and_nothing_is_recorded(
    tiny: dict[str, Any], tmp_path: Path
) -> None:
    begun(tmp_path / "exp", tiny)
    before = folder.noted(tmp_path / "exp")
    tiny["train"]["lr"] = 0.5
    tiny["loss"] = {"method": "kd"}
    tiny["space"] = {"loss.temperature": {"float": [1, 9]}}
    with pytest.raises(ExperimentError) as error:
        later(tmp_path / "exp", tiny, CONTENTS)
    first, *changes, last = str(error.value).splitlines()
    assert first == f"{tmp_path / 'exp'}: has changed since the search began"
    assert {"  train.lr: was 0.02, is 0.5", "  loss.method: was bpkd, is kd"} <= set(changes)
    assert "  space.loss.temperature.float: was absent, is [1.0, 9.0]" in changes
    assert "  space.loss.edge_width.int: was [3, 7], is absent" in changes
    assert last == "undo that, or continue all the same with: bpkd-search resume exp --accept-changes"
    assert folder.noted(tmp_path / "exp") == before


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        (
            {"data.val": Content("5 images, dd", "voc in /x")},
            r"data.val \(voc in /x\): was 6 images, aa, is 5 images, dd",
        ),
        ({"teacher": Content("ee", "/u.pt")}, r"teacher \(/u.pt\): was bb, is ee"),
        ({"teacher": Content(None, "/u.pt")}, r"teacher \(/u.pt\): was bb, is missing and would be made anew"),
        ({"views": Content("ff")}, "views: was cc, is ff"),
    ],
)
def test_a_changed_content_is_named_with_its_place(
    tiny: dict[str, Any], tmp_path: Path, changed: dict[str, Content], line: str
) -> None:
    begun(tmp_path / "exp", tiny)
    with pytest.raises(ExperimentError, match=f"\n  {line}\n"):
        later(tmp_path / "exp", tiny, CONTENTS | changed)


def test_accepted_changes_are_said_recorded_with_the_time_and_not_asked_again(
    tiny: dict[str, Any], tmp_path: Path
) -> None:
    begun(tmp_path / "exp", tiny)
    tiny["train"]["lr"] = 0.5
    contents = CONTENTS | {"teacher": Content("ee", "/u.pt")}
    changes = ["train.lr: was 0.02, is 0.5", "teacher (/u.pt): was bb, is ee"]
    earliest = datetime.now(timezone.utc).replace(microsecond=0)
    assert later(tmp_path / "exp", tiny, contents, accept=True) == [f"accepted: {change}" for change in changes]
    (entry,) = folder.noted(tmp_path / "exp")["accepted"]
    assert entry["changes"] == changes
    assert earliest <= datetime.fromisoformat(entry["time"]) <= datetime.now(timezone.utc)

    assert later(tmp_path / "exp", tiny, contents) == []
    assert later(tmp_path / "exp", tiny, contents | {"views": Content("ff")}, accept=True) == [
        "accepted: views: was cc, is ff"
    ]
    assert [len(entry["changes"]) for entry in folder.noted(tmp_path / "exp")["accepted"]] == [2, 1]


def test_a_search_of_an_older_version_is_recorded_with_one_line(tiny: dict[str, Any], tmp_path: Path) -> None:
    exp = tmp_path / "exp"
    folder.create(exp, parse(SearchConfig, tiny, "test"))
    assert later(exp, tiny, CONTENTS) == []  # it has not begun yet
    folder.note(exp, fingerprints=None)
    (exp / "events.jsonl").write_text('{"event":"ask"}\n')
    assert later(exp, tiny, CONTENTS) == [
        f"{exp}: was begun by an older version; what it reads is recorded from now on"
    ]
    assert later(exp, tiny, CONTENTS) == []


def test_keys_that_are_new_or_gone_since_are_no_change_unless_their_values_differ(tiny: dict[str, Any]) -> None:
    config = parse(SearchConfig, tiny, "test")
    older = to_tree(config)
    del older["train"]["compile"]
    assert configuration_changes(older, config) == []
    older["train"] |= {"gone": 3, "compile": True}
    assert set(configuration_changes(older, config)) == {
        "train.gone: was 3, is absent",
        "train.compile: was True, is False",
    }


@pytest.mark.parametrize("text", ["{", "[1]", "3"])
def test_damaged_facts_are_named(tiny: dict[str, Any], tmp_path: Path, text: str) -> None:
    begun(tmp_path / "exp", tiny)
    (tmp_path / "exp" / "experiment.json").write_text(text)
    with pytest.raises(ExperimentError, match=re.escape(str(tmp_path / "exp" / "experiment.json")) + ": is damaged"):
        later(tmp_path / "exp", tiny, CONTENTS)
