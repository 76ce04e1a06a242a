"""No mistake in writing ends in a traceback: a short run of `make test-fuzz`, and what long ones found."""

import gzip
import json
import re
import struct
import time
import warnings

import fuzz
import pytest
from support.mutations import RAW, TASKS

from scorl.cli.output import speak_plainly
from scorl.errors import UserError
from scorl.recipe import resolve, resolve_task
from scorl.recipe.source import parse
from scorl.rollout import judge
from scorl.tasks import Task
from scorl.text_files import as_message
from scorl.trajectory import Problem, Response, Trajectory, Verdict

COUNTS = {"recipes": 60, "data": 80, "answers": 40}


@pytest.mark.parametrize("kind", fuzz.KINDS)
def test_what_is_mutated_is_refused_in_a_sentence_or_taken(kind, tmp_path):
    with fuzz.a_place_to_try(tmp_path):
        sorts, faults = fuzz.fuzz(kind, COUNTS[kind], seed=0)
    assert sorts.total() == COUNTS[kind]
    assert not faults


def test_the_harness_sees_tracebacks_hangs_and_silence(monkeypatch):
    def fail(arguments):
        raise KeyError("x")

    def hang(arguments):
        while True:
            pass

    def wait(arguments):
        time.sleep(300)

    monkeypatch.setattr(fuzz, "SECONDS", 0.2)
    for main, code, seconds in ((fail, -1, 600), (hang, -2, 600), (wait, -2, 0.2)):
        monkeypatch.setattr(fuzz, "WAIT", seconds)
        monkeypatch.setattr(fuzz, "main", main)
        assert fuzz.run_command([])[0] == code
    wrong = ((1, "x"), (2, ""), (2, "\x1b[2J"), (2, "so\n" + "x" * 1001))
    right = ((2, "so"), (2, "so\n" + "x" * 1000), (0, ""))
    assert [bool(fuzz.find_fault(*ended)) for ended in (*wrong, *right)] == [True] * 4 + [False] * 3


@pytest.mark.parametrize("length", [1000, 1001, 1003, 1004, 5000])
def test_no_line_of_a_message_is_longer_than_a_thousand(length):
    message = as_message(f"first\n{'x' * length}\nlast")
    assert message == f"first\n{'x' * length if length == 1000 else 'x' * 996 + ' ...'}\nlast"
    speak_plainly()
    assert len(warnings.formatwarning("x" * length, UserWarning, "", 0)) == 1001


@pytest.mark.parametrize("name", RAW)
def test_odd_yaml_is_plain_values_or_refused(name):
    told = ""
    try:
        json.dumps(parse(f"a: {RAW[name]}\n", "it"), allow_nan=False).encode()
    except UserError as error:
        told = str(error)
    assert len(told) < 500


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["stages.0.problems=1000000000000000000000000000000"], "problems: should be at most 1,000,000"),
        (["evaluation.problems=1000001"], "at most 1,000,000"),
        (["stages.0.steps=1000000000000000000000000000000"], "steps: should be at most 1,000,000"),
        (["engine.temperature=1e30"], "temperature: should be at most 100"),
        (["engine.temperature=1e-30"], "greedy samples of a problem are all alike"),
        (["learner.learning_rate=1e30"], "learning_rate: should be at most 10"),
        (["model.lora.r=1000000000000"], "r: should be at most 65,536"),
        (["stages.0.objective=[x]"], "stages.0.objective"),
        (["stages.0.objective={a: 1}"], "stages.0.objective"),
        (["task.name=[x]"], "task.name"),
        (["task.name={a: 1}"], "task.name"),
        (["learner.betas=[1.0, 1.0]"], "adam_beta1: should be less than 1"),
        (["stages.²=1"], "'²' is no place in a list"),
        (["seed=!!int x"], "this is no int: 'x'"),
        ([f"seed={'1' * 5000}"], "this is no int"),
        (["task.system_prompt=\udcff"], "half a character"),
        ([f"model.path={'x' * 5000}", "seed=x"], "seed: should be"),
    ],
)
def test_what_a_fuzzer_found_is_told(overrides, words):
    with pytest.raises(UserError, match=words) as told:
        resolve("countdown", overrides)
    assert len(str(told.value)) < 1000


@pytest.mark.parametrize("extends", ["x" * 300, "~no-such-user/x", "a\0b"])
def test_what_no_file_can_be_called(tmp_path, extends):
    (tmp_path / "mine.yaml").write_text(json.dumps({"extends": extends}))
    with pytest.raises(UserError, match="cannot be a path"):
        resolve(tmp_path / "mine.yaml")


def load(task, path, **settings):
    more = {"math": {"test_path": str(path.parent / "good.jsonl")}, "mbpp": {"shots": 0}}.get(task, {})
    choice = resolve_task(task, [f"{key}={value}" for key, value in {"path": path, **more, **settings}.items()])
    return choice.build()


def count_problems(task):
    return sum(len(task.split(name).take(None)) for name in task.splits if name != "all")


@pytest.fixture
def rows_of(tmp_path):
    """A file of a task's rows, three of which are bad: empty, a list in the place of a text, and no JSON."""

    def write(task):
        lines = [json.dumps(TASKS[task](n)) for n in range(20)]
        first = next(iter(TASKS[task](0)))
        lines[4:7] = ["{}", json.dumps({**TASKS[task](5), first: ["x"]}), '{"cut": ']
        (tmp_path / "good.jsonl").write_text("".join(json.dumps(TASKS[task](n)) + "\n" for n in range(30, 33)))
        (tmp_path / "data.jsonl").write_text("\n".join(lines))
        return tmp_path / "data.jsonl"

    return write


@pytest.mark.parametrize("task", TASKS)
def test_bad_rows_end_the_command_with_their_line_or_are_left_out_and_counted(task, rows_of):
    path = rows_of(task)
    with pytest.raises(UserError, match=r"data\.jsonl, line 7: not valid JSON"):
        load(task, path)
    with pytest.warns(UserWarning, match=rf"'{re.escape(task)}': 3 rows are left out .*, the first: .*line 7"):
        there = load(task, path, on_error="skip")
    assert count_problems(there) == (20 if task == "math" else 17)


@pytest.mark.parametrize("line", ["{}", "x"])
def test_where_all_rows_are_bad_nothing_is_left_to_skip(tmp_path, line):
    (tmp_path / "data.jsonl").write_text(f"{line}\n" * 3)
    with pytest.raises(UserError, match="line 1"):
        load("files", tmp_path / "data.jsonl", on_error="skip")


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ('"\\ud800"', "line 2: this is not UTF-8, for it holds half a character"),
        ("[" * 3000 + "]" * 3000, "line 2: nested too deeply"),
        ("1" * 5000, "line 2: a number of more than 4,300 digits"),
        ("null", "line 2: a problem is a text or chat messages"),
    ],
)
def test_values_that_nothing_can_hold_are_named_by_their_line(tmp_path, value, said):
    good = json.dumps(TASKS["files"](1))
    (tmp_path / "data.jsonl").write_text(f'{good}\n{{"problem": {value}, "answer": 1}}\n')
    with pytest.raises(UserError, match=said):
        load("files", tmp_path / "data.jsonl")


@pytest.mark.parametrize("kept", [5, 30, -9, -3])
def test_damaged_gzip(tmp_path, kept):
    packed = gzip.compress("".join(json.dumps(TASKS["files"](n)) + "\n" for n in range(50)).encode())
    (tmp_path / "data.jsonl.gz").write_bytes(packed[:kept])
    with pytest.raises(UserError, match=r"data\.jsonl\.gz: cannot be read"):
        load("files", tmp_path / "data.jsonl.gz")


def test_an_arrow_file_whose_texts_lead_out_of_it(tmp_path):
    """pyarrow itself would end the process by a segmentation fault."""
    pa = pytest.importorskip("pyarrow")
    table = pa.table({"problem": ["abc", "def", "ghi"], "answer": [1, 2, 3]})
    with pa.ipc.new_file(tmp_path / "data.arrow", table.schema) as writer:
        writer.write_table(table)
    data, offsets = (tmp_path / "data.arrow").read_bytes(), struct.pack("<4i", 0, 3, 6, 9)
    assert offsets in data
    (tmp_path / "data.arrow").write_bytes(data.replace(offsets, struct.pack("<4i", 0, 3, 2**30, 9)))
    with pytest.raises(UserError, match=r"data\.arrow: not a readable Arrow file"):
        load("files", tmp_path / "data.arrow")


@pytest.mark.parametrize("task", ["files", "math", "svamp", "programs", "humaneval", "humaneval+", "mbpp+"])
def test_no_two_problems_share_an_id(tmp_path, task):
    rows = [TASKS[task](n) for n in range(10)]
    (tmp_path / "good.jsonl").write_text(json.dumps(TASKS[task](30)))
    name = next(key for key in ("id", "unique_id", "task_id") if key in rows[0])
    (tmp_path / "data.jsonl").write_text("".join(json.dumps({**row, name: rows[0][name]}) + "\n" for row in rows))
    there = load(task, tmp_path / "data.jsonl")
    ids = [problem.id for split in there.splits if split != "all" for problem in there.split(split).take(None)]
    assert len(set(ids)) == len(ids) >= 10


def test_a_task_id_of_mbpp_stands_once(tmp_path):
    (tmp_path / "data.jsonl").write_text((json.dumps(TASKS["mbpp"](0)) + "\n") * 2)
    with pytest.raises(UserError, match=r"line 2: task_id 11 stands here twice, first in .*line 1"):
        load("mbpp", tmp_path / "data.jsonl")


@pytest.mark.parametrize(
    ("verdicts", "said"),
    [
        ([Verdict(None, "correct")], "reward for an attempt at problem p is None; a reward is a finite number"),
        ([Verdict("1", "correct")], "reward for an attempt at problem p is '1'"),
        ([Verdict(10**400, "correct")], "reward for an attempt at problem p is 1000"),
        ([Verdict(10**5000, "correct")], "reward for an attempt at problem p is too large"),
        ([1.0], r"the judge gave 1.0 for an attempt at problem p; it should return a Verdict, as in Verdict\(1\.0"),
        (None, "the judge gave None; it should return a list with a Verdict on each attempt"),
        ([Verdict(float("nan"), "correct")], "reward for an attempt at problem p is nan"),
        ([Verdict(float("inf"), "correct")], "is inf"),
        ([], "0 verdicts on 1 attempts"),
    ],
)
def test_rewards_that_json_cannot_hold_are_refused(verdicts, said):
    group = [Trajectory(Problem("p", ()), 0, (Response((), (), (), "x", "stop"),))]
    with pytest.raises(UserError, match=said):
        judge(Task("own", {}, "", lambda pairs: verdicts), (), [group])
