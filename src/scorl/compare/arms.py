"""Arms: what is compared; a method, or a method with some keys of its recipe set."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

from scorl.compare.methods import METHODS
from scorl.compare.published import PUBLISHED, Published
from scorl.errors import UserError, nearest
from scorl.recipe import Recipe, changed

__all__ = ["Arm", "parse_arms"]

NEXT = re.compile(r",\s*(?=[a-z][a-z0-9_]*\s*(?:[:,]|$))")
"""A comma behind which another arm begins, outside brackets."""
OWN = ("evaluation.eval_steps",)
"""What of a comparison's own sections an arm may set."""
LONGEST = 200
"""Bytes of a folder's name, to which `-seed-0.yaml` is added; file systems take 255."""


@dataclass(frozen=True)
class Arm:
    """A row of the table: a method and what is set on top of its recipe."""

    method: str
    settings: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """As it was asked for."""
        return ":".join((self.method, *self.settings))

    @property
    def folder(self) -> str:
        """The name of its folder: its own, in which a slash begins no other one, and which a file system can take."""
        name = self.name.replace("/", "_")
        digest = hashlib.blake2b(name.encode(), digest_size=4).hexdigest()
        return name if len(name.encode()) <= LONGEST else f"{name.encode()[:LONGEST].decode(errors='ignore')}-{digest}"

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
        UserError: there is no such method, one is named twice, or one sets what must be the same in all.
    """
    of_paper = [name for name, method in METHODS.items() if method.in_paper]
    wanted = of_paper if names is None else _separate(names.strip())
    arms = [_arm(name) for name in wanted]
    twice = next((arm.name for arm in arms if arms.count(arm) > 1), None)
    if twice:
        raise UserError(f"--methods: '{twice}' stands there twice")
    return arms


def _arm(name: str) -> Arm:
    method, *settings = name.split(":")
    if method not in METHODS:
        raise UserError(f"--methods: there is no method '{method}': {nearest(method, METHODS)}")
    arm = Arm(method, _joined(settings))
    for key in (setting.partition("=")[0].strip() for setting in arm.settings):
        if key.partition(".")[0] in ("seed", "evaluation") and key not in OWN:
            raise UserError(f"--methods: arm '{arm.name}' sets {key}, which must be the same in every arm")
    return arm


def _separate(names: str) -> list[str]:
    """The arms of a list; a comma inside brackets or before what names no method belongs to a value."""
    arms, depth, start = [], 0, 0
    for k, sign in enumerate(names):
        depth += (sign in "[{") - (sign in "]}")
        if depth == 0 and (found := NEXT.match(names, k)):
            arms.append(names[start:k].rstrip())
            start = found.end()
    return [*arms, names[start:]]


def _joined(parts: Sequence[str]) -> tuple[str, ...]:
    """Settings, where a colon inside a value (as in `{a: 1}`) does not begin a new one."""
    joined: list[str] = []
    for part in parts:
        if joined and "=" not in part:
            joined[-1] += ":" + part
        else:
            joined.append(part)
    return tuple(joined)
