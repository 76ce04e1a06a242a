"""Settings checked by pydantic, and what it finds in words: the key's path, what is allowed, the nearest right name."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from scorl.errors import UserError, nearest

__all__ = ["refuse", "validated"]

Kind = TypeVar("Kind")

NO_TRUNCATION = "sampler and learner would disagree about the policy; scorl samples from the whole distribution"
REASONS = {
    "top_p": NO_TRUNCATION,
    "top_k": NO_TRUNCATION,
    "min_p": NO_TRUNCATION,
    "extends": "only a recipe's file can extend another",
    "stop": "texts that end a response are named under model.stop_strings",
    "stop_strings": "they are named under model.stop_strings",
    "dropout": "sampler and learner would disagree about the policy",
}
"""Keys that people bring from elsewhere, and why they are not here."""

WANTED = {
    "int_type": "a whole number",
    "float_type": "a number",
    "string_type": "text",
    "string_too_short": "text that is not empty",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "too_short": "a list that is not empty",
    "dataclass_type": "a mapping of keys",
    "dict_type": "a mapping of keys",
    "greater_than_equal": "at least {ge:,.10g}",
    "greater_than": "greater than {gt:,.10g}",
    "less_than_equal": "at most {le:,.10g}",
    "less_than": "less than {lt:,.10g}",
    "finite_number": "a finite number",
}

SHOWN = 200
"""The most characters of what was given that a message repeats."""

Schema = Mapping[str, Any]


def validated(adapter: TypeAdapter[Kind], values: Any, what: str) -> Kind:
    """What the values describe; JSON is the form in which strict types and lists for tuples agree.

    Raises:
        UserError: everything that is wrong, a line each, with the key's path.
    """
    try:
        return adapter.validate_json(json.dumps(values, default=str), strict=True, extra="forbid")
    except ValidationError as error:
        schema = _schema_of(adapter)
        found = [_line(fault, schema) for fault in _telling(error.errors(include_url=False), schema)]
        refuse(_joined(found), what)
        raise


@lru_cache(maxsize=8)
def _schema_of(adapter: TypeAdapter[Any]) -> Schema:
    """The JSON schema of what is checked, which takes as long as the check of a hundred recipes."""
    return adapter.json_schema()


def _telling(faults: Sequence[Any], schema: Schema) -> list[Any]:
    """The faults, but for those on the type of a value of which another type of the same key went into the parts."""
    paths = [_place(fault["loc"], schema)[0] for fault in faults]
    return [
        fault
        for fault, path in zip(faults, paths, strict=True)
        if not fault["type"].endswith("_type")
        or not any(len(other) > len(path) and other[: len(path)] == path for other in paths)
    ]


def _joined(lines: Iterable[str]) -> list[str]:
    """The lines, with those on one value that fits none of several types as one: `should be A or B, not C`."""
    wanted: dict[tuple[str, str], list[str]] = {}
    for line in lines:
        where, should, rest = line.partition(": should be ")
        kind, but, given = rest.rpartition(", not ")
        key = (f"{where}{should}", f"{but}{given}") if should and but else (line, "")
        wanted.setdefault(key, []).append(kind if should and but else "")
    return [f"{start}{' or '.join(kinds)}{end}" if end else start for (start, end), kinds in wanted.items()]


def refuse(faults: Sequence[str], what: str) -> None:
    """Raise `UserError` if there are faults."""
    if faults:
        raise UserError(f"{what}: {faults[0]}" if len(faults) == 1 else "\n  ".join([f"{what}:", *faults]))


def _line(fault: Any, schema: Schema) -> str:
    kind, given = fault["type"], fault["input"]
    path, owner = _place(fault["loc"], schema)
    where = ".".join(path)
    shown = f"{given!r:.{SHOWN}}"
    match kind:
        case "value_error":  # a dataclass has checked itself, and names its keys
            return str(fault["ctx"]["error"])
        case "missing":
            return f"{where}: is missing"
        case "extra_forbidden" | "unexpected_keyword_argument":
            return f"{where}: there is no such key: {REASONS.get(path[-1]) or nearest(path[-1], owner['properties'])}"
        case "dict_type" if "discriminator" in owner:
            return f"{where}: should be a mapping of keys, {where}.{_key(owner)} among them, not {shown}"
        case "union_tag_not_found":
            return f"{where}.{_key(owner)}: is missing. Allowed: {', '.join(_choices(owner))}"
        case "union_tag_invalid":
            tag = fault["ctx"]["tag"]
            return f"{where}.{_key(owner)}: there is no '{tag}': {nearest(tag, _choices(owner))}"
        case "literal_error":
            allowed = fault["ctx"]["expected"].replace(" or ", ", ").replace("'", "").split(", ")
            return f"{where}: {shown} is not among its values: {nearest(str(given), allowed)}"
    wanted = WANTED.get(kind, fault["msg"].removeprefix("Input should be ")).format(**fault.get("ctx", {}))
    return f"{where}: should be {wanted}, not {shown}"


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
