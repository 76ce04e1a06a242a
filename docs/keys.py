"""docs/reference.md, the page of all recipe keys, from the JSON schema: python docs/keys.py writes it anew."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from itertools import takewhile
from pathlib import Path
from typing import Any

import mdformat

from scorl.recipe.schema import describe_recipe

PAGE = Path(__file__).with_name("reference.md")
INTRODUCTION = """# Every key of a recipe

Written by `python docs/keys.py` from the code; a test holds the two together. How a recipe is written and read:
[recipes.md](recipes.md). "Stated" and "open" say whether the paper gives the value. A `supervised` stage has 1 sample
and 1 attempt, whatever the others have.
"""
Schema = Mapping[str, Any]
KINDS = {"string": "text", "integer": "whole number", "number": "number", "boolean": "true, false", "null": "null"}
BOUNDS = {
    "minimum": "at least",
    "exclusiveMinimum": "above",
    "maximum": "at most",
    "exclusiveMaximum": "below",
}


def page() -> str:
    """The page, in the format that `make lint` asks of every page."""
    return mdformat.text(f"{INTRODUCTION}\n{sections()}", extensions={"gfm", "tables"}, options={"wrap": 100})


def sections() -> str:
    """A heading and a list for each section of a recipe, in the order in which a recipe is written."""
    schema = describe_recipe()
    defs, top = schema["$defs"], schema["properties"]
    parts = [section("The recipe itself", "", {key: top[key] for key in ("extends", "seed", "loggers", "versions")})]
    for name, value in top.items():
        choice = value.get("items", value)
        if "discriminator" in choice:
            parts += variants(name, "stages.N." if name == "stages" else f"{name}.", choice, defs)
        elif "$ref" in value:
            parts += plain(name, target(value, defs), defs)
    return "\n".join(parts)


def plain(name: str, schema: Schema, defs: Schema) -> Iterator[str]:
    """A section, and then the sections in it."""
    yield section(f"`{name}`", f"{name}.", schema["properties"], schema["description"])
    for key, value in schema["properties"].items():
        for option in value.get("anyOf", [value]):
            if "$ref" in option:
                yield from plain(f"{name}.{key}", target(option, defs), defs)


def target(value: Schema, defs: Schema) -> Schema:
    """What a reference leads to."""
    schema: Schema = defs[value["$ref"].rpartition("/")[2]]
    return schema


def variants(name: str, prefix: str, choice: Schema, defs: Schema) -> Iterator[str]:
    """What all variants have, then what each has of its own."""
    kinds = {kind: target({"$ref": ref}, defs) for kind, ref in choice["discriminator"]["mapping"].items()}
    places = zip(*(kind["properties"] for kind in kinds.values()), strict=False)
    chooser, *shared = (names[0] for names in takewhile(lambda names: len(set(names)) == 1, places))
    first = next(iter(kinds.values()))["properties"]
    others = [f" {other['description']}" for other in choice["oneOf"] if "$ref" not in other]
    about = {"enum": list(kinds), "description": "".join(["Which one; its own keys are listed below.", *others])}
    for kind in kinds.values():
        about |= {"default": kind["properties"][chooser]["default"]} if "default" in kind["properties"][chooser] else {}
    yield section(f"`{name}`", prefix, {chooser: about} | {key: first[key] for key in shared})
    for kind, schema in kinds.items():
        own = {key: value for key, value in schema["properties"].items() if key not in (chooser, *shared)}
        yield section(f"`{name}`: `{kind}`", prefix, own, schema["description"])


def section(title: str, prefix: str, keys: Schema, about: str = "") -> str:
    """A heading, what it is about, and the list of its keys."""
    return "\n".join([f"## {title}", "", about, "", *(entry(prefix + key, value) for key, value in keys.items()), ""])


def entry(key: str, value: Schema) -> str:
    """One key: what may be given, the default as YAML has it, and what it does."""
    default = f"; default {code(json.dumps(value['default']))}" if "default" in value else ""
    what = f": {value['description']}" if "description" in value else ""
    return f"- `{key}` ({kind(value)}{default}){what}"


def code(text: str) -> str:
    """An inline code span, also of a text with a fenced block in it."""
    ticks = "````" if "`" in text else "`"
    return f"{ticks}{text}{ticks}"


def kind(value: Schema) -> str:
    """What may be given, in words."""
    if "enum" in value:
        return ", ".join(f"`{choice}`" for choice in value["enum"])
    if "const" in value:
        return f"`{value['const']}`"
    if "anyOf" in value:
        return " or ".join(kind(option) for option in value["anyOf"])
    if isinstance(value.get("type"), list):
        return " or ".join(KINDS[one] for one in value["type"])
    if value.get("type") == "array":
        return f"list of {kind(value['items'])}"
    return KINDS.get(value.get("type", ""), "mapping") + bound(value)


def bound(value: Schema) -> str:
    """The least and the greatest value."""
    return "".join(f", {words} {value[key]:,.10g}" for key, words in BOUNDS.items() if key in value)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
