"""Models without a chat template: ours in its place, texts that end a response, what is said before weights load."""

import struct

import pytest
from support.engine_contract import plain
from support.templates import chat_of, tokenizer_of
from support.worlds import save_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from scorl.engines import Request
from scorl.engines.scripted import ScriptedEngine
from scorl.engines.torch import TorchEngine
from scorl.errors import UserError
from scorl.model.chat import Chat, check_template
from scorl.model.gguf_header import has_chat_template
from scorl.model.policy import Policy
from scorl.settings import ModelSettings
from scorl.trajectory import Message, user

QUESTION = [user("What is 2 + 2?")]
SYSTEM = Message(role="system", content="Be brief.")
KINDS = ("bytes", "pieces", "glue")


def base_chat(template="plain", kind="bytes", shape="marker", **settings):
    """A chat of a tokenizer that brings no template."""
    tokenizer = tokenizer_of(shape, kind)
    tokenizer.chat_template = None
    return Chat.of(tokenizer, settings=ModelSettings("base", chat_template=template, **settings))


def written(chat, text):
    """A sample that ends without an end token."""
    return tuple(chat.encoder.encode_behind(chat.template.render(QUESTION), text))


@pytest.mark.parametrize("kind", KINDS)
def test_plain_is_turns_as_text(kind):
    chat = base_chat(kind=kind)
    first = chat.prompt([SYSTEM, *QUESTION])
    assert chat.show(first).lstrip() == "Be brief.\n\nUser:\nWhat is 2 + 2?\n\nAssistant:\n"
    second = chat.follow(first, written(chat, "It is 4."), "Again.")
    assert chat.show(second).endswith("Assistant:\nIt is 4.\n\nUser:\nAgain.\n\nAssistant:\n")


def test_chatml_is_text_where_the_tokenizer_has_no_such_tokens():
    alphabet = {letter: i for i, letter in enumerate(["<eos>", *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    letters = Tokenizer(models.BPE(alphabet, []))
    letters.pre_tokenizer, letters.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=letters, eos_token="<eos>")
    chat = Chat.of(tokenizer, settings=ModelSettings("base", chat_template="chatml"))
    assert chat.stop_strings == ("<|im_end|>",)
    assert chat.show(chat.prompt(QUESTION)) == "<|im_start|>user\nWhat is 2 + 2?<|im_end|>\n<|im_start|>assistant\n"
    ids = written(chat, "It is 4.<|im_end|>")
    assert (chat.find_end(ids), chat.text(ids)) == (len(ids), "It is 4.")
    assert chat.show(chat.follow((), ids, "Again.")).startswith("It is 4.<|im_end|>\n<|im_start|>user\nAgain.")
    tokens = base_chat("chatml", shape="chatml")
    assert tokens.stop_strings == ()
    assert tokens.tokenizer.convert_tokens_to_ids("<|im_end|>") in tokens.end_ids


@pytest.mark.parametrize("template", ["plain", "chatml"])
def test_the_beginning_of_a_text_stands_where_the_tokenizer_writes_one(template):
    chat = base_chat(template, shape="gemma")
    prompt = chat.prompt(QUESTION)
    assert prompt[0] == chat.tokenizer.bos_token_id
    assert prompt.count(chat.tokenizer.bos_token_id) == 1
    assert base_chat(template).prompt(QUESTION)[0] != chat.tokenizer.bos_token_id


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("stops", "sample", "text", "following"),
    [
        (None, "It is 4.\n\nUser:", "It is 4.\n", "It is 4.\n\nUser:\nAgain.\n\nAssistant:\n"),
        (None, "It is 4.\nUser:", "It is 4.", "It is 4.\nUser:\nAgain.\n\nAssistant:\n"),
        (("\n\n",), "It is 4.\n\n", "It is 4.", "It is 4.\n\nUser:\nAgain.\n\nAssistant:\n"),
        (("\n",), "It is 4.\n", "It is 4.", "It is 4.\n\nUser:\nAgain.\n\nAssistant:\n"),
        (("is", " 4."), "It is", "It ", "It is\n\nUser:\nAgain.\n\nAssistant:\n"),
        (("</answer>",), "<answer>4</answer>", "<answer>4", "<answer>4</answer>\n\nUser:\nAgain.\n\nAssistant:\n"),
    ],
)
def test_a_stop_string_ends_a_response_and_is_not_written_twice(kind, stops, sample, text, following):
    chat = base_chat(kind=kind, stop_strings=stops)
    prompt, ids = chat.prompt(QUESTION), written(chat, sample)
    assert chat.find_end(ids) == len(ids)
    assert chat.ends(ids)
    assert not any(chat.ends(ids[:n]) for n in range(1, len(ids)))
    assert chat.text(ids) == text
    second = chat.follow(prompt, ids, "Again.")
    assert second[: len(prompt) + len(ids)] == prompt + ids
    assert chat.show(second[len(prompt) :]).lstrip() == following


def test_what_the_last_token_writes_behind_a_stop_string_is_not_written_twice():
    chat = base_chat()
    chat.tokenizer.add_tokens([":\n", ": "])
    for sample, following in (("4\nUser:\n", "4\nUser:\nAgain.\n\nAssistant:\n"), ("4\nUser: ", "4\nUser: \nAgain.")):
        ids = written(chat, sample)
        assert chat.find_end(ids) == len(ids)
        assert chat.text(ids) == "4"
        assert chat.show(chat.follow((), ids, "Again.")).startswith(following)


def test_what_is_behind_a_stop_string_is_no_part_of_the_response():
    chat = base_chat()
    ids = written(chat, "It is 4.\n\nUser: And 3 + 3?\n\nAssistant:")
    end = chat.find_end(ids)
    assert chat.show(ids[:end]) == "It is 4.\n\nUser:"
    assert chat.text(ids) == "It is 4.\n"
    assert chat.find_end(written(chat, "It is 4.")) is None


@pytest.mark.parametrize("kind", KINDS)
def test_a_stop_string_may_end_in_a_space_or_in_several_bytes(kind):
    for stop in ("Question: ", "fertig ✓", "終わり"):
        chat = base_chat(kind=kind, stop_strings=(stop,))
        ids = written(chat, f"It is 4. {stop}What")
        ends = [n for n in range(1, len(ids) + 1) if stop in chat.encoder.decode(ids[:n])]
        assert chat.find_end(ids) == (ends[0] if ends else None)  # some of these tokenizers do not know the characters


def test_a_model_without_an_end_token_answers_with_a_stop_string():
    tokenizer = tokenizer_of("marker")
    tokenizer.chat_template = tokenizer.eos_token = None
    chat = Chat.of(tokenizer, settings=ModelSettings("base", chat_template="plain"))
    assert (chat.end_ids, chat.end_id) == (frozenset(), None)
    reply = chat.reply("It is 4.")
    assert chat.show(reply) == "It is 4.\nUser:"
    assert (chat.find_end(reply), chat.text(reply)) == (len(reply), "It is 4.")
    (sample,) = ScriptedEngine(chat, ["It is 4."]).sample(
        [Request(chat.prompt(QUESTION), 0)], temperature=0, max_tokens=99
    )
    assert (sample.ids, sample.finish) == (reply, "stop")
    with pytest.raises(UserError, match=r"nothing ends a response.*model\.stop_strings"):
        Chat.of(tokenizer, settings=ModelSettings("base", chat_template="plain", stop_strings=()))


def test_stop_strings_are_the_users_or_the_generation_configs():
    tokenizer = tokenizer_of("chatml")
    assert Chat.of(tokenizer).stop_strings == ()
    assert Chat.of(tokenizer, stop_strings="END").stop_strings == ("END",)
    none = ModelSettings("base", stop_strings=())
    assert Chat.of(tokenizer, settings=none, stop_strings=["END"]).stop_strings == ()


def test_a_checkpoint_knows_the_template_it_was_trained_with(tmp_path):
    path = save_model(tmp_path)
    (tmp_path / "chat_template.jinja").unlink()
    policy = Policy.of(ModelSettings(path, chat_template="plain"))
    policy.save(tmp_path / "trained")
    chat = Chat.load(str(tmp_path / "trained"))
    assert chat.prompt(QUESTION) == policy.chat.prompt(QUESTION)
    assert chat.stop_strings == policy.chat.stop_strings == ("\nUser:",)


class TestSampling:
    """A tiny model that writes letters, words of which end its responses."""

    @pytest.fixture
    def policy(self, tmp_path):
        return Policy.of(ModelSettings(save_model(tmp_path), stop_strings=("b a", "f")))

    def test_responses_end_with_the_token_that_completes_a_stop_string(self, policy):
        prompts = [policy.chat.prompt([user(f"say {word}")]) for word in "abc"]
        asked = [Request(prompts[i % 3], i) for i in range(60)]
        samples = TorchEngine(policy).sample(asked, temperature=1.0, max_tokens=12)
        texts = [policy.tokenizer.decode(s.ids, skip_special_tokens=True) for s in samples]
        stopped = [t for t, s in zip(texts, samples, strict=True) if s.finish == "stop"]
        assert any("b again" in t for t in stopped)  # whose token writes more than the stop string
        assert any(t.endswith("f") for t in stopped)
        for request, sample, text in zip(asked, samples, texts, strict=True):
            assert plain(policy, request, sample.ids) == pytest.approx(sample.logprobs, abs=1e-4)
            ended = "b a" in text or "f" in text or sample.ids[-1] in policy.chat.end_ids
            assert ended == (sample.finish == "stop")
            assert ended or len(sample.ids) == 12
            assert not any(policy.chat.ends(sample.ids[:n]) for n in range(1, len(sample.ids)))
            assert not any(stop in policy.chat.text(sample.ids) for stop in policy.chat.stop_strings)

    def test_the_draws_are_those_without_stop_strings(self, policy):
        plain_policy = Policy(policy.path)
        asked = [Request(policy.chat.prompt([user("say a")]), i) for i in range(30)]
        stopped, whole = (TorchEngine(p).sample(asked, temperature=1.0, max_tokens=12) for p in (policy, plain_policy))
        assert all(w.ids[: len(s.ids)] == s.ids for s, w in zip(stopped, whole, strict=True))


# What is said, and when.


def test_a_folder_without_a_template_is_refused_before_its_weights_are_read(tmp_path):
    path = save_model(tmp_path)
    (tmp_path / "chat_template.jinja").unlink()
    (tmp_path / "model.safetensors").write_bytes(b"torn")
    with pytest.raises(UserError, match=r"no chat template.*model\.chat_template=plain.*=chatml.*=FILE"):
        Policy(path)


def write_gguf(path, keys):
    """The head of a GGUF file with these keys, and with a list of words as tokenizers have it."""
    text = [struct.pack("<Q", len(t)) + t for t in (b"a", b"bc")]
    words = struct.pack("<QIIQ", 0, 9, 8, 2)[8:] + b"".join(text)
    pairs = [(b"tokenizer.ggml.tokens", words), (b"n", struct.pack("<IQI", 9, 3, 1)[:0] + struct.pack("<If", 6, 1.0))]
    pairs += [(key, struct.pack("<IQ", 8, 2) + b"{}") for key in keys]
    head = struct.pack("<4sIQQ", b"GGUF", 3, 0, len(pairs))
    path.write_bytes(head + b"".join(struct.pack("<Q", len(k)) + k + v for k, v in pairs))


def test_a_gguf_file_without_a_template_is_refused_by_its_head_alone(tmp_path):
    path = tmp_path / "base.gguf"
    for keys, has in (([], False), ([b"tokenizer.chat_template"], True), ([b"tokenizer.chat_template.x"], False)):
        write_gguf(path, keys)
        assert has_chat_template(path) is has
    with pytest.raises(UserError, match=r"base\.gguf' has no chat template.*model\.chat_template=plain"):
        Chat.load(str(path))
    check_template(ModelSettings(str(path), chat_template="plain"))
    for torn in (b"", b"GGUF", path.read_bytes()[:30], b"PK" + bytes(40)):
        path.write_bytes(torn)
        assert has_chat_template(path) in (None, False)
    assert has_chat_template(tmp_path / "none.gguf") is None


def test_a_template_by_a_wrong_name_hints_at_ours():
    with pytest.raises(UserError, match=r"model\.chat_template: there is no file 'plian': did you mean 'plain'"):
        base_chat("plian")


def test_named_templates_are_chosen_by_name():
    tokenizer = tokenizer_of("chatml")
    own = tokenizer.chat_template
    tokenizer.chat_template = {"rag": own.replace("helpful", "thorough"), "tool_use": own}
    with pytest.raises(UserError, match=r"2 chat templates.*model\.chat_template=NAME.*rag, tool_use"):
        Chat.of(tokenizer)
    rag = Chat.of(tokenizer, settings=ModelSettings("named", chat_template="rag"))
    assert "thorough" in rag.show(rag.prompt(QUESTION))
    tokenizer.chat_template = {"default": own, "tool_use": "{{ messages }}"}
    assert Chat.of(tokenizer).prompt(QUESTION) == chat_of("chatml").prompt(QUESTION)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("{% for m in messages %}", "is no Jinja, line 1"),
        ("line one\n{{ messages[0].content }", "is no Jinja, line 2"),
        ("{{ messages[0].content + 1 }}", "fails on messages of the roles user.*TypeError"),
        ("{{ messages[0].parts[0].text }}", "fails on messages of the roles user.*UndefinedError"),
        ("{{ raise_exception('no users') }}", "refuses messages of the roles user.*no users"),
        ("{{ messages | frobnicate }}", "is no Jinja.*frobnicate"),
        ("{{ strftime_now('%Y') }}\n{% for m in messages %}", "is no Jinja, line 2"),
    ],
)
def test_a_template_that_fails_is_said_to(source, said):
    tokenizer = tokenizer_of("chatml")
    tokenizer.chat_template = source
    with pytest.raises(UserError, match=said):
        Chat.of(tokenizer, settings=ModelSettings("odd", chat_template_date="2026-11-26"))


def test_a_template_that_wants_content_in_parts_gets_it():
    tokenizer, chatml = tokenizer_of("chatml"), chat_of("chatml")
    parts = (
        "{%- set ns = namespace(text='') -%}{%- for p in m.content if p.type == 'text' -%}{%- set ns.text = p.text -%}"
    )
    tokenizer.chat_template = (
        "{%- for m in messages -%}"
        + parts
        + "{%- endfor -%}{{ '<|im_start|>' + m.role + '\n' + ns.text + '<|im_end|>\n' }}{%- endfor %}"
        "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}{%- endif -%}"
    )
    seeing, conversation = Chat.of(tokenizer), [SYSTEM, *QUESTION]
    assert seeing.prompt(conversation) == chatml.prompt(conversation)
    sample = chatml.reply("4")
    assert seeing.follow((), sample, "Again.") == chatml.follow((), sample, "Again.")


def test_a_token_beyond_the_embedding_is_named_with_both_sizes():
    tokenizer = tokenizer_of("chatml")
    rows = len(tokenizer)
    tokenizer.add_tokens(["<reply>"])
    tokenizer.chat_template += "<reply>"
    with pytest.raises(
        UserError, match=rf"'<reply>' has the id {rows}, but the embedding.* {rows} rows for {rows + 1}"
    ):
        Chat.of(tokenizer, rows=rows)
    chat = Chat.of(tokenizer, rows=len(tokenizer))
    tokenizer.add_tokens(["<image>"])
    with pytest.raises(UserError, match="'<image>' has the id"):
        chat.prompt([user("What is in <image>?")])


# What a template is given.

THINKS = "{%- if enable_thinking is defined and enable_thinking is false %}{{ 'no thoughts ' }}{% endif -%}"
DATED = "{%- set day = strftime_now('%d %b %Y') -%}{{ 'Today is ' + day + ', %-d day ' + strftime_now('%-d') }}.\n"


def with_head(head):
    tokenizer = tokenizer_of("chatml")
    tokenizer.chat_template = head + tokenizer.chat_template
    return tokenizer


def test_variables_reach_the_template_and_others_are_refused():
    tokenizer = with_head(THINKS)
    off = Chat.of(tokenizer, settings=ModelSettings("q", chat_template_kwargs={"enable_thinking": False}))
    assert off.show(off.prompt(QUESTION)).startswith("no thoughts")
    assert not Chat.of(tokenizer).show(Chat.of(tokenizer).prompt(QUESTION)).startswith("no thoughts")
    for wrong, said in (
        ("enable_thinkng", "reads no such variable: did you mean 'enable_thinking'"),
        ("add_generation_prompt", "is scorl's to set"),
        ("messages", "is scorl's to set"),
    ):
        with pytest.raises(UserError, match=rf"model\.chat_template_kwargs\.{wrong}: .*{said}"):
            Chat.of(tokenizer, settings=ModelSettings("q", chat_template_kwargs={wrong: 1}))


def test_a_template_without_variables_says_so():
    with pytest.raises(UserError, match=r"enable_thinking: .*reads none but the messages"):
        base_chat(chat_template_kwargs={"enable_thinking": False})


def test_a_date_in_a_template_is_the_given_one():
    tokenizer = with_head(DATED)
    chats = [
        Chat.of(tokenizer, settings=ModelSettings("q", chat_template_date=day)) for day in ("2024-07-06", "2031-12-26")
    ]
    assert chats[0].show(chats[0].prompt(QUESTION)).startswith("Today is 06 Jul 2024, %-d day 6.")
    assert chats[1].show(chats[1].prompt(QUESTION)).startswith("Today is 26 Dec 2031, %-d day 26.")
    assert chats[0].tokenizer.chat_template == DATED + tokenizer_of("chatml").chat_template
    with pytest.raises(UserError, match=r"model\.chat_template_date: '26 Jul' is no day"):
        ModelSettings("q", chat_template_date="26 Jul")


def test_a_tokenizer_without_a_padding_token_samples(tmp_path):
    path = save_model(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(path)
    tokenizer.pad_token = None
    tokenizer.save_pretrained(path)
    policy = Policy(path)
    assert policy.tokenizer.pad_token is None
    asked = [Request(policy.chat.prompt([user(t)]), 0) for t in ("say a", "say a b c")]
    for request, sample in zip(asked, TorchEngine(policy).sample(asked, temperature=1.0, max_tokens=5), strict=True):
        assert plain(policy, request, sample.ids) == pytest.approx(sample.logprobs, abs=1e-4)
