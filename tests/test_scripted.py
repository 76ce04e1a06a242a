"""The engine with canned answers."""

from pathlib import Path

import pytest
from support.templates import chat_of

from scorl.engines.engine import Engine, Request
from scorl.engines.scripted import ScriptedEngine
from scorl.errors import UserError
from scorl.trajectory import user

CHAT = chat_of("chatml")
PROMPT = CHAT.prompt([user("What is 2 + 2?")])


def scripted() -> Engine:
    """The engine that tests over all engines take: its answers vary with the seed."""
    return ScriptedEngine(CHAT, ["It is 4.", "Five.", "I cannot tell, there are too many numbers."])


def one(engine: Engine, prompt: tuple[int, ...] = PROMPT, seed: int = 0, max_tokens: int = 50) -> str:
    (sample,) = engine.sample([Request(prompt, seed)], temperature=1.0, max_tokens=max_tokens)
    return CHAT.text(sample.ids)


def test_an_answer_ends_in_an_end_token_and_is_certain() -> None:
    (sample,) = scripted().sample([Request(PROMPT, 0)], temperature=1.0, max_tokens=50)
    assert sample.ids == CHAT.reply("It is 4.")
    assert (sample.finish, sample.ids[-1]) == ("stop", CHAT.end_id)
    assert sample.logprobs == (0.0,) * len(sample.ids)


def test_the_token_limit_cuts() -> None:
    whole = CHAT.reply("It is 4.")
    for limit, finish in ((len(whole), "stop"), (len(whole) - 1, "length"), (1, "length")):
        (sample,) = scripted().sample([Request(PROMPT, 0)], temperature=1.0, max_tokens=limit)
        assert (sample.ids, sample.finish, len(sample.logprobs)) == (whole[:limit], finish, limit)


def test_the_seed_picks_and_temperature_zero_does_not() -> None:
    requests = [Request(PROMPT, seed) for seed in (2, 0, 1, 3)]
    drawn = scripted().sample(requests, temperature=1.0, max_tokens=50)
    assert [CHAT.text(sample.ids)[:4] for sample in drawn] == ["I ca", "It i", "Five", "It i"]
    greedy = scripted().sample(requests, temperature=0.0, max_tokens=50)
    assert [CHAT.text(sample.ids) for sample in greedy] == ["It is 4."] * 4


def test_a_function_reads_the_prompt_and_the_seed() -> None:
    engine = ScriptedEngine(CHAT, lambda prompt, seed: f"{prompt.count('<|im_start|>user')} {seed}")
    second = CHAT.follow(PROMPT, CHAT.reply("4"), "Again.")
    assert (one(engine, PROMPT, 5), one(engine, second, 6)) == ("1 5", "2 6")


def test_an_answer_may_end_by_another_end_token() -> None:
    (sample,) = ScriptedEngine(CHAT, ["4<|endoftext|> and more"]).sample(
        [Request(PROMPT, 0)], temperature=1.0, max_tokens=50
    )
    assert (CHAT.show(sample.ids), sample.finish) == ("4<|endoftext|>", "stop")


def test_answers_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    path.write_text(
        '{"prompt_contains": "Again.", "response": "It is 4."}\n\n'
        '{"prompt_contains": "2 + 2", "response": "Five."}\n'
        '{"prompt_contains": "2 + 2", "response": "Six."}\n'
    )
    engine = ScriptedEngine.load_answers(CHAT, path)
    assert [one(engine, PROMPT, seed) for seed in range(3)] == ["Five.", "Six.", "Five."]
    assert one(engine, CHAT.follow(PROMPT, CHAT.reply("Five."), "Again."), 1) == "It is 4."
    with pytest.raises(UserError, match="no line's prompt_contains occurs"):
        one(engine, CHAT.prompt([user("What is 3 + 3?")]))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "holds no answers"),
        ('{"prompt_contains": "", "response": "4"}\n{"prompt', "line 2: not valid JSON"),
        ('["4"]', "line 1: want"),
        ('{"prompt_contains": "", "respond": "4"}', "line 1: unknown key 'respond': did you mean 'response'"),
        ('{"prompt_contains": ""}', "line 1: 'response' must be a string, got None"),
        ('{"prompt_contains": "", "response": 4}', "line 1: 'response' must be a string, got 4"),
    ],
)
def test_a_bad_file_is_named(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "answers.jsonl"
    path.write_text(content)
    with pytest.raises(UserError, match=message):
        ScriptedEngine.load_answers(CHAT, path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"answers\.jsonl"):
        ScriptedEngine.load_answers(CHAT, tmp_path / "answers.jsonl")
