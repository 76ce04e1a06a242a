"""Chat: prompts as token ids, and the next turn appended to them; history is never rendered again.

    chat = Chat.load("scorl:countdown-base")
    first = chat.prompt([user("What is 2 + 2?")])
    second = chat.follow(first, sample.ids, "There might be an error. Solve it again.")
    assert second[: len(first) + len(sample.ids)] == first + sample.ids       # always

What a later turn adds is read off the chat template: a dummy conversation with as many turns is rendered, and
what stands behind its last answer is the suffix. docs/chat.md says what is guaranteed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scorl.errors import UserError
from scorl.model.encode import Encoder
from scorl.model.gguf_header import has_chat_template
from scorl.model.loading import load_config, load_pretrained, resolve_model
from scorl.model.stop import StopStrings
from scorl.model.template import ChatTemplate, explain_missing_template
from scorl.settings import ModelSettings
from scorl.trajectory import Message, user

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase as Tokenizer
else:
    Tokenizer = Any

__all__ = ["Chat", "check_template"]

# Stand-ins of the dummy conversation: words that no template contains, and that end in a letter, so that a
# tokenizer does not merge them with the line break or space behind them.
_QUESTION, _ANSWER, _MESSAGE = "zqquestionqz", "zqanswerqz", "zqmessageqz"

_PLAIN = "The answer is 4."
_THOUGHT = "two and two, let me count"


def check_template(settings: ModelSettings) -> None:
    """Whether a GGUF file lacks a chat template: that shows before the minute that its tokenizer takes.

    Raises:
        UserError: it does, and the settings name none.
    """
    file = resolve_model(settings.path)
    if (
        settings.chat_template is None
        and file.gguf_file
        and has_chat_template(Path(file.path, file.gguf_file)) is False
    ):
        raise UserError(explain_missing_template(settings.path))


@dataclass(frozen=True, eq=False)
class Chat:
    """A tokenizer and what its chat template says about the ends of turns."""

    encoder: Encoder
    template: ChatTemplate
    end_ids: frozenset[int]
    """All tokens that end a response: the tokenizer's, the generation config's and the template's."""
    end_id: int | None
    """The one of them that a written answer is closed with; None: a stop string closes it."""
    closer: int | None
    """The first marker that the template writes behind an earlier answer; None where that is plain text."""
    stop_strings: tuple[str, ...] = ()
    """Texts that end a response as well."""
    _stops: StopStrings = field(init=False, repr=False)
    _suffixes: dict[tuple[str, int, str], tuple[int, ...]] = field(default_factory=dict, repr=False)

    @classmethod
    def load(cls, name: str, chat_template: str | None = None) -> Chat:
        """The chat of a model by name, all else as `of_model` has it by default."""
        return cls.of_model(ModelSettings(name, chat_template=chat_template))

    @classmethod
    def of_model(cls, settings: ModelSettings, tokenizer: Tokenizer | None = None) -> Chat:
        """The chat that a recipe's `model` section describes, its tokenizer loaded unless given; no weights are read.

        Raises:
            UserError: as `of`, or the model or the file of a template cannot be read.
        """
        from transformers import AutoTokenizer

        check_template(settings)
        if tokenizer is None:
            adapter = settings.lora.adapter if settings.lora else None
            own = adapter is not None and Path(adapter, "tokenizer_config.json").is_file()
            tokenizer = load_pretrained(AutoTokenizer, adapter if own and adapter else settings.path)
        generation = _generation_config(settings.path)
        rows = getattr(load_config(settings.path).get_text_config(), "vocab_size", None)
        return cls.of(tokenizer, generation.eos_token_id, settings, stop_strings=generation.stop_strings, rows=rows)

    @classmethod
    def of(
        cls,
        tokenizer: Tokenizer,
        generation_config_eos: int | Sequence[int] | None = None,
        settings: ModelSettings | None = None,
        *,
        stop_strings: str | Sequence[str] | None = None,
        rows: int | None = None,
    ) -> Chat:
        """The chat of a Hugging Face tokenizer and `generation_config.eos_token_id`; the tokenizer takes its template.

        Args:
            tokenizer: of the model.
            generation_config_eos: one, several or none.
            settings: what a recipe says about the chat; None: nothing.
            stop_strings: of the generation config, for settings that name none.
            rows: of the model's embedding.

        Raises:
            UserError: there is no chat template, it fails or shows no earlier answers, it writes a token that the
                embedding has no row for, or nothing ends a response.
        """
        settings = settings or ModelSettings(tokenizer.name_or_path)
        encoder, template = Encoder(tokenizer, rows), ChatTemplate.of(tokenizer, settings)
        closer = encoder.find_marker(_behind_answer(template, 1, _MESSAGE)[1].partition(_MESSAGE)[0])
        own_end = encoder.find_marker(_behind_answer(template, 1, None)[1])
        listed = [generation_config_eos] if isinstance(generation_config_eos, int) else generation_config_eos
        ends = {tokenizer.eos_token_id, own_end, *(listed or ())} - {None}
        end_ids = frozenset(i for i in ends if rows is None or i < rows)  # others are never written
        stops = template.choose_stop_strings(settings.stop_strings, stop_strings)
        # A special token is in no text that a verifier reads, so a stop string that is one ends a response as a token.
        tokens = {token.content: i for i, token in tokenizer.added_tokens_decoder.items() if rows is None or i < rows}
        end_ids |= {tokens[stop] for stop in stops if stop in tokens}
        stops = tuple(stop for stop in stops if stop not in tokens)
        if not end_ids and not stops:
            raise UserError(
                f"nothing ends a response of '{tokenizer.name_or_path}': set the tokenizer's eos_token, or eos_token_id"
                " in generation_config.json, or name texts that end one under model.stop_strings"
            )
        preferred = (own_end, closer, tokenizer.eos_token_id, *sorted(end_ids))
        return cls(encoder, template, end_ids, next((i for i in preferred if i in end_ids), None), closer, stops)

    def __post_init__(self) -> None:
        """Look for the stop strings in the text that a verifier reads."""
        object.__setattr__(self, "_stops", StopStrings(self.stop_strings, self._decode))

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's own."""
        return self.encoder.tokenizer

    def prompt(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """The ids of a first prompt: the chat template with its generation prompt, and nothing added to it.

        Raises:
            UserError: the template refuses the messages, a system message for instance.
        """
        return tuple(self.encoder.encode(self.template.render(messages)))

    def follow(
        self, prompt_ids: Sequence[int], sample_ids: Sequence[int], message: str, turn: int = 1
    ) -> tuple[int, ...]:
        """The next prompt: `prompt_ids + sample_ids`, the answer closed if it is not, the user's message.

        `turn` is how many user messages came before this one. Whatever the sample is, the result begins with
        `prompt_ids + sample_ids`.
        """
        _, *written = self._stops.split(self._decode(sample_ids) if self.stop_strings else "")
        suffix = self._suffix(message, turn, *written)
        if tuple(sample_ids[-1:]) == (self.closer,):  # the sample closed its turn as the template does
            suffix = suffix[suffix.index(self.closer) + 1 :]
        return (*prompt_ids, *sample_ids, *suffix)

    def reply(self, text: str) -> tuple[int, ...]:
        """The ids of an answer as a model would write it behind a prompt, closed by `end_id` or a stop string."""
        before = self.template.render([user(_QUESTION)])
        if self.end_id is None:
            return tuple(self.encoder.encode_behind(before, text + self.stop_strings[0]))
        return (*self.encoder.encode_behind(before, text), self.end_id)

    def ends(self, ids: Sequence[int]) -> bool:
        """Whether the last of the ids ends a response that none before it ends."""
        return ids[-1] in self.end_ids or self._stops.are_completed(ids)

    def find_end(self, ids: Sequence[int]) -> int | None:
        """How many of the ids are the response that they begin with, its last token included; None: it goes on."""
        return next((n for n in range(1, len(ids) + 1) if self.ends(ids[:n])), None)

    def text(self, ids: Sequence[int]) -> str:
        """What a verifier reads: the ids as text, without end tokens and other special tokens, up to a stop string."""
        return self._stops.split(self._decode(ids))[0]

    def show(self, ids: Sequence[int]) -> str:
        """The ids as text, special tokens included: what the model reads."""
        return self.encoder.decode(ids)

    def _decode(self, ids: Sequence[int]) -> str:
        kept = [i for i in ids if i not in self.end_ids]
        return self.encoder.decode(kept, skip_special_tokens=True)

    def differences(self) -> list[str]:
        """What the stock template would do to earlier answers that appending does not, in plain sentences."""
        sentences = []
        if _THOUGHT not in self._stock(f"<think>\n{_THOUGHT}\n</think>\n\n{_PLAIN}"):
            sentences.append(
                "The stock chat template deletes <think> blocks from earlier answers;"
                " here they stay in the context as the model wrote them."
            )
        if (spaced := f"\n  {_PLAIN}  \n") not in self._stock(spaced):
            sentences.append(
                "The stock chat template trims white space around earlier answers; here it stays as the model wrote it."
            )
        stock = self.prompt(self._conversation(_PLAIN))
        question = self._conversation(_PLAIN)[:-2]
        ours = self.follow(self.prompt(question), self.reply(_PLAIN), _MESSAGE)
        if stock != ours:
            sentences.append(_first_difference(self.show(stock), self.show(ours)))
        return sentences

    def _stock(self, answer: str) -> str:
        """The probe conversation with this answer, rendered anew by the template."""
        return self.template.render(self._conversation(answer))

    def _conversation(self, answer: str) -> list[Message]:
        """A two-turn conversation, with a system message where the template takes one."""
        turns = [user(_QUESTION), _assistant(answer), user(_MESSAGE)]
        with_system = [Message(role="system", content="Be brief."), *turns]
        try:
            self.template.render(with_system)
        except UserError:
            return turns
        return with_system

    def _suffix(self, message: str, turn: int, stop: str, behind: str) -> tuple[int, ...]:
        """The ids that stand between an answer and the next one, without what the answer wrote of it: a stop string,
        and what its token wrote behind that.
        """
        key = message, turn, stop + behind
        if key not in self._suffixes:
            head, tail = _behind_answer(self.template, turn, message)
            opening = _behind_answer(self.template, turn, _MESSAGE)[1].partition(_MESSAGE)[0]
            written = opening.find(stop) + len(stop) if stop and stop in opening else 0
            if written and opening.startswith(behind, written):
                written += len(behind)
            self._suffixes[key] = tuple(self.encoder.encode_behind(head + tail[:written], tail[written:]))
        return self._suffixes[key]


def _generation_config(name: str) -> Any:
    """A model's generation config; where it has none, what transformers make of its configuration."""
    from transformers import GenerationConfig

    try:
        return load_pretrained(GenerationConfig, name)
    except UserError:
        return GenerationConfig.from_model_config(load_config(name))


def _assistant(content: str) -> Message:
    return Message(role="assistant", content=content)


def _behind_answer(template: ChatTemplate, turn: int, message: str | None) -> tuple[str, str]:
    """A dummy conversation of `turn` answered questions, cut behind its last answer.

    With a message, the generation prompt follows; with None, the conversation ends there.
    """
    messages = [user(_QUESTION), _assistant(_ANSWER)] * turn + ([] if message is None else [user(message)])
    head, answer, tail = template.render(messages, generation=message is not None).rpartition(_ANSWER)
    if not answer:
        raise UserError(
            f"the chat template of '{template.tokenizer.name_or_path}' does not show earlier answers, so no second"
            " turn can follow: give another one under the recipe key model.chat_template"
        )
    return head + answer, tail


def _first_difference(stock: str, ours: str) -> str:
    """A sentence on where two renderings part."""
    if stock == ours:
        return "The stock chat template gives the same text in other tokens, where one turn meets the next."
    apart = (i for i, (a, b) in enumerate(zip(stock, ours, strict=False)) if a != b)
    start = next(apart, min(len(stock), len(ours)))
    return (
        f"Behind {stock[max(0, start - 24) : start]!r} the stock chat template continues with"
        f" {stock[start : start + 24]!r}; here the context continues with {ours[start : start + 24]!r}."
    )
