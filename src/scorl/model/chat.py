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

from jinja2 import TemplateError

from scorl.errors import UserError
from scorl.model.loading import load_pretrained
from scorl.text_files import read_text
from scorl.trajectory import Message, user

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase as Tokenizer
else:
    Tokenizer = Any

__all__ = ["Chat"]

# Stand-ins of the dummy conversation: words that no template contains, and that end in a letter, so that a
# tokenizer does not merge them with the line break or space behind them.
_QUESTION, _ANSWER, _MESSAGE = "zqquestionqz", "zqanswerqz", "zqmessageqz"

_PLAIN = "The answer is 4."
_THOUGHT = "two and two, let me count"


@dataclass(frozen=True, eq=False)
class Chat:
    """A tokenizer and what its chat template says about the ends of turns."""

    tokenizer: Tokenizer
    end_ids: frozenset[int]
    """All tokens that end a response: the tokenizer's, the generation config's and the template's."""
    end_id: int
    """The one of them that a written answer is closed with."""
    closer: int | None
    """The first marker that the template writes behind an earlier answer; None where that is plain text."""
    _suffixes: dict[tuple[str, int], tuple[int, ...]] = field(default_factory=dict, repr=False)

    @classmethod
    def load(cls, name: str, chat_template: str | None = None) -> Chat:
        """The chat of a model, of which the tokenizer and the generation config are read, but no weights.

        Args:
            name: whatever `scorl.model.loading.resolve_model` understands.
            chat_template: a jinja file to use in place of the tokenizer's template.

        Raises:
            UserError: as `of`, or the model or the file cannot be read.
        """
        from transformers import AutoTokenizer

        tokenizer = load_pretrained(AutoTokenizer, name)
        if chat_template is not None:
            tokenizer.chat_template = _read_template(Path(chat_template))
        return cls.of(tokenizer, _generation_config_eos(name))

    @classmethod
    def of(cls, tokenizer: Tokenizer, generation_config_eos: int | Sequence[int] | None = None) -> Chat:
        """The chat of a Hugging Face tokenizer and `generation_config.eos_token_id`.

        Raises:
            UserError: there is no chat template, it shows no earlier answers, or nothing ends a response.
        """
        if not tokenizer.chat_template:
            raise UserError(
                f"the tokenizer of '{tokenizer.name_or_path}' has no chat template: take a model that has one"
                " (most instruction-tuned models do), or give one under the recipe key model.chat_template"
            )
        closer = _marker(tokenizer, _behind_answer(tokenizer, 1, _MESSAGE)[1].partition(_MESSAGE)[0])
        own_end = _marker(tokenizer, _behind_answer(tokenizer, 1, None)[1])
        listed = [generation_config_eos] if isinstance(generation_config_eos, int) else generation_config_eos
        end_ids = frozenset({tokenizer.eos_token_id, own_end, *(listed or ())} - {None})
        if not end_ids:
            raise UserError(
                f"nothing ends a response of '{tokenizer.name_or_path}': set the tokenizer's eos_token,"
                " or eos_token_id in generation_config.json"
            )
        preferred = (own_end, closer, tokenizer.eos_token_id, *sorted(end_ids))
        return cls(tokenizer, end_ids, next(i for i in preferred if i in end_ids), closer)

    def prompt(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """The ids of a first prompt: the chat template with its generation prompt, and nothing added to it.

        Raises:
            UserError: the template refuses the messages, a system message for instance.
        """
        return tuple(_encode(self.tokenizer, _render(self.tokenizer, messages)))

    def follow(
        self, prompt_ids: Sequence[int], sample_ids: Sequence[int], message: str, turn: int = 1
    ) -> tuple[int, ...]:
        """The next prompt: `prompt_ids + sample_ids`, the answer closed if it is not, the user's message.

        `turn` is how many user messages came before this one. Whatever the sample is, the result begins with
        `prompt_ids + sample_ids`.
        """
        suffix = self._suffix(message, turn)
        if tuple(sample_ids[-1:]) == (self.closer,):  # the sample closed its turn as the template does
            suffix = suffix[suffix.index(self.closer) + 1 :]
        return (*prompt_ids, *sample_ids, *suffix)

    def reply(self, text: str) -> tuple[int, ...]:
        """The ids of an answer as a model would write it behind a prompt, closed by `end_id`."""
        before = _render(self.tokenizer, [user(_QUESTION)])
        return (*_continue(self.tokenizer, before, text), self.end_id)

    def text(self, ids: Sequence[int]) -> str:
        """What a verifier reads: the ids as text, without end tokens and other special tokens."""
        kept = [i for i in ids if i not in self.end_ids]
        return str(self.tokenizer.decode(kept, skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def show(self, ids: Sequence[int]) -> str:
        """The ids as text, special tokens included: what the model reads."""
        return str(self.tokenizer.decode(list(ids), clean_up_tokenization_spaces=False))

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
        return _render(self.tokenizer, self._conversation(answer))

    def _conversation(self, answer: str) -> list[Message]:
        """A two-turn conversation, with a system message where the template takes one."""
        turns = [user(_QUESTION), _assistant(answer), user(_MESSAGE)]
        with_system = [Message(role="system", content="Be brief."), *turns]
        try:
            _render(self.tokenizer, with_system)
        except UserError:
            return turns
        return with_system

    def _suffix(self, message: str, turn: int) -> tuple[int, ...]:
        """The ids that stand between an open answer and the next one."""
        if (message, turn) not in self._suffixes:
            head, tail = _behind_answer(self.tokenizer, turn, message)
            self._suffixes[message, turn] = tuple(_continue(self.tokenizer, head, tail))
        return self._suffixes[message, turn]


def _read_template(path: Path) -> str:
    try:
        return read_text(path)
    except (OSError, UserError) as error:
        raise UserError(f"model.chat_template: {error}") from None


def _generation_config_eos(name: str) -> int | list[int] | None:
    """`eos_token_id` of a model's generation config; where it has none, of its config, as transformers does it."""
    from transformers import AutoConfig, GenerationConfig

    try:
        config = load_pretrained(GenerationConfig, name)
    except UserError:
        config = GenerationConfig.from_model_config(load_pretrained(AutoConfig, name))
    eos: int | list[int] | None = config.eos_token_id
    return eos


def _assistant(content: str) -> Message:
    return Message(role="assistant", content=content)


def _behind_answer(tokenizer: Tokenizer, turn: int, message: str | None) -> tuple[str, str]:
    """A dummy conversation of `turn` answered questions, cut behind its last answer.

    With a message, the generation prompt follows; with None, the conversation ends there.
    """
    messages = [user(_QUESTION), _assistant(_ANSWER)] * turn + ([] if message is None else [user(message)])
    head, answer, tail = _render(tokenizer, messages, generation=message is not None).rpartition(_ANSWER)
    if not answer:
        raise UserError(
            f"the chat template of '{tokenizer.name_or_path}' does not show earlier answers, so no second"
            " turn can follow: give another one under the recipe key model.chat_template"
        )
    return head + answer, tail


def _render(tokenizer: Tokenizer, messages: Sequence[Message], generation: bool = True) -> str:
    try:
        text = tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=generation)
    except TemplateError as error:
        roles = ", ".join(message["role"] for message in messages)
        raise UserError(
            f"the chat template of '{tokenizer.name_or_path}' refuses messages of the roles {roles}: {error}."
            " Most templates take user and assistant in turns; not all take a system message"
        ) from error
    return str(text)


def _encode(tokenizer: Tokenizer, text: str) -> list[int]:
    # Templates write the beginning-of-sequence token themselves; the tokenizer would write it a second time.
    return list(tokenizer.encode(text, add_special_tokens=False))


def _continue(tokenizer: Tokenizer, head: str, tail: str) -> list[int]:
    """The ids of `tail` as they are behind `head`; by itself where a token would span the two."""
    before, whole = _encode(tokenizer, head), _encode(tokenizer, head + tail)
    if whole[: len(before)] == before:
        return whole[len(before) :]
    return _encode(tokenizer, tail)


def _marker(tokenizer: Tokenizer, text: str) -> int | None:
    """The first special or added token in the text, but for the runs of white space that some add."""
    added = tokenizer.added_tokens_decoder
    markers = {i for i, token in added.items() if token.content.strip(" \t\r\n▁")}
    return next((i for i in _encode(tokenizer, text) if i in markers), None)


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
