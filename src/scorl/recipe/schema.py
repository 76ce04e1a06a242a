"""The JSON schema of recipes, by which editors complete and check them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from scorl.recipe.sections import adapter

__all__ = ["describe_recipe", "json_schema"]

Schema = dict[str, Any]

FILE_KEYS = {
    "extends": {
        "description": "A recipe to start from, a path or a shipped name; mappings merge, lists do not.",
        "type": ["string", "null"],
    },
    "versions": {"description": "Noted by a run; not read.", "type": "object"},
}
"""Keys of the file rather than of the recipe."""
OWN_TASK = {
    "description": "Or a task of one's own, `file.py:Class` or `module:Class`: its keys are the fields of the class.",
    "type": "string",
}
"""Whose keys no schema knows."""


def json_schema() -> Schema:
    """The schema of a recipe file; a file that extends another may leave out what is required there.

    Where there is a choice, `if` finds what is meant, so that an editor says what is wrong with that, and not that
    nothing of all fits.
    """
    described = describe_recipe()
    schema: Schema = _choosing(described, described["$defs"])
    task = schema["properties"]["task"]
    task["properties"]["name"] = {"if": {"pattern": ":"}, "then": OWN_TASK, "else": task["properties"]["name"]}
    for part in (schema, schema["$defs"]["ModelSettings"], task):
        del part["required"]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema"} | schema


def describe_recipe() -> Schema:
    """The schema as pydantic has it, in which choices are unions."""
    schema: Schema = json.loads(json.dumps(adapter().json_schema()), object_hook=_joined)
    schema["properties"]["task"]["oneOf"].append(OWN_TASK)
    schema["properties"] |= FILE_KEYS
    return schema


def _joined(node: Schema) -> Schema:
    """A node with the lines of its description joined."""
    text = node.get("description")
    return node | {"description": " ".join(text.split())} if isinstance(text, str) else node


def _choosing(node: Any, kinds: Mapping[str, Schema]) -> Any:
    """A schema without unions; `kinds` are those that it refers to."""
    if isinstance(node, list):
        return [_choosing(each, kinds) for each in node]
    if not isinstance(node, dict):
        return node
    rest = {key: _choosing(value, kinds) for key, value in node.items() if key not in ("oneOf", "anyOf")}
    if "oneOf" in node:
        return rest | _choose_by_key(kinds=kinds, **rest.pop("discriminator"))
    return rest | _choose_by_type(node["anyOf"]) if "anyOf" in node else rest


def _choose_by_key(propertyName: str, mapping: Schema, kinds: Mapping[str, Schema]) -> Schema:  # noqa: N803 - OpenAPI's
    """The variant that a key names; where that is missing (a file may extend another), the keys of all of them."""
    variants = {name: kinds[ref.rpartition("/")[2]] for name, ref in mapping.items()}
    defaults = [name for name, variant in variants.items() if "default" in variant["properties"][propertyName]]
    every = {
        key: value for variant in variants.values() for key, value in _choosing(variant, kinds)["properties"].items()
    }
    named = {"required": [propertyName]}
    rules = [
        {"if": {"properties": {propertyName: {"const": name}}} | named, "then": {"$ref": ref}}
        for name, ref in mapping.items()
    ]
    unnamed = {"if": {"not": named}, "then": {"properties": every, "additionalProperties": False}}
    return {
        "type": "object",
        "properties": {propertyName: {"enum": list(mapping)}},
        "allOf": [*rules, unnamed],
    } | ({} if defaults else named)


def _choose_by_type(options: Sequence[Schema]) -> Schema:
    """The option of the value's type; all values in one list where they can be listed."""
    listed = [_list_values(option) for option in options]
    if None not in listed:
        return {"enum": [value for values in listed for value in values or ()]}
    types = [option.get("type", "object") for option in options]
    rules = [{"if": {"type": kind}, "then": option} for kind, option in zip(types, options, strict=True)]
    rules = [rule for rule in rules if rule["then"] != rule["if"]]
    return {"type": types} | ({"allOf": rules} if rules else {})


def _list_values(option: Schema) -> list[Any] | None:
    """All values of an option; None where there is no end of them."""
    if "const" in option or "enum" in option:
        return [option["const"]] if "const" in option else list(option["enum"])
    values: dict[str, list[Any]] = {"null": [None], "boolean": [True, False]}
    return values.get(option.get("type", ""))
