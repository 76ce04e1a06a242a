"""Arms: what is compared; a method, or a method with some keys of its recipe set."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from scorl.compare.methods import METHODS
from scorl.compare.published import PUBLISHED, Published
from scorl.errors import UserError, nearest
from scorl.recipe import Recipe, changed

__all__ = ["Arm", "parse_arms"]


@dataclass(frozen=True)
class Arm:
    """A row of the table: a method and what is set on top of its recipe."""

    method: str
    settings: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """As it was asked for, which is its folder's name as well."""
        return ":".join((self.method, *self.settings))

    @property
    def label(self) -> str:
        """What people read."""
        return ", ".join((METHODS[self.method].label, *self.settings))

    @property
    def trains(self) -> bool:
        """Whether it has seeds; the others are measured once."""
        return METHODS[self.method].stages is not None

    @property
    def published(self) -> Published | None:
        """The paper's figures for it."""
        return None if self.settings else PUBLISHED.get(self.method)

    def recipe(self, base: Recipe) -> Recipe:
        """Its recipe, made of a SCoRe recipe.

        Raises:
            UserError: that is none, or a setting does not fit.
        """
        return changed(METHODS[self.method].of(base), self.settings, f"arm '{self.name}'")


def parse_arms(names: str | None) -> list[Arm]:
    """The arms of a comma-separated list such as `score,multi_turn,score:stages.1.alpha=0`; None: the paper's.

    Raises:
        UserError: there is no such method, or one is named twice.
    """
    of_paper = [name for name, method in METHODS.items() if method.in_paper]
    wanted = of_paper if names is None else re.split(r"\s*,\s*(?=[a-z][a-z0-9_]*(?:[:,]|$))", names.strip())
    arms = [_arm(name) for name in wanted]
    twice = next((arm.name for arm in arms if arms.count(arm) > 1), None)
    if twice:
        raise UserError(f"--methods: '{twice}' stands there twice")
    return arms


def _arm(name: str) -> Arm:
    method, *settings = name.split(":")
    if method not in METHODS:
        raise UserError(f"--methods: there is no method '{method}': {nearest(method, METHODS)}")
    return Arm(method, _joined(settings))


def _joined(parts: Sequence[str]) -> tuple[str, ...]:
    """Settings, where a colon inside a value (as in `{a: 1}`) does not begin a new one."""
    joined: list[str] = []
    for part in parts:
        if joined and "=" not in part:
            joined[-1] += ":" + part
        else:
            joined.append(part)
    return tuple(joined)
