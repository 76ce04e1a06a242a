"""The tables of all recipe keys in recipes.md, from the JSON schema: python docs/keys.py writes them anew."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from scorl.recipe import json_schema

PAGE = Path(__file__).with_name("recipes.md")
BEGIN, END = "<!-- keys -->\n", "<!-- /keys -->\n"
Schema = Mapping[str, Any]
KINDS = {"string": "text", "integer": "whole number", "number": "number", "boolean": "true, false", "null": "null"}
SHORT = 40
"""Longer texts among the defaults stand below their table."""


def page(text: str) -> str:
    """The page with its tables renewed."""
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}{tables()}{END}{rest.split(END)[1]}"


def tables() -> str:
    """A heading and a table for each section of a recipe, in the order in which a recipe is written."""
    schema = json_schema()
    defs, top = schema["$defs"], schema["properties"]
    tasks, stages = top["task"]["discriminator"], top["stages"]["items"]["discriminator"]
    plain = {key: top[key] for key in ("extends", "seed", "loggers", "versions")}
    parts = [section("The recipe itself", "", plain)]
    parts.append(section("`model`", "model.", defs["ModelSettings"]["properties"]))
    parts.append(section("`model.lora`", "model.lora.", defs["LoraSettings"]["properties"]))
    parts.append(section("`engine.vllm`", "engine.vllm.", defs["VllmSettings"]["properties"]))
    parts += variants("task", "task.", chosen(tasks, defs), ("name", "split"))
    for name in ("turns", "engine", "learner"):
        parts.append(section(f"`{name}`", f"{name}.", inner(top[name], defs)))
    shared = tuple(name for name in chosen(stages, defs)["supervised"])
    parts += variants("stages", "stages.N.", chosen(stages, defs), shared)
    for name in ("evaluation", "checkpoint", "launcher"):
        parts.append(section(f"`{name}`", f"{name}.", inner(top[name], defs)))
    return "\n".join(parts)


def chosen(discriminator: Schema, defs: Schema) -> dict[str, Schema]:
    """The keys of each variant by its name."""
    return {name: inner({"$ref": ref}, defs) for name, ref in discriminator["mapping"].items()}


def inner(value: Schema, defs: Schema) -> Schema:
    """The keys of a section that is referred to."""
    keys: Schema = defs[value["$ref"].rpartition("/")[2]]["properties"]
    return keys


def variants(name: str, prefix: str, kinds: Mapping[str, Schema], shared: tuple[str, ...]) -> Iterator[str]:
    """What all variants have, then what each has of its own."""
    first = next(iter(kinds.values()))
    chooser = {shared[0]: {"enum": list(kinds), "description": "Which one; its own keys are listed below."}}
    yield section(f"`{name}`", prefix, chooser | {key: first[key] for key in shared[1:]})
    for kind, keys in kinds.items():
        own = {key: value for key, value in keys.items() if key not in shared}
        if own:
            yield section(f"`{name}`: `{kind}`", prefix, own)


def section(title: str, prefix: str, keys: Schema) -> str:
    """A heading, the table of its keys, and the defaults that are too long for it."""
    rows = [
        f"| `{prefix}{key}` | {kind(v)} | {default(v)} | {cell(v.get('description', ''))} |" for key, v in keys.items()
    ]
    long = [f"- `{prefix}{key}`: `{json.dumps(v['default'])}`" for key, v in keys.items() if is_long(v)]
    lines = [f"### {title}", "", "| key | value | default | what |", "|---|---|---|---|", *rows, ""]
    return "\n".join([*lines, "Default wordings, as JSON:", "", *long, ""] if long else lines)


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
        return "list" + (
            f" of {kind(value['items'])}" if "items" in value else f" of {len(value['prefixItems'])} numbers"
        )
    return KINDS.get(value.get("type", ""), "mapping") + bound(value)


def bound(value: Schema) -> str:
    """The least value."""
    if "minimum" in value:
        return f", at least {value['minimum']:g}"
    return f", above {value['exclusiveMinimum']:g}" if "exclusiveMinimum" in value else ""


def default(value: Schema) -> str:
    """The default as YAML has it."""
    if "default" not in value:
        return ""
    return "below" if is_long(value) else f"`{json.dumps(value['default'])}`"


def is_long(value: Schema) -> bool:
    """Whether the default is a text too long for a table."""
    return isinstance(value.get("default"), str) and len(value["default"]) > SHORT


def cell(text: str) -> str:
    """A text as a table takes it."""
    return text.replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
