"""What pydantic found, in words: the key's path, what was given, what is allowed, the nearest right name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from scorl.errors import nearest

__all__ = ["complaints"]

NO_TRUNCATION = "sampler and learner would disagree about the policy; scorl samples from the whole distribution"
REASONS = {
    "top_p": NO_TRUNCATION,
    "top_k": NO_TRUNCATION,
    "min_p": NO_TRUNCATION,
    "extends": "only a recipe's file can extend another",
    "dropout": "sampler and learner would disagree about the policy",
}
"""Keys that people bring from elsewhere, and why they are not here."""

WANTED = {
    "int_type": "a whole number",
    "float_type": "a number",
    "string_type": "text",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "dataclass_type": "a mapping of keys",
    "greater_than_equal": "at least {ge:g}",
    "greater_than": "greater than {gt:g}",
    "less_than_equal": "at most {le:g}",
    "less_than": "less than {lt:g}",
    "finite_number": "a finite number",
}

Schema = Mapping[str, Any]


def complaints(error: ValidationError, schema: Schema) -> list[str]:
    """One line for each fault, beginning with the path of its key; `schema` is the JSON schema that was not kept."""
    return [_line(fault, schema) for fault in error.errors(include_url=False)]


def _line(fault: Any, schema: Schema) -> str:
    kind, given = fault["type"], fault["input"]
    path, owner = _place(fault["loc"], schema)
    where = ".".join(path)
    match kind:
        case "value_error":  # a dataclass has checked itself, and names its keys
            return str(fault["ctx"]["error"])
        case "missing":
            return f"{where}: is missing"
        case "extra_forbidden" | "unexpected_keyword_argument":
            return f"{where}: there is no such key: {REASONS.get(path[-1]) or nearest(path[-1], owner['properties'])}"
        case "dict_type":
            return f"{where}: should be a mapping of keys, {where}.{_key(owner)} among them, not {given!r}"
        case "union_tag_not_found":
            return f"{where}.{_key(owner)}: is missing. Allowed: {', '.join(_choices(owner))}"
        case "union_tag_invalid":
            tag = fault["ctx"]["tag"]
            return f"{where}.{_key(owner)}: there is no '{tag}': {nearest(tag, _choices(owner))}"
        case "literal_error":
            allowed = fault["ctx"]["expected"].replace(" or ", ", ").replace("'", "").split(", ")
            return f"{where}: {given!r} is not among its values: {nearest(str(given), allowed)}"
    wanted = WANTED.get(kind, fault["msg"].removeprefix("Input should be ")).format(**fault.get("ctx", {}))
    return f"{where}: should be {wanted}, not {given!r}"


def _place(loc: Sequence[str | int], root: Schema) -> tuple[list[str], Schema]:
    """A fault's path as a recipe has it, and the schema of the mapping or choice that it is about.

    pydantic's own path names which member of a union it tried, too.
    """
    path, node, owner = [], root, root
    for key in loc:
        if "discriminator" in node:
            node = owner = _followed(_choices(node)[str(key)], root)
        elif isinstance(key, int):
            node = _followed(node["items"], root)
            path.append(str(key))
        elif "properties" in node:
            owner, node = node, _followed(node["properties"].get(key, {}), root)
            path.append(key)
    return path, node if "discriminator" in node else owner


def _followed(node: Schema, root: Schema) -> Schema:
    """What a schema refers to, null aside."""
    for option in node.get("anyOf", ()):
        if "$ref" in option or option.get("type") == "array":
            node = option
    return root["$defs"][node["$ref"].rpartition("/")[2]] if "$ref" in node else node


def _key(node: Schema) -> str:
    return str(node["discriminator"]["propertyName"])


def _choices(node: Schema) -> dict[str, Schema]:
    """The variants of a choice by name."""
    return {name: {"$ref": ref} for name, ref in node["discriminator"]["mapping"].items()}
