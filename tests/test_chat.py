"""Turns are appended by ids: whatever template, tokenizer or sample, nothing already written changes."""

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from support.templates import SHAPES, SPECIAL, chat_of, tokenizer_of

from scorl.errors import UserError
from scorl.model.chat import Chat
from scorl.settings import ModelSettings
from scorl.trajectory import Message, user

KINDS = ("bytes", "pieces", "glue")
QUESTION = (user("What is 2 + 2?"),)
AGAIN = "There might be an error. Solve it again."


def ids_of(chat: Chat, *tokens: str) -> tuple[int, ...]:
    return tuple(chat.tokenizer.convert_tokens_to_ids(list(tokens)))


def ends(chat: Chat) -> set[str]:
    return set(chat.tokenizer.convert_ids_to_tokens(sorted(chat.end_ids)))


def rendered(chat: Chat, messages: list[Message]) -> tuple[int, ...]:
    """The stock way: the whole conversation anew, through the tokenizer's own door."""
    return tuple(chat.tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"])


def assistant(content: str) -> Message:
    return Message(role="assistant", content=content)


def cut_text(chat: Chat, text: str) -> tuple[int, ...]:
    """A sample without an end token, as the token limit leaves it."""
    return chat.reply(text)[:-1]


# By hand: what each template adds behind a sample, as the model reads it.

CUT = {
    "chatml": "<|im_end|>\n<|im_start|>user\nAgain.<|im_end|>\n<|im_start|>assistant\n",
    "llama3": "<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nAgain.<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n",
    "gemma": "<end_of_turn>\n<start_of_turn>user\nAgain.<end_of_turn>\n<start_of_turn>model\n",
    "think": "<|im_end|>\n<|im_start|>user\nAgain.<|im_end|>\n<|im_start|>assistant\n",
    "trims": "\n<|im_end|>\n<|im_start|>user\nAgain.\n<|im_end|>\n<|im_start|>assistant\n",
    "marker": "\nUser: Again.\nAssistant: ",
    "role_token": "<|user|>\nAgain.<|assistant|>\n",
    "rounds": "<|im_end|>\nRound 2: Again.\nAnswer: ",
    "inst": " </s>[INST] Again. [/INST]",
    "channels": "<|eom_id|><|start_header_id|>user<|end_header_id|>Again.<|eom_id|>"
    "<|start_header_id|>assistant<|end_header_id|>",
}
CLOSED = {
    "chatml": "\n<|im_start|>user\nAgain.<|im_end|>\n<|im_start|>assistant\n",
    "llama3": "<|start_header_id|>user<|end_header_id|>\n\nAgain.<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n",
    "gemma": "\n<start_of_turn>user\nAgain.<end_of_turn>\n<start_of_turn>model\n",
    "think": "\n<|im_start|>user\nAgain.<|im_end|>\n<|im_start|>assistant\n",
    "trims": "\n<|im_start|>user\nAgain.\n<|im_end|>\n<|im_start|>assistant\n",
    "marker": "\nUser: Again.\nAssistant: ",
    "role_token": "\nAgain.<|assistant|>\n",
    "rounds": "\nRound 2: Again.\nAnswer: ",
    "inst": "[INST] Again. [/INST]",
    "channels": CUT["channels"],
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", SHAPES)
def test_each_shape_closes_what_is_open_and_only_that(name: str, kind: str) -> None:
    chat = chat_of(name, kind)
    prompt = chat.prompt(QUESTION)
    whole = chat.reply("It is 4.")
    for sample, want in ((whole[:-1], CUT), (whole, CLOSED), ((), CUT), (whole[-1:], CLOSED)):
        following = chat.follow(prompt, sample, "Again.")
        assert following[: len(prompt) + len(sample)] == prompt + sample
        assert chat.show(following[len(prompt) + len(sample) :]).lstrip(" ") == want[name].lstrip(" ")


def test_every_end_token_is_found() -> None:
    assert {name: ends(chat_of(name)) for name in SHAPES} == {
        "chatml": {"<|im_end|>", "<|endoftext|>"},
        "llama3": {"<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"},
        "gemma": {"<eos>", "<end_of_turn>"},  # the second stands nowhere but in the template
        "think": {"<|endoftext|>", "<|im_end|>"},
        "trims": {"</s>", "<|im_end|>"},
        "marker": {"</s>"},
        "role_token": {"<|endoftext|>", "<|user|>"},
        "rounds": {"<|im_end|>"},
        "inst": {"</s>"},
        "channels": {"<|return|>"},  # not <|eom_id|>, which such models write in the middle of a response
    }


def test_a_role_marker_ends_a_response_only_where_the_model_says_so() -> None:
    assert ends(Chat.of(tokenizer_of("role_token"))) == {"<|endoftext|>"}


def test_one_end_token_may_come_as_a_number() -> None:
    tokenizer = tokenizer_of("marker")
    user_id = tokenizer.convert_tokens_to_ids("<|user|>")
    assert Chat.of(tokenizer, user_id).end_ids == {user_id, tokenizer.eos_token_id}


def test_white_space_among_the_added_tokens_ends_nothing() -> None:
    tokenizer = tokenizer_of("trims")  # writes a line break before its end-of-turn token
    tokenizer.add_tokens(["\n"])
    chat = Chat.of(tokenizer)
    assert ends(chat) == {"</s>", "<|im_end|>"}
    assert ids_of(chat, "<|im_end|>") == (chat.closer,)


def test_another_end_token_stays_and_the_turn_is_closed_behind_it() -> None:
    chat = chat_of("chatml")
    prompt, sample = chat.prompt(QUESTION), (*cut_text(chat, "4"), *ids_of(chat, "<|endoftext|>"))
    assert chat.show(chat.follow(prompt, sample, "Again.")[len(prompt) :]).startswith(
        "4<|endoftext|><|im_end|>\n<|im_start|>user\nAgain."
    )


@pytest.mark.parametrize("turn", [1, 2, 5])
def test_a_suffix_carries_the_number_of_its_turn(turn: int) -> None:
    chat = chat_of("rounds")
    assert f"\nRound {turn + 1}: Again." in chat.show(chat.follow((), (), "Again.", turn))


@pytest.mark.parametrize("name", ["llama3", "gemma", "inst"])
def test_the_beginning_of_sequence_stands_once(name: str) -> None:
    chat = chat_of(name)
    bos = chat.tokenizer.bos_token_id
    assert chat.tokenizer.encode("hello")[0] == bos, "this tokenizer adds one of its own"
    second = chat.follow(chat.prompt(QUESTION), chat.reply("4"), AGAIN)
    assert second[0] == bos
    assert second.count(bos) == 1


def test_the_default_system_text_stands_once() -> None:
    chat = chat_of("chatml")
    third = chat.follow(chat.follow(chat.prompt(QUESTION), chat.reply("4"), AGAIN), chat.reply("4"), AGAIN, 2)
    assert chat.show(third).count("You are helpful.") == 1


@pytest.mark.parametrize("kind", KINDS)
def test_text_is_what_was_answered(kind: str) -> None:
    chat = chat_of("chatml", kind)
    assert chat.text(chat.reply("2 + 2 is\n4.")) == "2 + 2 is\n4."
    assert chat.text(cut_text(chat, "It is 4.")) == "It is 4."
    assert chat.text(ids_of(chat, "<|im_end|>")) == chat.text(()) == ""


def test_a_tokenizer_may_merge_an_answer_with_what_follows() -> None:
    chat = chat_of("marker", "glue")
    apart = [len(chat.tokenizer.encode(text)) for text in ("zqanswerqz", "\nUser: ", "zqanswerqz\nUser: ")]
    assert apart[2] < apart[0] + apart[1], "this tokenizer merges across the boundary"
    second = chat.follow(chat.prompt(QUESTION), cut_text(chat, "four"), "Again.")
    assert chat.show(second) == "User: What is 2 + 2?\nAssistant: four\nUser: Again.\nAssistant: "


def test_a_suffix_is_worked_out_once() -> None:
    chat = Chat.of(tokenizer_of("chatml"))
    first = chat.follow((), (), AGAIN)
    chat.tokenizer.chat_template = "{{ raise_exception('rendered again') }}"
    assert chat.follow((), (), AGAIN) == first


# Properties.

ANY_IDS = st.lists(st.integers(0, 200), max_size=12).map(tuple)
# What a template does not touch: no white space at the ends, no special token spelled out.
ANSWERS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20).map(str.strip).filter(bool)


@settings(max_examples=60)
@given(
    name=st.sampled_from(sorted(SHAPES)),
    kind=st.sampled_from(KINDS),
    prompt=ANY_IDS,
    sample=ANY_IDS,
    message=st.text(max_size=20),
    turn=st.integers(1, 3),
)
def test_nothing_already_written_changes(
    name: str, kind: str, prompt: tuple[int, ...], sample: tuple[int, ...], message: str, turn: int
) -> None:
    following = chat_of(name, kind).follow(prompt, sample, message, turn)
    assert following[: len(prompt) + len(sample)] == prompt + sample
    assert len(following) > len(prompt) + len(sample)


@settings(max_examples=60)
@given(name=st.sampled_from(["chatml", "llama3", "gemma"]), answers=st.tuples(ANSWERS, ANSWERS))
def test_where_a_template_leaves_history_alone_appending_is_rendering(name: str, answers: tuple[str, str]) -> None:
    assume(not any(token in answer for answer in answers for token in SPECIAL))
    chat = chat_of(name)
    second = chat.follow(chat.prompt(QUESTION), chat.reply(answers[0]), AGAIN)
    third = chat.follow(second, chat.reply(answers[1]), "Once more.", 2)
    conversation = [*QUESTION, assistant(answers[0]), user(AGAIN)]
    assert second == rendered(chat, conversation)
    assert third == rendered(chat, [*conversation, assistant(answers[1]), user("Once more.")])


# What the stock template would do otherwise, in words.


def test_a_faithful_template_has_no_differences() -> None:
    assert chat_of("chatml").differences() == chat_of("role_token").differences() == []


def test_deleted_thoughts_are_named_and_kept() -> None:
    chat = chat_of("think")
    (sentence,) = chat.differences()
    assert "deletes <think>" in sentence
    second = chat.follow(chat.prompt(QUESTION), chat.reply("<think>two and two</think>\n4"), AGAIN)
    assert "<think>two and two</think>\n4" in chat.show(second)


@pytest.mark.parametrize("name", ["llama3", "gemma"])
def test_trimmed_white_space_is_named(name: str) -> None:
    (sentence,) = chat_of(name).differences()
    assert "trims white space" in sentence


def test_other_changes_are_shown_where_they_begin() -> None:
    (sentence,) = chat_of("marker").differences()
    assert "The answer is 4.'" in sentence
    assert "continues with '\\nUser: " in sentence
    assert "continues with '</s>\\nUser: " in sentence


def test_other_tokens_for_the_same_text_are_named() -> None:
    assert any("same text in other tokens" in sentence for sentence in chat_of("chatml", "glue").differences())


# What the user may have got wrong.


def test_a_tokenizer_without_a_template() -> None:
    tokenizer = tokenizer_of("chatml")
    tokenizer.chat_template = None
    with pytest.raises(UserError, match=r"'chatml' has no chat template.*model\.chat_template"):
        Chat.of(tokenizer)


def test_a_template_that_shows_no_earlier_answers() -> None:
    tokenizer = tokenizer_of("chatml")
    tokenizer.chat_template = "{{ messages[-1].content if messages[-1].role == 'user' }}"
    with pytest.raises(UserError, match="does not show earlier answers"):
        Chat.of(tokenizer)


def test_a_system_message_that_the_template_refuses() -> None:
    with pytest.raises(UserError, match="system, user: System role not supported"):
        chat_of("gemma").prompt([Message(role="system", content="Be brief."), *QUESTION])


def test_nothing_that_ends_a_response() -> None:
    tokenizer = tokenizer_of("marker")
    tokenizer.eos_token = None
    with pytest.raises(UserError, match="nothing ends a response"):
        Chat.of(tokenizer)


def test_a_template_of_any_editor_is_read_or_named(tmp_path):
    template = tmp_path / "chat.jinja"
    text = Chat.load("scorl:countdown-base").tokenizer.chat_template
    template.write_bytes(text.encode("utf-8-sig"))  # a mark would stand before every prompt
    marked, plain = Chat.load("scorl:countdown-base", str(template)), Chat.load("scorl:countdown-base")
    assert marked.prompt([user("hi")]) == plain.prompt([user("hi")])
    template.write_bytes(text.encode("utf-16"))
    with pytest.raises(UserError, match=r"model\.chat_template: .*chat\.jinja: is UTF-16"):
        Chat.load("scorl:countdown-base", str(template))


def test_a_stop_string_that_is_a_special_token_ends_a_response_as_that():
    settings = ModelSettings("scorl:countdown-base", stop_strings=("<|user|>", "then"))
    chat = Chat.of_model(settings)
    (token,) = chat.tokenizer.encode("<|user|>", add_special_tokens=False)
    assert token in chat.end_ids
    assert chat.stop_strings == ("then",)
