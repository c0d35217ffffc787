"""The configuration's JSON schema as Markdown: what a value may be, its range, a block as a table."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from bpkd_search.config import SearchConfig

Schema = dict[str, Any]

SCHEMA: Schema = SearchConfig.model_json_schema()
BLOCKS: dict[str, Schema] = {name: block for name, block in SCHEMA["$defs"].items() if "properties" in block}

_SIGNS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
_SIGNS |= {"minItems": "length ≥", "maxItems": "length ≤", "minProperties": "entries ≥"}


def members(schema: Schema) -> list[Schema]:
    """The alternatives of a schema, `null` left out."""
    found = schema.get("anyOf") or schema.get("oneOf") or [schema]
    return [member for member in found if member.get("type") != "null"]


def blocks_of(schema: Schema) -> list[str]:
    """Names of the blocks that a value may be, or contain."""
    found = []
    for member in members(schema):
        inner = member.get("additionalProperties") or member.get("items")
        name = member.get("$ref", "").rpartition("/")[2]
        found += [name] if name in BLOCKS else []
        found += blocks_of(inner) if isinstance(inner, dict) else []
    return found


def selector(block: str) -> str:
    """What selects a block among several, as `name: tpe`, or nothing."""
    constants = [f"{key}: {value['const']}" for key, value in BLOCKS[block]["properties"].items() if "const" in value]
    return next(iter(constants), "")


def kind(schema: Schema) -> str:
    """The type of a value in words."""
    if len(members(schema)) > 1:
        return " or ".join(dict.fromkeys(kind(member) for member in members(schema)))
    (schema,) = members(schema)
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return "schedule" if name.endswith("Schedule") else "block" if BLOCKS.get(name) else "any value"
    if "const" in schema or "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema.get("enum", [schema.get("const")]))
    if "prefixItems" in schema:
        return f"[{', '.join(kind(item) for item in schema['prefixItems'])}]"
    if schema.get("type") == "array":
        return f"list of {kind(schema['items'])}"
    if schema.get("type") == "object":
        return "mapping"
    return "path" if schema.get("format") == "path" else str(schema.get("type", "any value"))


def limits(schema: Schema) -> str:
    """The range of a value, as its constraints state it."""
    found = []
    for member in members(schema):
        if "prefixItems" not in member:
            found += [f"{sign} {member[key]:g}" for key, sign in _SIGNS.items() if key in member]
        if "rule" in member:
            found.append(member["rule"])
    return ", ".join(dict.fromkeys(found)).replace("|", r"\|")


def table(block: Schema) -> str:
    """The keys of a block; those whose values are always blocks have sections of their own."""
    rows = []
    for key, schema in block["properties"].items():
        if "const" in schema or all("$ref" in member for member in members(schema)):
            continue
        value = schema.get("default")
        default = "" if value is None else f"`{json.dumps(value, ensure_ascii=False)}`"
        default = "required" if key in block.get("required", ()) else default
        rows.append(f"| `{key}` | {kind(schema)} | {default} | {limits(schema)} | {schema.get('description', '')} |")
    head = ["| key | type | default | range | meaning |", "|---|---|---|---|---|"]
    return "\n".join([*head, *rows]) + "\n" if rows else ""


def walk(path: str = "", block: Schema = SCHEMA) -> Iterator[tuple[str, str, Any]]:
    """Every block below this one: its dotted path, its name and its default there, outer before inner."""
    for key, schema in block["properties"].items():
        for name in blocks_of(schema):
            yield f"{path}{key}", name, schema.get("default")
            yield from walk(f"{path}{key}.", BLOCKS[name])


def keys() -> set[str]:
    """Every dotted key of a search."""
    return set(SCHEMA["properties"]) | {
        f"{path}.{key}" for path, name, _ in walk() for key in BLOCKS[name]["properties"]
    }
