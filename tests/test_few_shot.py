"""Few-shot examples: which ones, in which wording, before which problems, and what is wrong with one."""

import json
from dataclasses import fields

import pytest

from scorl.errors import UserError
from scorl.recipe import resolve_task
from scorl.tasks import TASKS
from scorl.tasks.few_shot import exemplify
from scorl.trajectory import Message, Problem, user

ROWS = [{"question": f"What is {n} + 1?", "answer": f"{n} + 1 = {n + 1}\n#### {n + 1}"} for n in range(6)]
OWN = [
    {"question": "Two twos?", "answer": 4},
    {"messages": [{"role": "system", "content": "x"}, {"role": "user", "content": "Five fives?"},
                  {"role": "assistant", "content": "24"}, {"role": "user", "content": "Sure?"},
                  {"role": "assistant", "content": "No, 25."}]},
    {"prompt": [{"role": "user", "content": "Six?"}], "completion": [{"role": "assistant", "content": "6"}]},
]  # fmt: skip
CHAT = [("user", "Five fives?"), ("assistant", "24"), ("user", "Sure?"), ("assistant", "No, 25.")]


@pytest.fixture
def gsm8k(tmp_path):
    """The task with settings; four problems to train on, two to test."""
    for split, rows in (("train", ROWS[:4]), ("test", ROWS[4:])):
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def load(*settings):
        return resolve_task("gsm8k", [f"path={tmp_path}", "prompt=Q: {question}", *settings]).build()

    return load


def said(problem):
    return [(message["role"], message["content"]) for message in problem.prompt]


def test_examples_of_ones_own_in_the_tasks_wording_or_as_messages(gsm8k, tmp_path):
    path = tmp_path / "shots.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in OWN))
    shown = [("user", "Q: Two twos?"), ("assistant", "4"), *CHAT, ("user", "Six?"), ("assistant", "6")]
    for setting in (f"few_shot={json.dumps(OWN)}", f"few_shot={path}"):
        (problem, _) = gsm8k(setting).split("test").take(None)
        assert said(problem) == [*shown, ("user", "Q: What is 4 + 1?")]
        assert problem.id == gsm8k().split("test").take(1)[0].id


def test_so_many_of_the_training_split_by_their_own_seed_and_never_the_problem_itself(gsm8k):
    task = gsm8k("few_shot=3")
    for problem in (*task.split("test").take(None), *task.split("train").draw(8, 0, 5)):
        *shown, asked = said(problem)
        assert [role for role, _ in shown] == ["user", "assistant"] * 3
        assert asked not in shown
        assert all(reply.endswith("The answer is " + reply[-2:]) for role, reply in shown if role == "assistant")
    assert task.split("test").take(2)[0].prompt[:6] == task.split("test").take(2)[1].prompt[:6]
    seeds = [gsm8k("few_shot=3", f"few_shot_seed={seed}").split("test").take(1) for seed in (0, 0, 1, 2, 3)]
    assert seeds[0] == seeds[1]
    assert any(seeds[0] != other for other in seeds[2:])


def test_a_system_prompt_stands_before_the_examples(gsm8k):
    (problem, _) = gsm8k("few_shot=1", "system_prompt=Think.").split("test").take(None)
    assert [role for role, _ in said(problem)] == ["system", "user", "assistant", "user"]
    own = Problem("x", (Message(role="system", content="Mine."), user("x?")))
    shown = exemplify(own, [(user("y?"), Message(role="assistant", content="y"))], 1)
    assert [text for _, text in said(shown)] == ["Mine.", "y?", "y", "x?"]


def test_every_task_has_its_first_prompt_and_its_correction_in_the_recipe():
    keys = {name: {field.name for field in fields(kind)} for name, (kind, _) in TASKS.items()}
    assert [name for name, own in keys.items() if not {"prompt", "correction"} <= own] == []


def test_a_prompt_without_a_question_is_filled_by_columns():
    rows = [{"numbers": "7 3 5", "target": 16, "solution": "7*3=21 21-5=16"}, {"prompt": "As it is.", "answer": "so"}]
    task = resolve_task("countdown", [f"few_shot={json.dumps(rows)}", "prompt=Reach {target} by {numbers}."]).build()
    shown = said(task.split("train").draw(1, 0, 0)[0])[:-1]
    assert [text for _, text in shown] == ["Reach 16 by 7 3 5.", "7*3=21 21-5=16", "As it is.", "so"]
    drawn = resolve_task("countdown", ["few_shot=2"]).build().split("test").take(1)[0]
    assert [role for role, _ in said(drawn)] == ["user", "assistant", "user", "assistant", "user"]


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("few_shot=4", "4 examples and a problem to ask are wanted, but the split 'train' .* has 4 different"),
        ("few_shot=-1", "few_shot: should be at least 0 or text or a list, not -1$"),
        ("few_shot=true", "few_shot: should be a whole number or text or a list, not True$"),
        ("few_shot=nowhere.jsonl", "nowhere.jsonl: no such file"),
        ("few_shot=[{answer: 4}]", r"task.few_shot.0: no column 'question', which the task's prompt has a place for"),
        ("few_shot=[{question: x}]", "task.few_shot.0: no column completion, solution, response, answer with the rep"),
        ("few_shot=[{question: x, answer: 1}, {question: x, solution: ''}]", "task.few_shot.1: column 'solution' is"),
        ("few_shot=[{messages: [{role: assistant, content: x}]}]", "task.few_shot.0: the last message is of"),
        ("few_shot=[x]", "few_shot.0: should be a mapping of keys, not 'x'"),
    ],
)
def test_what_is_wrong_with_an_example_is_told(gsm8k, setting, words):
    with pytest.raises(UserError, match=words):
        gsm8k(setting)


def test_tasks_without_solutions_or_with_examples_of_their_own_are_told(tmp_path):
    path = tmp_path / "own.jsonl"
    path.write_text("".join(json.dumps({"problem": f"{n}?", "answer": n}) + "\n" for n in range(9)))
    with pytest.raises(UserError, match="has no reference solution to show; give examples of your own"):
        resolve_task("files", [f"path={path}", "few_shot=2"]).build()
    rows = [{"task_id": n, "text": f"Write f{n}.", "code": f"def f{n}(): return {n}",
             "test_list": [f"assert f{n}() == {n}"]} for n in range(1, 700)]  # fmt: skip
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(UserError, match=r"'mbpp' shows solved problems of its own; set task\.shots=0"):
        resolve_task("mbpp", [f"path={path}", "few_shot=2"]).build()
    shown = [{"question": "Write g.", "tests": "assert g()", "solution": "def g(): return 1"}]
    task = resolve_task("mbpp", [f"path={path}", "shots=0", f"few_shot={json.dumps(shown)}"]).build()
    assert "assert g()" in said(task.split("test").take(1)[0])[0][1]
    assert (
        len(resolve_task("mbpp", [f"path={path}", "shots=0", "few_shot=2"]).build().split("test").take(1)[0].prompt)
        == 5
    )
