"""YAML 1.2's numbers and booleans, and files that PyYAML's own dumper wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from bpkd_search.config import SearchConfig, dump, load_search
from bpkd_search.config.load import load_saved, parse
from bpkd_search.config.points import to_tree
from bpkd_search.config.yaml_text import read_saved_text, read_text, to_text

# Of the core schema's table in the specification of YAML 1.2.2, and what YAML 1.1 reads otherwise.
SCALARS = {
    "1e-3": 0.001,
    "1.5e3": 1500.0,
    "-1E+2": -100.0,
    ".5": 0.5,
    "5.": 5.0,
    "12": 12,
    "010": 10,
    "0o10": 8,
    "0x1F": 31,
    "+1": 1,
    "-.inf": float("-inf"),
    "true": True,
    "FALSE": False,
    "~": None,
    "Null": None,
    "": None,
    "off": "off",
    "no": "no",
    "Yes": "Yes",
    "12:30": "12:30",
    "1_000": "1_000",
    "0b11": "0b11",
    "2026-01-31": "2026-01-31",
    "=": "=",
}
# Strings that one version or the other reads as another type, among others.
TRICKY = [
    *SCALARS,
    "09",
    "1234e56",
    "<<",
    "nan",
    ".nan",
    "null",
    "a: b",
    "- x",
    "#",
    "é",
    " ",
    "1.0e-3",
    "!x",
    "&a",
    "*a",
]
# PyYAML folds line breaks other than \n into spaces.
words = st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"]), max_size=8)
strings = st.sampled_from(TRICKY) | st.from_regex(r"[-+]?[0-9.eE_:]{1,6}", fullmatch=True) | words
values = strings | st.booleans() | st.none() | st.integers() | st.floats(allow_nan=False)


@pytest.mark.parametrize("text", SCALARS)
def test_a_scalar_means_what_yaml_1_2_says(text: str) -> None:
    got = read_text(f"key: {text}")["key"]
    assert (got, type(got)) == (SCALARS[text], type(SCALARS[text]))


@given(st.dictionaries(strings, values | st.lists(values, max_size=3), max_size=4))
def test_what_is_written_reads_back_equal_by_either_version(tree: dict[str, Any]) -> None:
    text = to_text(tree)
    assert read_text(text) == read_saved_text(text) == yaml.safe_load(text) == tree


def test_merge_keys_and_anchors_are_read() -> None:
    tree = read_text("a: &a {x: 1, y: 1}\nb: &b {<<: *a, x: 2}\nc: {<<: *b, z: 3}\n")
    assert tree == {"a": {"x": 1, "y": 1}, "b": {"x": 2, "y": 1}, "c": {"x": 2, "y": 1, "z": 3}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3", "the key 'a' is given twice, in line 3"),
        ("a: [1", "in line 1"),
        ("[" * 4000, "nested too deeply"),
        ("a: " + "9" * 5000, "not valid YAML"),
        ("a: !!python/object:os.x {}", "could not determine a constructor"),
        ("a: !!bool maybe", "not valid YAML"),
        ("a: 1\n---\nb: 1", "another document"),
        ("a: \x00", "not valid YAML"),
    ],
)
def test_what_is_no_yaml_is_a_value_error(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_text(text)


def test_choices_with_an_exponent_are_floats(tmp_path: Path) -> None:
    path = tmp_path / "space.yaml"
    path.write_text("space: {train.lr: {choice: [1e-3, 1e-2]}}")
    options = load_search(path).space["train.lr"].options
    assert options == (0.001, 0.01) and {type(option) for option in options} == {float}


@given(options=st.lists(strings, min_size=1, max_size=4), when=values, tag=strings)
def test_a_configuration_that_pyyaml_wrote_loads_equal(
    tmp_path_factory: pytest.TempPathFactory, options: list[str], when: Any, tag: str
) -> None:
    tree = {
        "name": "1e5",
        "data": {"kind": "folder", "root": "09", "folder": {"class_names": ["1e3", "off", "no", "010"]}},
        "space": {
            "loss.alpha": {"float": [1e-7, 1e22], "log": True},
            "student.encoder": {"choice": options, "when": {"loss.method": when}},
        },
        "enqueue": [{"loss.alpha": 3, "student.encoder": tag}],
        "logging": {"mlflow": tag or "runs"},
    }
    config = SearchConfig.model_validate(tree)
    path = tmp_path_factory.getbasetemp() / "config.yaml"
    old = {key: value for key, value in to_tree(config).items() if key != "provenance"}
    for text in (yaml.safe_dump(old, sort_keys=False, allow_unicode=True), dump(config)):
        path.write_text(text, encoding="utf-8")
        assert load_saved(SearchConfig, path) == config


def test_strings_that_look_like_numbers_survive_dump_and_load(tmp_path: Path) -> None:
    tree = {"name": "1e5", "space": {"student.encoder": {"choice": ["1e-3", "off", "12:30"]}}}
    config = parse(SearchConfig, tree, "test")
    path = tmp_path / "space.yaml"
    path.write_text(dump(config))
    assert load_search(path) == load_saved(SearchConfig, path) == config
