"""The tasks of mathematics and files: splits share nothing, solutions are right, mistakes are named."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.outside import find_data

from scorl import tasks
from scorl.errors import UserError
from scorl.recipe import TaskChoice
from scorl.tasks.data import Finite, split_by_hash
from scorl.tasks.files import Files, files
from scorl.tasks.grade_school import Gsm8k, Svamp, gsm8k, parse_infix, parse_prefix, svamp, write_steps
from scorl.tasks.math import Math, math
from scorl.tasks.sources import load_hub_rows
from scorl.tasks.task import Problems
from scorl.tasks.word_problems import KINDS, WordProblems, WordProblemSplit, word_problems
from scorl.trajectory import Problem, user


def write(path: Path, *rows: Any) -> str:
    """Rows as JSONL; a string is a line as it is."""
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path)


def numbered(count: int) -> list[Problem]:
    return [Problem(str(index), (user(f"question {index}"),)) for index in range(count)]


def contents(problems: Problems) -> set[str]:
    return {problem.prompt[0]["content"] for problem in problems.take(None)}


@given(st.integers(1, 12), st.integers(0, 40), st.integers(0, 30), st.integers(0, 3))
def test_a_finite_split_gives_every_problem_once_an_epoch(size: int, start: int, count: int, seed: int) -> None:
    split = Finite(numbered(size))
    whole = split.draw(start + count, 0, seed)
    assert split.draw(count, start, seed) == whole[start:]
    epoch = split.draw(size, 2 * size, seed)
    assert Counter(problem.id for problem in epoch) == Counter(str(index) for index in range(size))


def test_epochs_and_seeds_differ_in_order() -> None:
    split = Finite(numbered(20))
    orders = [tuple(p.id for p in split.draw(20, start, seed)) for start, seed in ((0, 0), (20, 0), (0, 1))]
    assert len(set(orders)) == 3
    assert [problem.id for problem in split.take(3)] == ["0", "1", "2"]


def test_splits_by_hash_do_not_depend_on_the_order_of_the_rows() -> None:
    problems = numbered(50)
    one, other = split_by_hash(problems, (30, 20)), split_by_hash(problems[::-1], (30, 20))
    assert one == other
    assert len({problem.id for part in one for problem in part}) == 50


@pytest.mark.parametrize("kind", KINDS)
def test_word_problems_have_right_solutions(kind: str) -> None:
    task = word_problems(WordProblems(kinds=(kind,)))
    problems = task.split("train").draw(100, 0, seed=0)
    assert {verdict.outcome for verdict in task.judge([(p, str(p.solution)) for p in problems])} == {"correct"}
    for problem in problems:
        *worked, last = str(problem.solution).split(". ")
        assert last == f"The answer is {problem.answer}."
        for step in worked:
            left, right = step.split(" = ")
            assert eval(left) == int(right) > 0
        assert len(worked) == (2 if kind == "two-step" else 1)


@pytest.mark.parametrize("kind", KINDS)
def test_word_problems_of_different_splits_share_no_core(kind: str) -> None:
    task = word_problems(WordProblems(kinds=(kind,)))
    cores: dict[str, set[str]] = {}
    for name, split in task.splits.items():
        assert isinstance(split, WordProblemSplit)
        cores[name] = {split.choose("draw", seed, index).core for seed in (0, 1) for index in range(200)}
    assert not cores["train"] & cores["test"]
    assert not cores["train"] & cores["validation"]
    assert not cores["validation"] & cores["test"]


def test_word_problems_are_a_pure_function_of_seed_and_number() -> None:
    split = word_problems().split("train")
    assert split.draw(5, 3, 7) == split.draw(8, 0, 7)[3:]
    assert split.draw(5, 0, 7) != split.draw(5, 0, 8)
    test = word_problems(WordProblems(kinds=("products",))).split("test")
    taken = test.take(None)
    assert test.take(50) == taken[:50]
    assert len({problem.id for problem in taken}) == len(taken) == 240  # all that there are


def test_the_problems_of_the_published_runs() -> None:
    """docs/results/smollm2-products.json names them; the seeds of this task must not move."""
    test = word_problems(WordProblems(kinds=("products",))).split("test")
    published = json.loads((Path(__file__).parents[1] / "docs/results/smollm2-products.json").read_text())
    assert list(published["test"]["outcomes"]) == [problem.id for problem in test.take(200)]


def test_settings_of_word_problems() -> None:
    with pytest.raises(UserError, match="did you mean 'products'"):
        WordProblems(kinds=("product",))
    with pytest.raises(UserError, match="does not contain"):
        word_problems(WordProblems(prompt="Go!")).split("train").draw(1, 0, 0)
    task = word_problems(WordProblems(prompt="Q: {question}", correction="Again."))
    assert task.split("test").take(1)[0].prompt[0]["content"].startswith("Q: ")
    assert task.correction == "Again."


def gsm8k_row(number: int) -> dict[str, str]:
    answer = f"Two times {number} is 2*{number}=<<2*{number}={2 * number}>>{2 * number} cups.\n#### {2 * number:,}"
    return {"question": f"A pot fills {number} cups. How many cups do two pots fill?", "answer": answer}


def test_gsm8k_from_a_folder(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", *map(gsm8k_row, range(600, 603)))
    write(tmp_path / "test.jsonl", *map(gsm8k_row, range(5)))
    task = gsm8k(Gsm8k(path=str(tmp_path)))
    first = task.split("train").take(1)[0]
    assert first.answer == "1200"
    assert first.solution == "Two times 600 is 2*600=1200 cups.\nThe answer is 1200."
    assert task.judge([(first, "We get 1,200.00 cups."), (first, "1,201")])[0].reward == 1
    assert len(task.split("test").take(None)) == 5


def test_gsm8k_from_one_file(tmp_path: Path) -> None:
    task = gsm8k(Gsm8k(path=write(tmp_path / "all.jsonl", *map(gsm8k_row, range(20)))))
    train, test = contents(task.split("train")), contents(task.split("test"))
    assert (len(train), len(test), train & test) == (16, 4, set())
    bad = write(tmp_path / "bad.jsonl", gsm8k_row(1), {"question": "?", "answer": "12"})
    with pytest.raises(UserError, match="line 2: the answer does not end in '#### N'"):
        gsm8k(Gsm8k(path=bad))


def svamp_row(number: int) -> dict[str, Any]:
    equation, answer = f"- + {number} 6 4", number + 2
    return {"id": f"s{number}", "question": f"box {number}?", "answer": answer, "equation_prefix": equation}


def program_row(number: int) -> dict[str, Any]:
    return {"problem": f"Add {number}.", "tests": [f"assert f(1) == {number + 1}"]}


def own_row(number: int) -> dict[str, Any]:
    return {"question": f"What is {number} + 1?", "answer": str(number + 1)}


@pytest.mark.parametrize(
    ("name", "row"), [("svamp", svamp_row), ("gsm8k", gsm8k_row), ("files", own_row), ("programs", program_row)]
)
def test_another_prompt_leaves_the_splits_alone(tmp_path: Path, name: str, row: Callable[[int], Any]) -> None:
    """Else a model would be tested on what it was trained on with another prompt."""
    path = str(write(tmp_path / "own.jsonl", *map(row, range(100))))
    one, other = tasks.load(name, path=path), tasks.load(name, path=path, prompt="{question} In one word.")
    for split in one.splits:
        assert [p.id for p in one.split(split).take(100)] == [p.id for p in other.split(split).take(100)]
    assert one.split("test").take(1)[0].prompt != other.split("test").take(1)[0].prompt


def test_an_own_tasks_splits_are_those_of_its_default_prompt(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(
        "from dataclasses import dataclass\n\n@dataclass(frozen=True)\nclass Own:\n"
        "    prompt: str = 'Solve: {question}'\n\n    def problems(self):\n"
        "        return [{'problem': f'{n} + 1', 'answer': str(n + 1)} for n in range(50)]\n"
    )
    task, other = (tasks.load(f"{tmp_path}/own.py:Own", **more) for more in ({}, {"prompt": "{question}?"}))
    test = task.split("test").take(50)
    assert [p.id for p in test] == [p.id for p in other.split("test").take(50)]
    everything = [replace(p, split_key=None) for p in task.split("all").take(50)]
    assert [p.id for p in test] == [p.id for p in split_by_hash(everything, (45, 5))[1]]


def test_svamp_is_split_by_hash(tmp_path: Path) -> None:
    path = write(tmp_path / "svamp.jsonl", *map(svamp_row, range(100)))
    task = svamp(Svamp(path=str(tmp_path)))
    sizes = {name: len(split.take(None)) for name, split in task.splits.items()}
    assert sizes == {"train": 70, "validation": 10, "test": 20}
    assert len(set().union(*map(contents, task.splits.values()))) == 100
    problem = next(p for p in task.split("train").take(None) if p.id == "s9")
    assert (problem.answer, problem.solution) == ("11", "9 + 6 = 15. 15 - 4 = 11. The answer is 11.")
    again = svamp(Svamp(path=path))
    assert again.split("test").take(None) == task.split("test").take(None)


@pytest.mark.parametrize(
    ("prefix", "infix", "worked"),
    [
        ("- 18 10", "( 18.0 - 10.0 )", ["18 - 10 = 8."]),
        ("- 264 * 15 11", "( 264.0 - ( 15.0 * 11.0 ) )", ["15 * 11 = 165.", "264 - 165 = 99."]),
        ("* + 6 7 5", "( ( 6.0 + 7.0 ) * 5.0 )", ["6 + 7 = 13.", "13 * 5 = 65."]),
        ("/ 7 2", "( 7.0 / 2.0 )", ["7 / 2 = 3.5."]),
        ("8", "8.0", []),
    ],
)
def test_equations_become_steps(prefix: str, infix: str, worked: list[str]) -> None:
    assert write_steps(parse_prefix(prefix, "here")) == write_steps(parse_infix(infix, "here")) == worked


def test_equations_of_another_form_are_named() -> None:
    with pytest.raises(UserError, match="here: equation_prefix"):
        parse_prefix("- 18", "here")
    with pytest.raises(UserError, match="here: equation"):
        parse_infix("import os", "here")


def math_row(name: str, question: str, box: str, **more: Any) -> dict[str, Any]:
    solution = f"We think. \\boxed{{no}} Rather, it is $\\boxed{{{box}}}$."
    return {"problem": question, "solution": solution, "unique_id": name, **more}


def test_math_keeps_math500_out_of_training(tmp_path: Path) -> None:
    write(tmp_path / "test.jsonl", math_row("a/1", "q1", "1", answer="1", level=2, subject="Algebra"))
    write(
        tmp_path / "train.jsonl",
        math_row("a/1", "q1", "1"),
        math_row("b/9", "q1", "1"),
        math_row("a/2", "q2", r"\frac{1}{\sqrt{2}}", level=None),
        math_row("number_theory/7115", "q3", ""),
    )
    task = math(Math(path=str(tmp_path)))
    assert [problem.id for problem in task.split("train").take(None)] == ["a/2"]
    problem = task.split("train").take(None)[0]
    assert (problem.answer, problem.columns) == (r"\frac{1}{\sqrt{2}}", {})
    assert task.split("test").take(None)[0].columns == {"level": 2, "subject": "Algebra"}
    assert "\\boxed{}" in problem.prompt[0]["content"]
    one_file = math(Math(path=str(tmp_path / "train.jsonl"), test_path=str(tmp_path / "test.jsonl")))
    assert one_file.splits == task.splits


def test_math_names_what_is_missing(tmp_path: Path) -> None:
    path = write(tmp_path / "train.jsonl", math_row("a/1", "q1", "1"))
    with pytest.raises(UserError, match=r"test_path=\.\.\."):
        math(Math(path=path))
    with pytest.raises(UserError, match=r"test\.jsonl: no such file"):
        math(Math(path=str(tmp_path)))
    with pytest.raises(UserError, match="nothing is left"):
        math(Math(path=path, test_path=path))


def test_the_hub_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(UserError, match=r"scorl\[hub\].*path="):
        load_hub_rows("openai/gsm8k", "main", "train")


def test_files_guesses_the_problem_column_and_splits(tmp_path: Path) -> None:
    rows = [{"question": f"What is {n} + 1?", "answer": n + 1, "source": "own"} for n in range(30)]
    task = files(Files(path=write(tmp_path / "own.jsonl", *rows), test_fraction=0.2, prompt="{question} Think."))
    train, test = contents(task.split("train")), contents(task.split("test"))
    assert (len(train), len(test), train & test) == (24, 6, set())
    problem = task.split("train").take(1)[0]
    assert problem.prompt[0]["content"].endswith("? Think.")
    assert task.judge([(problem, f"It is {problem.answer}.0")])[0].reward == 1
    assert problem.columns["source"] == "own"


def test_files_never_has_one_prompt_on_both_sides(tmp_path: Path) -> None:
    rows = [{"prompt": f"question {n % 4}", "answer": "1"} for n in range(40)]
    task = files(Files(path=write(tmp_path / "own.jsonl", *rows), test_fraction=0.3))
    assert not contents(task.split("train")) & contents(task.split("test"))


def test_files_reads_parquet_and_chat_messages(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    import pyarrow as pa
    import pyarrow.parquet as pq

    prompts = [[{"role": "system", "content": "Be brief."}, {"role": "user", "content": f"Say {n}."}] for n in "ab"]
    pq.write_table(pa.table({"prompt": prompts, "answer": ["a", "b"]}), tmp_path / "own.parquet")
    path = str(tmp_path / "own.parquet")
    task = files(Files(path=path, test_path=path, verifier="exact"))
    problem = task.split("train").take(1)[0]
    assert [message["role"] for message in problem.prompt] == ["system", "user"]
    assert [v.reward for v in task.judge([(problem, " a\n"), (problem, "A"), (problem, "The answer is a")])] == [
        1,
        0,
        1,
    ]


REWARDS = """
def by_length(prompts, completions, answer, **columns):
    assert all(isinstance(prompt, str) for prompt in prompts), prompts
    assert columns["level"] == [1, None][: len(prompts)], columns
    return [float(len(text) == wanted) for text, wanted in zip(completions, answer)]

def chat(prompts, completions, **columns):
    texts = [entry[0]["content"] for entry in completions]
    return [None if text == "?" else len(prompt) / 2 for prompt, text in zip(prompts, texts)]

def short(prompts, completions, **columns):
    return []
"""


def test_reward_functions_have_trls_signature(tmp_path: Path) -> None:
    (tmp_path / "rewards.py").write_text(REWARDS, encoding="utf-8")
    rows = {"prompt": "a", "answer": 3, "level": 1}, {"prompt": "b", "answer": 2}
    path = write(tmp_path / "own.jsonl", *rows)
    task = files(Files(path=path, test_path=path, verifier=f"{tmp_path}/rewards.py:by_length"))
    first, second = task.split("train").take(None)
    verdicts = task.judge([(first, "abc"), (second, "abc")])
    assert [(v.reward, v.outcome, v.answer) for v in verdicts] == [
        (1, "correct", "abc"),
        (0, "incorrect", "abc"),
    ]
    broken = files(Files(path=path, test_path=path, verifier=f"{tmp_path}/rewards.py:short"))
    with pytest.raises(UserError, match="returned 0 rewards for 1 completions"):
        broken.judge([(first, "abc")])


def test_reward_functions_see_chat_messages(tmp_path: Path) -> None:
    (tmp_path / "rewards.py").write_text(REWARDS, encoding="utf-8")
    path = write(tmp_path / "own.jsonl", {"prompt": [{"role": "user", "content": "Say it."}]})
    task = files(Files(path=path, test_path=path, verifier=f"{tmp_path}/rewards.py:chat"))
    problem = task.split("test").take(1)[0]
    verdicts = task.judge([(problem, "?"), (problem, "!")])
    assert [verdict.reward for verdict in verdicts] == [0.0, 0.5]


@pytest.mark.parametrize(
    ("lines", "settings", "message"),
    [
        ([{"prompt": "a", "answer": "1"}] * 6 + ['{"prompt": '], {}, "own.jsonl, line 7: not valid JSON"),
        (
            [{"text": "a", "answer": "1"}],
            {},
            "line 1: no column problem, prompt, question.*columns are: text, answer",
        ),
        ([{"prompt": "a"}], {}, "line 1: no column 'answer'; the columns are: prompt"),
        ([{"prompt": "a", "answer": None}], {}, "line 1: column 'answer' is no answer"),
        (
            [{"prompt": "a", "answer": 1}, {"prompt": [], "answer": 1}],
            {},
            "line 2: a problem is a text or chat messages",
        ),
        ([{"prompt": [{"role": "assistant", "content": "x"}], "answer": 1}], {}, "line 1: the last message"),
        ([], {}, "the file has no rows"),
        ([{"prompt": "a", "answer": "1"}], {"verifier": "maths"}, "did you mean 'math'"),
        ([{"prompt": "a", "answer": "1"}], {"verifier": "no_such_module:f"}, "no such module"),
        ([{"prompt": "a", "answer": "1"}], {"verifier": "json:dump_it"}, "did you mean 'dumps?'"),
        ([{"prompt": "a", "answer": "1"}], {"test_fraction": 1.5}, "less than 1"),
    ],
)
def test_mistakes_in_files_are_named(tmp_path: Path, lines: list[Any], settings: dict[str, Any], message: str) -> None:
    path = write(tmp_path / "own.jsonl", *lines)
    if "verifier" in settings:
        settings = {**settings, "test_path": path}
    with pytest.raises(UserError, match=message):
        tasks.load("files", path=path, **settings)


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        files(Files(path=str(tmp_path / "none.jsonl")))
    write(tmp_path / "a.jsonl", {})
    write(tmp_path / "b.jsonl", {})
    with pytest.raises(UserError, match=r"a folder .*; name one of its files: a\.jsonl, b\.jsonl"):
        files(Files(path=str(tmp_path)))
    (tmp_path / "bad.parquet").write_bytes(b"no parquet")
    pytest.importorskip("pyarrow")
    with pytest.raises(UserError, match="not a readable Parquet file"):
        files(Files(path=str(tmp_path / "bad.parquet")))


def test_the_real_files() -> None:
    task = svamp(Svamp(path=str(find_data("svamp"))))
    assert [len(task.split(name).take(None)) for name in ("train", "validation", "test")] == [700, 100, 200]
    problems = task.split("test").take(None)
    assert all(verdict.reward for verdict in task.judge([(p, str(p.solution)) for p in problems]))
    test = gsm8k(Gsm8k(path=str(find_data("gsm8k")))).split("test").take(None)
    assert len(test) == 1319
    assert all(verdict.reward for verdict in task.judge([(p, str(p.solution)) for p in test]))


def test_a_row_without_a_solution_is_left_out(tmp_path: Path) -> None:
    good = {"problem": "1 + 1?", "solution": "\\boxed{2}"}
    rows = [good, {"problem": "2?", "solution": ""}, {"problem": "3?", "solution": None}]
    path = write(tmp_path / "math.jsonl", *rows)
    other = write(tmp_path / "test.jsonl", {**good, "problem": "Another?"})
    with pytest.warns(UserWarning, match="2 of 3 rows have no answer"):
        assert len(math(Math(path=path, test_path=other)).split("train").take(9)) == 1


def test_gold_answers_that_are_no_numbers_are_named(tmp_path: Path) -> None:
    golds = ["5", "$1,000$", "#### 3", "x^2"]
    path = write(tmp_path / "own.jsonl", *({"question": f"{n}?", "answer": gold} for n, gold in enumerate(golds)))
    with pytest.warns(UserWarning, match=r"1 of 4 gold answers are no plain numbers.*line 4: 'x\^2'"):
        files(Files(path=path, verifier="number", test_fraction=0.5))
    bad = write(tmp_path / "bad.jsonl", gsm8k_row(1), {"question": "?", "answer": "so #### none"})
    with pytest.raises(UserError, match="line 2: the answer does not end in '#### N'"):
        gsm8k(Gsm8k(path=bad))


def test_one_odd_first_row_does_not_name_the_columns(tmp_path: Path) -> None:
    rows = [{"question": "1?", "answer": "1"}, *({"problem": f"{n}?", "answer": str(n)} for n in range(30))]
    path = write(tmp_path / "own.jsonl", *rows)
    with pytest.warns(UserWarning, match="1 row is left out"):
        task = TaskChoice("files", on_error="skip", settings=Files(path=path)).build()
    assert len(task.split("all").take(99)) == 30
    asked = TaskChoice("files", few_shot=2, on_error="skip", settings=Files(path=path, solution="answer"))
    with pytest.warns(UserWarning, match="1 row is left out"):
        assert len(asked.pose("What is 2 + 2?").prompt) == 5
