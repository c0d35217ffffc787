"""YAML as the package reads and writes it: safe, with the numbers and booleans of YAML 1.2 (its core schema).

PyYAML alone reads YAML 1.1, in which `1e-3` is a string, `off` and `no` are booleans, `12:30` is 750 and `010` is 8.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

_TAG = "tag:yaml.org,2002:"
# Tag, form, first characters: https://yaml.org/spec/1.2.2, section 10.3.2, and the merge key.
_CORE = (
    ("null", r"~|null|Null|NULL|", "~nN"),
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    (
        "float",
        r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        "-+.0123456789",
    ),
    ("merge", r"<<", "<"),
)


class _Loader(yaml.SafeLoader):
    """The safe loader with YAML 1.2's core schema; a key that is given twice is an error."""

    yaml_implicit_resolvers: dict[Any, Any] = {}

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key.value!r} is given twice", key.start_mark
                )
            seen.add(str(key.value))
        return node


class _Dumper(yaml.SafeDumper):
    """The safe dumper; a string that YAML 1.1 or 1.2 would read as another type is quoted."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _int(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    text = loader.construct_scalar(node)
    return int(text, 0) if text[:2] in ("0o", "0x") else int(text)


def _float(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> float:
    return float(loader.construct_scalar(node).lower().replace(".inf", "inf").replace(".nan", "nan"))


for _name, _form, _first in _CORE:
    _pattern = re.compile(rf"(?:{_form})\Z")
    _Loader.add_implicit_resolver(f"{_TAG}{_name}", _pattern, [*_first, *([""] if _name == "null" else [])])
    _Dumper.add_implicit_resolver(f"{_TAG}{_name}", _pattern, list(_first))
_Loader.add_constructor(f"{_TAG}int", _int)
_Loader.add_constructor(f"{_TAG}float", _float)


def read_text(text: str) -> Any:
    """The value of a YAML text that a person wrote. Raises `ValueError`, with the place, for what is not valid."""
    return _read(text, _Loader)


def read_saved_text(text: str) -> Any:
    """The value of a YAML text that the package wrote, whichever version did. Raises `ValueError` as `read_text`.

    Older versions left strings such as `1e-3` without quotes, which only YAML 1.1 reads as strings. What `to_text`
    writes means the same in both.
    """
    return _read(text, yaml.SafeLoader)


def to_text(value: Any) -> str:
    """Plain values as YAML, keys in their order."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def _read(text: str, loader: type[yaml.SafeLoader]) -> Any:
    try:
        return yaml.load(text, Loader=loader)
    except yaml.MarkedYAMLError as e:
        place = f", in line {e.problem_mark.line + 1}" if e.problem_mark else ""
        raise ValueError(f"is not valid YAML: {e.problem or e.context}{place}") from e
    except (yaml.YAMLError, ValueError, KeyError, AttributeError) as e:  # explicit tags on values of other forms
        raise ValueError(f"is not valid YAML: {' '.join(str(e).split())}") from e
    except RecursionError:
        raise ValueError("is not valid YAML: nested too deeply") from None
