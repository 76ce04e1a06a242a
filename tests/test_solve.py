"""`scorl solve`: what is asked, what is written while it is written, and what is taken as the answer."""

import io
import json
import sys
from dataclasses import replace
from functools import partial

import pytest
from rich.console import Console
from support.worlds import tiny_policy

from scorl.cli.transcript import Transcript, merge_changes
from scorl.engines import ScriptedEngine
from scorl.errors import UserError
from scorl.inference.solving import count_votes, final_attempt, solve
from scorl.recipe import TaskChoice
from scorl.report.trajectories import mark_changes
from scorl.settings import Sampling
from scorl.tasks.asking import find_answer, name_answer, pose_question
from scorl.tasks.countdown import Countdown, make_problem
from scorl.tasks.functions import Functions
from scorl.tasks.grade_school import Gsm8k
from scorl.tasks.mbpp import Mbpp
from scorl.tasks.turns import Correction, Verification
from scorl.trajectory import Problem, user

REACH = "Reach 36 with the numbers 12 11 7 4."
MODEL = "scorl:countdown-base"


@pytest.fixture
def answers(tmp_path):
    """Settings of an engine that thinks better of it."""
    path = tmp_path / "answers.jsonl"
    lines = [("There might be an error", "12*4=48 48-12=36"), ("", "11*4=44 44-12=32")]
    path.write_text("".join(json.dumps({"prompt_contains": p, "response": r}) + "\n" for p, r in lines))
    return f"engine.answers={path}"


@pytest.fixture
def asked(scorl, answers):
    """Runs the command with the scripted engine, in the words of countdown."""
    task = ["--task", "countdown", "--engine", "scripted", answers]
    return lambda *arguments: scorl("solve", MODEL, *arguments, *task)


# The words


@pytest.mark.parametrize(
    "question",
    [
        REACH,
        "reach 36 with the numbers 12, 11, 7 and 4",
        "Make 36 from 12 11 7 4, please",
        make_problem(Countdown(), [12, 11, 7, 4], 36, []).prompt[0]["content"],
    ],
)
def test_countdown_is_asked_as_it_was_trained(question):
    trained = make_problem(Countdown(), [12, 11, 7, 4], 36, [])
    assert pose_question(Countdown(), question).prompt == trained.prompt


@pytest.mark.parametrize(
    "question", ["With 12 11 7 4, reach 36", "What is 2 + 2?", "36 12 11", "Reach 36 with 12", "x" * 500]
)
def test_countdown_says_how_it_is_asked(question):
    with pytest.raises(UserError, match="Reach 36 with the numbers 12 11 7 4"):
        pose_question(Countdown(), question)


def test_a_task_puts_its_prompt_around_a_question():
    assert pose_question(Gsm8k(), "2 + {3}?").prompt[0]["content"].startswith("2 + {3}?\n\nWork it out step by step")
    assert (
        "with f(2)=7 f(5)=13." in pose_question(Functions(), "Write f with f(2) = 7 and f(5)=13").prompt[0]["content"]
    )
    assert pose_question(None, "2 + 2?").prompt == (user("2 + 2?"),)
    with pytest.warns(UserWarning, match="asked as it is"):
        assert pose_question(Mbpp(), "Add two numbers.").prompt == (user("Add two numbers."),)
    with pytest.raises(UserError, match="values"):
        pose_question(Functions(), "Write a function.")


def test_a_task_knows_its_answers():
    assert find_answer(Countdown(), "2*3=6 is too little. 12*4=48 48-12=36") == "12*4=48 48-12=36"
    assert find_answer(Countdown(), "I give up") is None
    assert find_answer(Functions(), "```python\ndef f(x): return 2*x+3\n```") == "def f(x): return 2*x+3"
    assert find_answer(None, "So the answer is 36.") == "36"


def test_a_question_gets_the_task_s_system_message_and_examples():
    shown = ({"question": "1 + 1?", "answer": "2"},)
    choice = TaskChoice("gsm8k", system_prompt="Be brief.", few_shot=shown, settings=Gsm8k(prompt="Q: {question}"))
    assert [m["content"] for m in choice.pose("2 + 2?").prompt] == ["Be brief.", "Q: 1 + 1?", "2", "Q: 2 + 2?"]
    drawn = TaskChoice("countdown", few_shot=2, settings=Countdown()).pose(REACH)
    assert [m["role"] for m in drawn.prompt] == ["user", "assistant"] * 2 + ["user"]


# Asking


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return tiny_policy(tmp_path_factory.mktemp("model"))


def problem(text="say a"):
    return Problem("question", (user(text),))


class Heard(list):
    """A listener that takes everything down."""

    def begin(self):
        self.append("begin")

    def hear(self, piece):
        self.append(piece)

    def end(self, finish):
        self.append(finish)


class Whole:
    """An engine that does not stream."""

    def __init__(self, engine):
        self.chat, self.arithmetic, self.batch_size = engine.chat, engine.arithmetic, engine.batch_size
        self.sample = engine.sample


def test_responses_are_heard_in_pieces_where_the_engine_can(policy):
    engine, turns = ScriptedEngine(policy.chat, ["a b c"]), Correction()("again", 2)
    pieces, whole = Heard(), Heard()
    (one,) = solve(engine, problem(), turns, Sampling(0.0, 9), listener=pieces)
    (other,) = solve(Whole(engine), problem(), turns, Sampling(0.0, 9), listener=whole)
    assert pieces == ["begin", "a", " b", " c", "stop"] * 2
    assert whole == ["begin", "a b c", "stop"] * 2
    assert one.responses == other.responses == solve(engine, problem(), turns, Sampling(0.0, 9))[0].responses


@pytest.mark.parametrize(("claim", "final"), [("wrong", "third"), ("right", "second"), ("hm", "third")])
def test_a_verification_that_says_right_ends_the_conversation(policy, claim, final):
    turns = Verification()("again", 3)
    (trajectory,) = solve(ScriptedEngine(policy.chat, ["a"]), problem(), turns, Sampling(0.0, 9))
    texts = ["first", "wrong", "second", claim, "third"]
    said = [replace(response, text=text) for response, text in zip(trajectory.responses, texts, strict=True)]
    assert final_attempt(replace(trajectory, responses=tuple(said)), turns).text == final


def test_votes():
    assert count_votes(["1", None, "2", "2", "1", "3"]) == [("1", 2, 0), ("2", 2, 2), ("3", 1, 5)]
    assert count_votes([None]) == []
    assert count_votes(["1/3", "0.5", r"\frac{1}{2}"], partial(name_answer, None)) == [("0.5", 2, 1), ("1/3", 1, 0)]
    assert name_answer(Countdown(), "1*2=2 2*3=6") == "1*2=2 2*3=6"


# Writing


@pytest.mark.parametrize(
    ("first", "second", "merged"),
    [
        ("a b c", "a x b c", "a{+ x+} b c"),
        ("a b c", "a c", "a [-b -]c"),
        ("21-5=17", "21-5=16", "21-5=[-17-]{+16+}"),
        ("", "a", "{+a+}"),
        ("a", "", "[-a-]"),
        ("same", "same", "same"),
        ("a b c d", "x b y d z", "[-a-]{+x+} b [-c-]{+y+} d{+ z+}"),
    ],
)
def test_changes_in_one_text(first, second, merged):
    brackets = {"": "{}", "gone": "[-{}-]", "new": "{{+{}+}}"}
    pieces = merge_changes(*mark_changes(first, second))
    assert "".join(brackets[mark].format(text) for text, mark in pieces) == merged


def transcribe(console, responses, finish="stop"):
    transcript = Transcript(console, problem("What?"), Correction()("Look again.", len(responses)))
    for text in responses:
        transcript.begin()
        for letter in text:
            transcript.hear(letter)
        transcript.end(finish)
    transcript.conclude("36")
    return console.file.getvalue()


HOSTILE = "\x1b]0;owned\x07\x1b[2J\x9b31m[bold]no[/bold]\r\x00 36"


@pytest.mark.parametrize("terminal", [True, False])
def test_a_hostile_model_writes_text_alone(terminal):
    console = Console(file=io.StringIO(), force_terminal=terminal, width=200, color_system=None, legacy_windows=False)
    written = transcribe(console, ["35", HOSTILE])
    for mean in ("\x1b]", "\x07", "\x1b[2J\ufffd", "\x9b", "\x00", "\x1b[31m"):
        assert mean not in written
    assert "[bold]no[/bold]" in written


def test_a_terminal_shows_a_response_while_it_is_written_and_then_what_changed():
    console = Console(file=io.StringIO(), force_terminal=True, width=60, height=8, color_system="standard")
    transcript = Transcript(console, problem(), Correction()("Look again.", 2))
    transcript.begin()
    transcript.hear("wrong")
    transcript._live.refresh()
    assert "wrong" in console.file.getvalue()
    transcript.end("stop")
    transcript.begin()
    for number in range(50):
        transcript.hear(f"line {number}\n")
    transcript._live.refresh()
    assert "line 49" in console.file.getvalue()  # its end is seen, however low the terminal is
    transcript.end("length")
    assert "\x1b[9;31mwrong\x1b[0m" in console.file.getvalue()  # struck through
    assert "\x1b[30;42mline" in console.file.getvalue()
    transcript.conclude(None)
    assert "cut at the token limit" in console.file.getvalue()
    assert "no final answer was found" in console.file.getvalue()


def test_a_pipe_gets_plain_text():
    console = Console(file=io.StringIO(), width=60)
    assert transcribe(console, ["21-5=17", "21-5=16", "21-5=16"]) == (
        "attempt 1\n21-5=17\n\n> Look again.\nattempt 2\n21-5=[-17-]{+16+}\n\n"
        "> Look again.\nattempt 3\n21-5=16\n(unchanged)\n\nfinal answer\n36\n"
    )


# The command


def test_it_asks_corrects_and_answers(asked):
    code, out, _ = asked(REACH)
    assert code == 0
    assert "attempt 1\n11*4=44 44-12=32\n\n> There might be an error in the solution above." in out
    assert "attempt 2\n[-11-]{+12+}*4=[-44 44-]{+48 48+}-12=[-32-]{+36+}\n" in out
    assert out.endswith("final answer\n12*4=48 48-12=36\n")


def test_a_line_of_json(asked):
    code, out, _ = asked(REACH, "--json", "--attempts", "3", "--system", "Be brief.")
    record = json.loads(out)
    assert code == 0
    assert record["question"] == REACH
    assert record["prompt"][0] == {"role": "system", "content": "Be brief."}
    assert record["answer"] == "12*4=48 48-12=36"
    assert record["votes"] == [{"answer": "12*4=48 48-12=36", "samples": 1}]
    (sample,) = record["samples"]
    assert [r["answer"] for r in sample["responses"]] == ["11*4=44 44-12=32", *["12*4=48 48-12=36"] * 2]
    assert {r["finish"] for r in sample["responses"]} == {"stop"}


def test_each_attempt_has_its_own_limit(asked):
    responses = json.loads(asked(REACH, "--json", "--max-tokens", "4,200")[1])["samples"][0]["responses"]
    assert [(r["tokens"] == 4, r["finish"]) for r in responses] == [(True, "length"), (False, "stop")]
    code, _, err = asked(REACH, "--max-tokens", "4,200,300")
    assert code == 2
    assert "--max-tokens: 3 limits, and --attempts 2; 4,200 would be right" in err


def test_json_is_inert_in_a_terminal(scorl, tmp_path):
    path = tmp_path / "answers.jsonl"
    path.write_text(json.dumps({"prompt_contains": "", "response": "36"}))
    question = "what\x9b31m?"
    _, out, _ = scorl("solve", MODEL, question, "--engine", "scripted", f"engine.answers={path}", "--json")
    assert out.isascii()
    assert out.rstrip("\n").isprintable()
    assert json.loads(out)["question"] == question


def test_samples_vote(scorl, tmp_path):
    path = tmp_path / "answers.jsonl"
    wrong, right = {"prompt_contains": "", "response": "so 1"}, {"prompt_contains": "", "response": "so 2"}
    path.write_text("".join(json.dumps(line) + "\n" for line in (wrong, right, right, right)))
    arguments = ["solve", MODEL, "Which?", "--engine", "scripted", f"engine.answers={path}", "--samples", "9"]
    code, out, err = scorl(*arguments)
    record = json.loads(scorl(*arguments, "--json")[1])
    assert code == 0
    assert sum(vote["samples"] for vote in record["votes"]) == 9
    assert record["answer"] == "2"
    assert f"{record['votes'][0]['samples']} of 9 samples: 2" in out
    assert "1 of 2 attempts of 9 samples" in err
    code, _, err = scorl(*arguments, "--temperature", "0")
    assert code == 2
    assert "nothing to vote on" in err


def test_a_question_from_a_file_and_from_stdin(asked, tmp_path, monkeypatch):
    path = tmp_path / "question.txt"
    path.write_text("Reach 36 with\n12 11 7 4\n")
    assert json.loads(asked("--file", path, "--json")[1])["question"] == "Reach 36 with\n12 11 7 4"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(REACH.encode())))
    assert json.loads(asked("--json")[1])["question"] == REACH


def test_bytes_that_are_no_text_are_refused(asked, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"one\ncaf\xe9")))
    code, _, err = asked()
    assert code == 2
    assert "stdin, line 2: not UTF-8 (byte 0xe9)" in err
    for arguments in (["caf\udce9"], ["What?", "--system", "caf\udce9"]):
        code, _, err = asked(*arguments)
        assert code == 2
        assert "this is not UTF-8: 'caf\\udce9'" in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((" ",), "empty"),
        (("one", "two"), "one question, please"),
        (("one", "--file", __file__), "given twice"),
        (("one", "task.prompt=x"), "--task is missing"),
        (("one", "--task", "countdown"), "countdown asks like"),
        (("one", "--task", "contdown"), "countdown"),
    ],
)
def test_mistakes_are_said(scorl, answers, arguments, said):
    code, _, err = scorl("solve", MODEL, *arguments, "--engine", "scripted", answers)
    assert code == 2
    assert said in err


def test_questions_are_typed_until_the_end(asked, monkeypatch):
    lines = iter(["", "What is 6 * 6?", REACH])

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    def type_line(prompt):
        try:
            return next(lines)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr(sys, "stdin", Terminal())
    monkeypatch.setattr("builtins.input", type_line)
    code, out, err = asked()
    assert code == 0
    assert "countdown asks like" in err  # and it goes on
    assert out.count("final answer") == 1


def test_the_shipped_model_corrects_itself(scorl):
    arguments = ["solve", MODEL, REACH, "--task", "countdown", "--max-tokens", "60"]
    code, out, _ = scorl(*arguments)
    record = json.loads(scorl(*arguments, "--json")[1])
    assert code == 0
    assert "Use + - * /" in record["prompt"][0]["content"]
    first, second = record["samples"][0]["responses"]
    assert first["text"] in out
    assert out.endswith(f"final answer\n{second['answer']}\n")
