"""docs/reference.md, the page of all recipe keys, from the JSON schema: python docs/keys.py writes it anew."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import mdformat

from scorl.recipe import json_schema

PAGE = Path(__file__).with_name("reference.md")
INTRODUCTION = """# Every key of a recipe

Written by `python docs/keys.py` from the code; a test holds the two together. How a recipe is written and read:
[recipes.md](recipes.md). "Stated" and "open" say whether the paper gives the value. A `supervised` stage has 1 sample
and 1 attempt, whatever the others have.
"""
Schema = Mapping[str, Any]
KINDS = {"string": "text", "integer": "whole number", "number": "number", "boolean": "true, false", "null": "null"}


def page() -> str:
    """The page, in the format that `make lint` asks of every page."""
    return mdformat.text(f"{INTRODUCTION}\n{sections()}", extensions={"gfm", "tables"}, options={"wrap": 100})


def sections() -> str:
    """A heading and a list for each section of a recipe, in the order in which a recipe is written."""
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
    """A heading and the list of its keys."""
    return "\n".join([f"## {title}", "", *(entry(prefix + key, value) for key, value in keys.items()), ""])


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
        return "list" + (
            f" of {kind(value['items'])}" if "items" in value else f" of {len(value['prefixItems'])} numbers"
        )
    return KINDS.get(value.get("type", ""), "mapping") + bound(value)


def bound(value: Schema) -> str:
    """The least value."""
    if "minimum" in value:
        return f", at least {value['minimum']:g}"
    return f", above {value['exclusiveMinimum']:g}" if "exclusiveMinimum" in value else ""


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
