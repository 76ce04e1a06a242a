"""A section that names one of several dataclasses, whose keys stand beside its own."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import operator
import textwrap
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from dataclasses import MISSING, dataclass, fields, replace
from functools import partial, reduce
from itertools import pairwise
from types import MappingProxyType
from typing import Annotated, Any, Literal, cast, get_type_hints

from pydantic import BaseModel, ConfigDict, Discriminator, Field, GetCoreSchemaHandler, create_model
from pydantic_core import core_schema

from scorl.tasks.own_code import is_own_code, telling_failures

__all__ = ["STRICT", "OneOf"]

STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True)
"""No key that is unknown, no conversion of types; the text under a field is its description."""


@dataclass(frozen=True)
class OneOf:
    """Says of a field's type, in `Annotated`, how the choice in it is written.

    Flat in YAML, `{name: vllm, temperature: 0.7, timeout: 60}`, what in Python is
    `EngineSettings(name="vllm", temperature=0.7, settings=VllmSettings(timeout=60))`.
    """

    key: str
    """The key that names the choice."""
    choices: Mapping[str, type[Any]]
    """The dataclasses by name."""
    holder: str | None = None
    """The section's field that holds the chosen one; None: there is nothing else in the section."""
    default: str | None = None
    """The choice of a section that names none."""
    common: tuple[str, ...] = ()
    """The section's own keys, where a choice may be the user's own, which is not listed."""

    def extended(self, name: str, kind: type[Any]) -> OneOf:
        """The same choice with another one, as the user's own, in it."""
        return replace(self, choices={**self.choices, name: kind})

    def write(self, section: Any) -> dict[str, Any]:
        """The section in the shape of its YAML."""
        chosen = getattr(section, self.holder) if self.holder else section
        # not isinstance: one choice's dataclass may extend another's
        named = getattr(section, self.key, None) if self.holder != self.key else None
        name = named or next(name for name, kind in self.choices.items() if type(chosen) is kind)
        own = {key: getattr(section, key) for key in self._own(type(section))}
        return {self.key: name, **own, **{key: getattr(chosen, key) for key in _settings(type(chosen))}}

    def named(self, section: Mapping[str, Any]) -> Any:
        """The name that a section's mapping chooses."""
        name = section.get(self.key, self.default)
        return name if isinstance(name, str) else None  # which is told of what is no name

    def with_name(self, section: Any) -> Any:
        """The section with its name where it may leave that out."""
        return {self.key: self.named(section), **section} if self.default and isinstance(section, dict) else section

    def shared(self, section: Mapping[str, Any]) -> dict[str, Any]:
        """Of a section's mapping the keys that stay when another is chosen."""
        if self.named(section) not in self.choices:  # the user's own, whose keys are not known
            return {key: value for key, value in section.items() if key in self.common}
        return {key: value for key, value in section.items() if not self._choosers(key)}

    def fitting(self, section: Mapping[str, Any]) -> dict[str, Any]:
        """A section's mapping without the keys that only other choices than its own have."""
        name = self.named(section)
        if name not in self.choices:
            return dict(section)
        return {key: value for key, value in section.items() if name in (self._choosers(key) or [name])}

    def _choosers(self, key: str) -> list[str]:
        """The choices that have a key."""
        return [name for name, kind in self.choices.items() if key in kind.__dataclass_fields__]

    def __get_pydantic_core_schema__(self, section: type, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        """A union that tells its variants apart by the key, each variant a section and its choice made flat."""
        # Flat models rather than a nested dataclass that is folded before the check: so the paths of pydantic's faults
        # and its JSON schema are those of what people write.
        variants: Any = reduce(operator.or_, (self._variant(section, name) for name in self.choices))
        return core_schema.no_info_after_validator_function(
            partial(self._build, section),
            handler.generate_schema(Annotated[variants, Discriminator(self.key)]),
            serialization=core_schema.plain_serializer_function_ser_schema(self.write),
        )

    def _variant(self, section: type, name: str) -> type[BaseModel]:
        kind = self.choices[name]
        keys: dict[str, Any] = {self.key: (Literal[name], name if name == self.default else ...)}
        keys |= _model_fields(section, self._own(section), getattr(kind, "stage_defaults", {}))
        keys |= _model_fields(kind, _settings(kind))
        return create_model(kind.__name__, __config__=STRICT, __doc__=kind.__doc__, **keys)

    def _own(self, section: type) -> list[str]:
        """The keys that a section has whatever is chosen, but for the one that names the choice."""
        names = [field.name for field in fields(section)] if self.holder else []
        return [name for name in names if name not in (self.key, self.holder)]

    def _build(self, section: type, flat: BaseModel) -> Any:
        """The section with the chosen dataclass in it."""
        values = dict(flat)  # and not model_dump(), which would take nested dataclasses apart
        name = values[self.key]
        kind = self.choices[name]
        with telling_failures(f"{self.key} '{name}'") if is_own_code(name) else nullcontext():
            chosen = kind(**{key: values.pop(key) for key in _settings(kind)})
        return section(**values | {self.holder: chosen}) if self.holder else chosen


def _settings(kind: type[Any]) -> list[str]:
    """The keys of a dataclass."""
    return [field.name for field in fields(kind) if field.init]


def _model_fields(
    kind: type[Any], names: Iterable[str], defaults: Mapping[str, Any] = MappingProxyType({})
) -> dict[str, Any]:
    """Some fields of a dataclass as `create_model` takes them; `defaults` go before its own."""
    hints, texts = get_type_hints(kind, include_extras=True), _docstrings(kind)
    return {
        name: (
            Annotated[hints[name], Field(description=texts.get(name))],
            defaults.get(name, _default(kind.__dataclass_fields__[name])),
        )
        for name in names
    }


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not MISSING:
        return field.default_factory()
    return ... if field.default is MISSING else field.default


def _docstrings(kind: type) -> dict[str, str]:
    """The text under each field, which pydantic reads itself where a dataclass stays whole."""
    texts = {}
    # From the source, as pydantic does: at run time nothing is left of a text under a field. Bases count too, which
    # pydantic leaves out.
    for owner in filter(dataclasses.is_dataclass, reversed(kind.__mro__)):
        try:
            source = inspect.getsource(owner)
        except (OSError, TypeError):  # a class that was made without a file, which has no texts
            continue
        body = cast(ast.ClassDef, ast.parse(textwrap.dedent(source)).body[0]).body
        for statements in pairwise(body):
            match statements:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                    texts[name] = text
    return texts
