"""What pydantic found, in words: the key's path, what was given, what is allowed, the nearest right name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError

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
    "model_type": "a mapping of keys",
    "greater_than_equal": "at least {ge:g}",
    "greater_than": "greater than {gt:g}",
    "finite_number": "a finite number",
}


def complaints(error: ValidationError, model: type[BaseModel]) -> list[str]:
    """One line for each fault, beginning with the path of its key."""
    return [_line(fault, model) for fault in error.errors(include_url=False)]


def _line(fault: Any, model: type[BaseModel]) -> str:
    kind, given, path = fault["type"], fault["input"], fault["loc"]
    where = ".".join(map(str, path))
    if kind == "extra_forbidden":
        return f"{where}: there is no such key: {_reason(path, model)}"
    if kind == "missing":
        return f"{where}: is missing"
    if kind == "literal_error":
        allowed = fault["ctx"]["expected"].replace(" or ", ", ").replace("'", "").split(", ")
        return f"{where}: {given!r} is not among its values: {nearest(str(given), allowed)}"
    wanted = WANTED.get(kind, fault["msg"].removeprefix("Input should be ")).format(**fault.get("ctx", {}))
    return f"{where}: should be {wanted}, not {given!r}"


def _reason(path: Sequence[str | int], model: type[BaseModel]) -> str:
    name = str(path[-1])
    return REASONS.get(name) or nearest(name, _owner(path[:-1], model).model_fields)


def _owner(path: Sequence[str | int], model: Any) -> Any:
    """The model of the mapping at a path: through fields, tuples, and `X | None`."""
    for key in path:
        model = get_args(model)[key] if isinstance(key, int) else model.model_fields[key].annotation
        if get_origin(model) not in (None, tuple):
            model = next(kind for kind in get_args(model) if issubclass(kind, BaseModel))
    return model
