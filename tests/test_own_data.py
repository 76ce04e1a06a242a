"""Data of one's own: ids and splits, columns by convention, gold answers that are none, system prompts."""

import json
import warnings

import pytest

from scorl import tasks
from scorl.errors import UserError
from scorl.recipe import resolve_task
from scorl.tasks.data import named_apart
from scorl.trajectory import Problem

SUMS = [{"problem": f"What is {n} + 1?", "answer": str(n + 1)} for n in range(10)]


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


@pytest.fixture
def load(tmp_path):
    """The task `files` of these rows, all of them in the split `all`."""

    def make(rows, **settings):
        return tasks.load("files", **{"path": write(tmp_path / "own.jsonl", rows), **settings})

    return make


def everything(task):
    return task.split("all").take(None)


def test_ids_are_the_rows_own_or_of_what_is_asked_and_never_shared(tmp_path, monkeypatch, load):
    monkeypatch.chdir(tmp_path)
    names = [[p.id for p in everything(load(SUMS, path=path))] for path in ("own.jsonl", "./own.jsonl")]
    assert names[0] == names[1] == [p.id for p in everything(load(SUMS))]
    doubled = everything(load([*SUMS, *SUMS]))
    assert len({p.id for p in doubled}) == 20
    assert [p.id for p in everything(load([{**row, "id": n % 3} for n, row in enumerate(SUMS)]))][:5] == [
        "0",
        "1",
        "2",
        "0#2",
        "1#2",
    ]


def test_programs_of_a_csv_file(tmp_path):
    (tmp_path / "p.csv").write_text('problem,tests\nf,"[""assert f() == 1"", ""assert f()""]"\n', encoding="utf-8")
    problem = tasks.load("programs", test_path=str(tmp_path / "p.csv")).split("test").take(1)[0]
    assert problem.answer.tests == ("assert f() == 1", "assert f()")


def test_a_second_name_is_nobody_elses():
    problems = [Problem(name, ()) for name in ("a", "a#2", "a", "a", "a#2")]
    assert [p.id for p in named_apart(problems)] == ["a", "a#2", "a#3", "a#4", "a#2#2"]


def test_programs_have_ids_of_their_own_too(tmp_path):
    rows = [{"problem": "Write f.", "tests": ["assert f() == 1"], "id": "x"}] * 3
    task = tasks.load("programs", path=write(tmp_path / "p.jsonl", rows), test_path=str(tmp_path / "p.jsonl"))
    assert [p.id for p in everything(task)] == ["x", "x#2", "x#3"]


@pytest.mark.parametrize("gold", [float("nan"), "", "  ", None, "nan", "<NA>", float("inf"), True, [1, 2], {"a": 1}])
@pytest.mark.parametrize("verifier", ["math", "exact"])
def test_a_gold_answer_that_is_none_is_refused_with_its_line(load, gold, verifier):
    with pytest.raises(UserError, match=r"own\.jsonl, line 11: column 'answer' is no answer"):
        load([*SUMS, {"problem": "x", "answer": gold}], verifier=verifier)


def test_whole_numbers_of_a_column_of_floats_are_whole(load):
    rows = [{"problem": str(n), "answer": gold} for n, gold in enumerate([48.0, 2.5, 7, "7.0", ["9"], 10**400])]
    golds = [p.answer for p in everything(load(rows, verifier="exact"))]
    assert golds == ["48", "2.5", "7", "7.0", "9", str(10**400)]


def test_golds_that_are_words_are_counted_and_refused_where_all_are(load):
    proofs = [{"problem": f"Show {n}.", "answer": gold} for n, gold in enumerate(["proof", "see the solution above"])]
    with pytest.warns(UserWarning, match=r"2 of 12 gold answers are words .* line 11: 'proof'"):
        load([*SUMS, *proofs])
    with pytest.raises(UserError, match=r"2 of 2 gold answers are words"):
        load(proofs)
    load(proofs, verifier="exact", test_fraction=0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load([{"problem": "x", "answer": r"\text{all real numbers except } 0"}, {"problem": "y", "answer": "Monday"}])


VERL = [
    {
        "data_source": "own",
        "prompt": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": f"What is {n} + 1?"}],
        "reward_model": {"style": "rule", "ground_truth": str(n + 1)},
    }
    for n in range(4)
]
OPEN_R1 = [{"problem": f"What is {n}/2?", "solution": f"So it is $\\boxed{{\\frac{{{n}}}{{2}}}}$."} for n in (3, 5, 7)]
SHAREGPT = [
    {"conversations": [{"from": "human", "value": f"{n}?"}, {"from": "gpt", "value": f"The answer is {n}."}]}
    for n in range(4)
]
PARTS = [{"messages": [{"role": "user", "content": [{"type": "text", "text": str(n)}]}], "answer": n} for n in range(4)]


@pytest.mark.parametrize(
    ("rows", "settings", "asked", "right"),
    [
        (VERL, {}, ["Be brief.", "What is 0 + 1?"], "1"),
        (VERL, {"answer": "reward_model.ground_truth"}, ["Be brief.", "What is 0 + 1?"], "1"),
        (OPEN_R1, {}, ["What is 3/2?"], "1.5"),
        (SHAREGPT, {"verifier": "exact"}, ["0?"], "The answer is 0."),
        (PARTS, {}, ["0"], "0"),
        ([{**row, "prompt": json.dumps(row["prompt"])} for row in VERL], {}, ["Be brief.", "What is 0 + 1?"], "1"),
        ([{**row, "prompt": str(row["prompt"])} for row in VERL], {}, ["Be brief.", "What is 0 + 1?"], "1"),
        ([{**row, "reward_model": str(row["reward_model"])} for row in VERL], {}, ["Be brief.", "What is 0 + 1?"], "1"),
        ([{"prompt": json.dumps(row["prompt"][1]), "answer": 1} for row in VERL], {}, ["What is 0 + 1?"], "1"),
    ],
)
@pytest.mark.filterwarnings("ignore:task 'files'. the gold answers are those of the column")
def test_rows_of_other_tools(load, rows, settings, asked, right):
    task = load(rows, **settings)
    problem = everything(task)[0]
    assert [message["content"] for message in problem.prompt] == asked
    assert [task.judge([(problem, text)])[0].reward for text in (right, "77")] == [1, 0]


def test_the_column_of_gold_answers_that_was_found_is_said(load):
    with pytest.warns(UserWarning, match=r"the gold answers are those of the column 'reward_model\.ground_truth'"):
        load(VERL)


def test_the_assistants_last_message_is_the_reference_solution(load):
    problem = everything(load(SHAREGPT))[0]
    assert (problem.solution, problem.prompt[-1]["role"]) == ("The answer is 0.", "user")


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ([], "a problem is a text or chat messages"),
        (None, "a problem is a text or chat messages"),
        (" ", "column 'prompt': the problem is blank"),
        ([{"role": "user"}], "chat messages like .* are wanted, not "),
        ([{"role": "user", "content": [{"type": "image"}]}], "chat messages like .* are wanted, not "),
        ("array([{'role': 'user', 'content': 'x'}], dtype=object)", "chat messages like .* are wanted, not "),
        ('[{"role": "user", "content": "cut', "chat messages like .* are wanted, not "),
        ([{"role": "assistant", "content": "x"}], "the last message is of 'assistant'"),
        ([{"role": "system", "content": "x"}], "the last message is of 'system'"),
    ],
)
def test_messages_of_another_form_are_named(load, prompt, said):
    with pytest.raises(UserError, match=f"line 1: {said}"):
        load([{"prompt": prompt, "answer": 1}])


def test_test_problems_alone_and_all_of_a_file(tmp_path, load):
    path = write(tmp_path / "test.jsonl", SUMS)
    alone = tasks.load("files", test_path=path)
    assert len(alone.split("test").take(None)) == len(everything(alone)) == 10
    with pytest.raises(UserError, match="path: is missing"):
        alone.split("train").draw(1, 0, 0)
    assert len(everything(load(SUMS))) == 10
    for name in ("files", "programs"):
        with pytest.raises(UserError, match=f"task '{name}': path: is missing"):
            tasks.load(name)


def test_one_row_is_enough_to_be_evaluated_on(load):
    task = load(SUMS[:1])
    assert len(everything(task)) == 1
    for name in ("train", "test"):
        with pytest.raises(UserError, match=r"too few different problems \(1 rows\).*test_path=.*--split all"):
            task.split(name).take(None)
        with pytest.raises(UserError, match="too few"):
            task.split(name).draw(1, 0, 0)


def test_solutions_are_texts_or_what_the_assistant_says(load):
    rows = [{"prompt": f"{n}?", "answer": n, "completion": [{"role": "assistant", "content": "So."}]} for n in (1, 2)]
    assert {p.solution for p in everything(load(rows, solution="completion"))} == {"So."}
    with pytest.raises(UserError, match="line 1: column 'completion' is no solution"):
        load([{"prompt": "1?", "answer": 1, "completion": None}], solution="completion")


@pytest.mark.parametrize("gold", [float("nan"), float("inf")])
def test_other_tasks_refuse_missing_answers_too(tmp_path, gold):
    path = write(tmp_path / "own.jsonl", [{"question": "x", "problem": "x", "solution": "y", "answer": gold}])
    with pytest.raises(UserError, match=r"line 1: the answer .* is not a number"):
        tasks.load("svamp", path=path)
    with pytest.raises(UserError, match="line 1: column 'answer' is no answer"):
        tasks.load("math", path=path, test_path=path)


def test_math_takes_numbers_and_says_what_it_leaves_out(tmp_path):
    rows = [{"problem": "x mod 2?", "solution": "s", "answer": n} for n in (0, 1.0, "0")]
    rows += [{"problem": "no solution", "answer": "7"}, {"problem": "no answer", "solution": "It is 3."}]
    train = write(tmp_path / "train.jsonl", [{"problem": "y", "solution": "\\boxed{2}"}])
    with pytest.warns(UserWarning, match=r"1 of 5 rows have no answer and are left out, the first is .*line 5"):
        task = tasks.load("math", path=train, test_path=write(tmp_path / "test.jsonl", rows))
    problems = task.split("test").take(None)
    assert [p.answer for p in problems] == ["0", "1", "0", "7"]
    assert len({p.id for p in problems}) == 4


def test_a_folder_has_its_own_test_problems(tmp_path):
    write(tmp_path / "train.jsonl", SUMS[:7])
    write(tmp_path / "test.jsonl", SUMS[7:])
    task = tasks.load("files", path=str(tmp_path))
    assert len(tasks.load("files", test_path=str(tmp_path)).split("test").take(None)) == 3
    with pytest.warns(UserWarning, match="3 of 3 test problems are trained on as well"):
        tasks.load("files", path=write(tmp_path / "whole.jsonl", SUMS), test_path=str(tmp_path / "test.jsonl"))
    assert [len(task.split(name).take(None)) for name in ("train", "test", "all")] == [7, 3, 7]


def test_a_system_prompt_stands_before_every_problem_without_one(tmp_path):
    rows = [*VERL, {"prompt": [{"role": "user", "content": "9 + 1?"}], "reward_model": {"ground_truth": "10"}}]
    path = write(tmp_path / "own.jsonl", rows)
    settings = [f"path={path}", "answer=reward_model.ground_truth", "system_prompt=Think."]
    plain = resolve_task("files", settings[:-1]).build()
    said = resolve_task("files", settings).build()
    before = [p.prompt[0]["content"] for p in everything(said)]
    assert before == ["Be brief."] * 4 + ["Think."]
    assert [p.id for p in everything(said)] == [p.id for p in everything(plain)]
    drawn = resolve_task("countdown", ["system_prompt=Think."]).build().split("train").draw(3, 0, 0)
    assert {p.prompt[0]["role"] for p in drawn} == {"system"}


def test_a_prompt_on_the_command_line_may_begin_with_its_place(tmp_path):
    path = write(tmp_path / "own.jsonl", SUMS)
    for prompt in ("{question} Think: step by step.", "{question}", "Q: {question}", "Q: {question}\nA: one [number]"):
        task = resolve_task("files", [f"path={path}", f"task.prompt={prompt}"]).build()
        assert everything(task)[0].prompt[0]["content"] == prompt.replace("{question}", "What is 0 + 1?")
