"""The JSON schema of recipes, by which editors complete and check them."""

from __future__ import annotations

import json
from typing import Any

from scorl.recipe.sections import adapter

__all__ = ["json_schema"]

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
    "properties": {"name": {"pattern": ":", "type": "string"}},
    "required": ["name"],
    "type": "object",
}
"""What no schema knows the keys of."""


def json_schema() -> dict[str, Any]:
    """The schema of a recipe file; a file that extends another may leave out what is required there."""
    schema: dict[str, Any] = json.loads(json.dumps(adapter().json_schema()), object_hook=_joined)
    del schema["required"], schema["$defs"]["ModelSettings"]["required"]
    schema["properties"]["task"]["oneOf"].append(OWN_TASK)
    schema["properties"] |= FILE_KEYS
    return {"$schema": "https://json-schema.org/draft/2020-12/schema"} | schema


def _joined(node: dict[str, Any]) -> dict[str, Any]:
    """A node with the lines of its description joined."""
    text = node.get("description")
    return node | {"description": " ".join(text.split())} if isinstance(text, str) else node
