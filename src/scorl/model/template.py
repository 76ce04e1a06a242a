"""Chat templates: which one a model is asked by, and conversations rendered by it.

Base models bring none: `plain` and `chatml` are for them. docs/chat.md shows what they write.
"""

from __future__ import annotations

import inspect
import json
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, time
from functools import cache
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, TemplateError, TemplateSyntaxError, meta

from scorl.errors import UserError, nearest
from scorl.settings import ModelSettings
from scorl.text_files import as_path, read_text
from scorl.trajectory import Message, user

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase as Tokenizer
else:
    Tokenizer = Any

__all__ = ["TEMPLATES", "ChatTemplate", "choose_template", "explain_missing_template", "read_template"]

PLAIN = (
    "{%- for message in messages -%}"
    "{{- {'user': 'User:\n', 'assistant': 'Assistant:\n'}.get(message.role, '') + message.content + '\n\n' -}}"
    "{%- endfor -%}{%- if add_generation_prompt -%}{{- 'Assistant:\n' -}}{%- endif -%}"
)
CHATML = (
    "{%- for message in messages -%}"
    "{{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' -}}"
    "{%- endfor -%}{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}{%- endif -%}"
)
TEMPLATES = {"plain": PLAIN, "chatml": CHATML}
"""Ours by the names that `model.chat_template` knows."""
STOP_STRINGS = {PLAIN: "\nUser:", CHATML: "<|im_end|>"}
"""What ends an answer in each of ours, where no token does."""
BOS = "{{- bos_token -}}"
"""In front of ours for a tokenizer that begins every text with that token."""


PROBE = "zqprobeqz"
"""A message that no template contains."""


@dataclass(frozen=True, eq=False)
class ChatTemplate:
    """A chat template with what it is given besides messages.

    Raises:
        UserError: it is no Jinja, or reads none of the variables that it is given.
    """

    tokenizer: Tokenizer
    source: str
    variables: Mapping[str, Any]
    """`model.chat_template_kwargs`."""
    today: date | None = None
    """What it takes for today; None: the day itself."""
    in_parts: bool = False
    """Whether it wants a message's content as a list of parts, as some of models that see do."""

    @classmethod
    def of(cls, tokenizer: Tokenizer, settings: ModelSettings) -> ChatTemplate:
        """What a recipe's `model` section chooses for a tokenizer, which takes it as its own.

        Raises:
            UserError: there is no such template, or it is none.
        """
        tokenizer.chat_template = choose_template(tokenizer, settings.chat_template)
        today = date.fromisoformat(settings.chat_template_date) if settings.chat_template_date else None
        template = cls(tokenizer, tokenizer.chat_template, settings.chat_template_kwargs or {}, today)
        in_parts = replace(template, in_parts=True)
        return template if template.shows(PROBE) or not in_parts.shows(PROBE) else in_parts

    def __post_init__(self) -> None:
        """Check the variables."""
        reserved = inspect.signature(self.tokenizer.apply_chat_template).parameters
        known = self._find_variables()
        for name in self.variables:
            if name in reserved or name == "messages":
                raise UserError(f"model.chat_template_kwargs.{name}: is scorl's to set, not a recipe's")
            if known is not None and name not in known:
                others = known - {"messages", *reserved}
                hint = nearest(name, others) if others else "it reads none but the messages"
                raise UserError(f"model.chat_template_kwargs.{name}: {self._name} reads no such variable: {hint}")

    def render(self, messages: Sequence[Message], generation: bool = True) -> str:
        """A conversation as text, with or without the generation prompt.

        Raises:
            UserError: the template refuses the messages, or fails on them.
        """
        content = [{**m, "content": [{"type": "text", "text": m["content"]}]} if self.in_parts else m for m in messages]
        try:
            text = self.tokenizer.apply_chat_template(
                content,
                chat_template=self._head + self.source,
                tokenize=False,
                add_generation_prompt=generation,
                **self.variables,
            )
        except Exception as error:  # a template is a program: it may fail in any way
            raise UserError(self._explain(error, messages)) from error
        return str(text)

    def shows(self, content: str) -> bool:
        """Whether a message's content is in what is rendered."""
        try:
            return content in self.render([user(content)])
        except UserError:
            return False

    def choose_stop_strings(
        self, wanted: Sequence[str] | None, listed: str | Sequence[str] | None = None
    ) -> tuple[str, ...]:
        """Those that are wanted; for None those that the generation config lists, and in a template of ours its own:
        what ends an answer there, unless a token of the tokenizer is just that.
        """
        if wanted is not None:
            return tuple(wanted)
        own = self._own_stop_strings()
        return (*own, *([listed] if isinstance(listed, str) else listed or ()))

    def _own_stop_strings(self) -> tuple[str, ...]:
        ends = STOP_STRINGS.get(self.source.removeprefix(BOS))
        tokens = {token.content for token in self.tokenizer.added_tokens_decoder.values()}
        return () if ends is None or ends in tokens else (ends,)

    @property
    def _head(self) -> str:
        """What stands before the source, in a line of its own."""
        return _fix_date(self.today) if self.today and "strftime_now" in self.source else ""

    @property
    def _name(self) -> str:
        return f"the chat template of '{self.tokenizer.name_or_path}'"

    def _find_variables(self) -> set[str] | None:
        """The variables that it reads; None: it is written in tags that only transformers know, or is no Jinja."""
        environment = Environment(extensions=["jinja2.ext.loopcontrols"])
        try:
            return meta.find_undeclared_variables(environment.parse(self.source))
        except TemplateSyntaxError:
            return None

    def _explain(self, error: Exception, messages: Sequence[Message]) -> str:
        """What went wrong, and what would be right."""
        roles = ", ".join(message["role"] for message in messages)
        if isinstance(error, TemplateSyntaxError):
            line = error.lineno - bool(self._head)
            return f"{self._name} is no Jinja, line {line}: {error}; model.chat_template takes another one"
        if type(error) is TemplateError:  # what a template raises on purpose
            return (
                f"{self._name} refuses messages of the roles {roles}: {error}."
                " Most templates take user and assistant in turns; not all take a system message"
            )
        return (
            f"{self._name} fails on messages of the roles {roles}: {type(error).__name__}: {error}; model.chat_template"
            " takes another one, and model.chat_template_kwargs the variables that it may want"
        )


def choose_template(tokenizer: Tokenizer, wanted: str | None) -> str:
    """The source of the chat template that `model.chat_template` names; None: the tokenizer's own.

    Raises:
        UserError: there is none, there are several and none is the default, or the file cannot be read.
    """
    own = tokenizer.chat_template
    named: Mapping[str, str] = own if isinstance(own, Mapping) else {}
    if wanted is not None and wanted in named:
        return named[wanted]
    if wanted is not None and wanted in TEMPLATES:
        return (BOS if _begins_with_bos(tokenizer) else "") + TEMPLATES[wanted]
    if wanted is not None:
        return read_template(wanted, named)
    if named and "default" not in named:
        raise UserError(
            f"the tokenizer of '{tokenizer.name_or_path}' has {len(named)} chat templates, none of which is called"
            f" default: choose one by model.chat_template=NAME, where NAME is one of {', '.join(sorted(named))}"
        )
    source = named.get("default", own)
    if not source:
        raise UserError(explain_missing_template(tokenizer.name_or_path))
    return str(source)


def explain_missing_template(name: str) -> str:
    """That a model has no chat template, and what may be chosen in its place."""
    return (
        f"the tokenizer of '{name}' has no chat template, as is usual for base models: set model.chat_template=plain"
        " (turns as plain text, User: and Assistant:), model.chat_template=chatml, or model.chat_template=FILE (Jinja)"
    )


def read_template(wanted: str, named: Mapping[str, str] | None = None) -> str:
    """A chat template that is none of ours, from its file; `named` are those that could have been meant as well.

    Raises:
        UserError: there is no such file, or it is no text.
    """
    path = as_path(wanted)
    if not path.exists():
        hint = nearest(wanted, [*TEMPLATES, *(named or ())])
        raise UserError(f"model.chat_template: there is no file '{wanted}': {hint}, or a Jinja file")
    try:
        return read_text(path)
    except (OSError, UserError) as error:
        raise UserError(f"model.chat_template: {error}") from None


def _begins_with_bos(tokenizer: Tokenizer) -> bool:
    """Whether the tokenizer writes a beginning-of-sequence token before every text, as its model is used to."""
    return tokenizer.bos_token_id is not None and tokenizer.encode("a")[:1] == [tokenizer.bos_token_id]


@cache
def _fix_date(day: date) -> str:
    """Jinja that puts a `strftime_now` for one day, at midnight, in the place of transformers' own.

    transformers hands no functions of ours to a template; a macro goes before what it has under the same name.
    """
    moment = datetime.combine(day, time())
    directives = [f"%{flag}{letter}" for letter in string.ascii_letters for flag in ("-", "")]
    values = {directive: moment.strftime(directive) for directive in directives}
    known = json.dumps({d: v for d, v in values.items() if v.strip() not in ("", d) and "%" not in v})
    return (
        "{%- macro strftime_now(format) -%}{%- set ns = namespace(text=format) -%}"
        f"{{%- for directive, value in {known}.items() -%}}"
        "{%- set ns.text = ns.text | replace(directive, value) -%}{%- endfor -%}"
        "{{ ns.text }}{%- endmacro %}\n"  # trim_blocks takes this line break, and none of the template's own
    )
