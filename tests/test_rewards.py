"""Reward functions as TRL takes them: what they are given, what they may return, and whose mistake is told how."""

import re
from pathlib import Path

import pytest

from scorl import tasks
from scorl.errors import UserError
from scorl.trajectory import AttemptText, Response

ROWS = '{"prompt": "a", "answer": 3, "level": 1}\n{"prompt": "b", "answer": 2}\n'
ONES = "return [1.0] * len(completions)"


@pytest.fixture
def load(tmp_path, monkeypatch):
    """A task of two problems whose verifier is in r.py."""
    monkeypatch.chdir(tmp_path)
    Path("own.jsonl").write_text(ROWS, encoding="utf-8")

    def make(source, verifier="r.py:f", **settings):
        Path("r.py").write_text(source, encoding="utf-8")
        settings = {"path": "own.jsonl", "test_path": "own.jsonl", **settings}
        return tasks.load("files", verifier=verifier, **settings)

    return make


def attempt(text, ids=(5, 6), number=1, policy=0):
    return AttemptText(Response((1,), ids, (0.0,) * len(ids), text, "stop", policy=policy), number)


def rewards(task, *texts):
    problems = task.split("all").take(None)
    return [verdict.reward for verdict in task.judge(list(zip(problems, texts, strict=False)))]


def test_a_function_is_given_what_trl_gives(load):
    task = load(
        "def f(prompts, completions, completion_ids, trainer_state, answer, attempt, log_metric, **kwargs):\n"
        "    log_metric('share', 0.5)\n"
        "    assert (prompts, completions, answer) == (['a', 'b'], ['x', 'y'], [3, 2])\n"
        "    assert kwargs['level'] == [1, None] and 'prompt' not in kwargs\n"
        "    return [len(i) + a + trainer_state.global_step for i, a in zip(completion_ids, attempt)]\n"
    )
    assert rewards(task, attempt("x", (5,), 1, 7), attempt("y", (5, 6), 2, 7)) == [9, 11]


def test_a_column_of_ones_own_goes_before_our_attempt(load, tmp_path):
    Path("mine.jsonl").write_text('{"problem": "x", "attempt": 9}\n', encoding="utf-8")
    source = "def f(completions, attempt): return attempt"
    assert rewards(load(source, path="mine.jsonl", test_path="mine.jsonl"), "x") == [9]


def test_a_function_without_kwargs_is_given_what_it_names(load):
    assert rewards(load("def f(completions, level=None):\n    return [level[0], 0]"), "x", "y") == [1, 0]


@pytest.mark.parametrize(
    "source",
    [
        f"async def f(prompts, completions, **kw):\n    {ONES}",
        "import asyncio\nlock = asyncio.Lock()\nasync def f(prompts, completions, **kw):\n    async with lock:\n"
        "        await asyncio.sleep(0)\n        return [1.0] * len(completions)",
        "import numpy\ndef f(prompts, completions, **kw):\n    return numpy.ones(len(completions))",
        "def f(prompts, completions, **kw):\n    return (1 for _ in completions)",
        "def f(prompts, completions, **kw):\n    return [True] * len(completions)",
        "class F:\n    def __call__(self, completions, **kw):\n        return (1.0,) * len(completions)\nf = F()",
    ],
)
def test_rewards_of_many_kinds(load, source):
    task = load(source)
    assert rewards(task, "x", "y") == [1, 1]
    assert rewards(task, "x", "y") == [1, 1]  # again: an asyncio.Lock belongs to one loop


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("return None", "returned None, not a list with a reward for each of 2 completions"),
        ("return 1.0", "returned 1.0, not a list"),
        ("return {'a': 1}", "returned {'a': 1}, not a list"),
        ("return [1.0]", "returned 1 rewards for 2 completions"),
        ("return [1.0, float('nan')]", "returned nan for the completion 'y'; a reward is a finite number, or None"),
        ("return [float('inf'), 1]", "returned inf for the completion 'x'"),
        ("return [10**400, 1]", "returned 1000"),
        ("raise SystemExit(3)", "raised SystemExit: 3 (PLACE/r.py, line 2)"),
        ("return ['good', 1]", "returned 'good' for the completion 'x'"),
        ("return [{}, 1]", "returned {} for the completion 'x'"),
        ("return kw['missing']", "raised KeyError: 'missing' (PLACE/r.py, line 2)"),
        ("import json; return json.loads('{')", "(PLACE/r.py, line 2)"),
        ("raise EOFError('closed')", "raised EOFError: closed (PLACE/r.py, line 2)"),
    ],
)
def test_what_a_function_does_wrong_is_told_with_its_name_and_place(load, tmp_path, body, said):
    task = load(f"def f(prompts, completions, **kw):\n    {body}")
    with pytest.raises(UserError, match=f"verifier 'r.py:f' .*{re.escape(said.replace('PLACE', str(tmp_path)))}"):
        rewards(task, "x", "y")


def test_an_async_function_tells_its_place_too(load):
    with pytest.raises(UserError, match=r"raised ValueError: no \(.*r\.py, line 2\)"):
        rewards(load("async def f(completions, **kw):\n    raise ValueError('no')"), "x", "y")


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("def f(prompts, completions, gold): return []", "wants gold, .*there are: prompts, .*answer, level"),
        ("def f(:", r"r\.py is no Python: .*r\.py, line 1\)"),
        ("\nimport nowhere_at_all", r"raised ModuleNotFoundError: .*r\.py, line 2\)"),
        ("x = 1 / 0", r"raised ZeroDivisionError: .*r\.py, line 1\)"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_before_anything_is_sampled(load, source, said):
    with pytest.raises(UserError, match=said):
        load(source)


def test_a_file_may_import_its_neighbours_then_and_later(load):
    Path("neighbour_of_r.py").write_text("def g(n): return [1.0] * n\n", encoding="utf-8")
    Path("later_neighbour_of_r.py").write_text("two = 2.0\n", encoding="utf-8")
    task = load(
        "from neighbour_of_r import g\n"
        "def f(completions, **kw):\n    from later_neighbour_of_r import two\n    return [two, *g(1)]\n"
    )
    assert rewards(task, "x", "y") == [2, 1]


def test_a_list_of_verifiers_with_weights(load):
    source = "def f(completions, **kw): return [0.5, None]\ndef g(completions, **kw): return [1, 1]"
    settings = {"verifier": ["math", "r.py:f", "r.py:g"], "reward_weights": [1.0, 0.5, 0.1]}
    task = load(source, **settings)
    verdicts = task.judge(list(zip(task.split("all").take(None), ["The answer is 3.", "It is 1"], strict=True)))
    assert [verdict.reward for verdict in verdicts] == pytest.approx([1.35, 0.1])
    assert [verdict.outcome for verdict in verdicts] == ["correct", "incorrect"]
    assert verdicts[0].answer == "3"
    assert verdicts[1].reason == "math 0, r.py:f nothing, r.py:g 1"
    assert rewards(load(source, ["r.py:f"]), "x", "y") == [0.5, 0]
    with pytest.raises(UserError, match="reward_weights: 2 weights for 1 verifiers"):
        load(source, ["math"], reward_weights=[1.0, 2.0])
    with pytest.raises(UserError, match="the list is empty"):
        load(source, [])
