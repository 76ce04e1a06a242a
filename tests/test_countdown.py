"""Countdown: the verifier's verdicts, worked out by hand, and the task's promises about its problems."""

from __future__ import annotations

import itertools
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scorl import tasks
from scorl.errors import UserError
from scorl.tasks.countdown import Countdown, CountdownProblems, countdown, find_solutions
from scorl.tasks.turns import Verification
from scorl.verifiers.countdown import find_steps, verify, write_steps

NUMBERS, TARGET = (7, 3, 5), 16


@pytest.mark.parametrize(
    "response",
    [
        "7*3=21 21-5=16",
        "7 * 3 = 21, 21 - 5 = 16",
        "7×3=21\n21−5=16",
        "7x3=21; 21 - 5 = 16.",
        "First 7 X 3 = 21. Then 21 – 5 = 16.",
        "1. 7*3=21\n2. 21-5=16",
        "Step 1: 7*3=21\nStep 2: 21-5=16",
        "- 7*3=21\n- 21-5=16",
        "7*3=21 -> 21-5=16",
        r"$7 \times 3 = 21$, $21 - 5 = 16$",
        "3*7=21 21-5=16",
        "I think it is 7*3=22 22-5=17. No, wait! 7*3=21 21-5=16",
        "Check: 7+3=10 ok, 10+5=15 no. Try: 7*3=21 ok, 21-5=16 ok.",
        "7*3=21 and then 21-5=16, so the target of 16 is reached with 7, 3 and 5",
    ],
)
def test_right_answers_in_many_clothes(response: str) -> None:
    assert verify(response, NUMBERS, TARGET).outcome == "correct"


@pytest.mark.parametrize(
    ("response", "reason"),
    [
        ("7*3=22 22-5=17", "7*3=22 is false"),
        ("7*3=21 21-5=17", "21-5=17 is false"),
        ("8*2=16", "8 is not available"),
        ("7*3=21 21-6=15", "6 is not available"),
        ("7+3=10 10+5=15", "reaches 15, not 16"),
        ("7*3=21", "reaches 21, not 16"),
        ("7+7=14", "7 is not available"),
        ("7*3=21 21-5=16 21-5=16", "21 is not available"),
        ("7*3=21 21-3=18", "3 is not available"),
        ("3-7=-4 20-4=16", "3-7=-4 goes below zero"),
        ("7/3=2 2+5=7", "7/3=2 is false"),
        ("7*3=21 21-5=16 ok. I give up: 7+3=10", "reaches 10, not 16"),
        ("", "no steps found"),
        ("16", "no steps found"),
        ("7*3-5=16", "no steps found"),
        ("7 * 3 - 5 = 16", "no steps found"),
        ("7*3=21-5=16", "no steps found"),
        ("(7*3)-5=16", "no steps found"),
        ("7/2=3.5", "no steps found"),
    ],
)
def test_the_reason_names_the_first_fault(response: str, reason: str) -> None:
    verdict = verify(response, NUMBERS, TARGET)
    assert verdict.reward == 0.0
    assert verdict.reason == reason
    assert verdict.outcome == ("unparsable" if reason == "no steps found" else "incorrect")


def test_division_is_exact_and_zero_divides_nothing() -> None:
    assert verify("8/2=4", [8, 2, 1], 4).reward == 1.0
    assert verify("9/2=4", [9, 2, 1], 4).reward == 0.0
    assert verify("8/0=0", [8, 0], 0).reward == 0.0
    assert verify("5-5=0", [5, 5], 0).reward == 1.0


def test_equal_numbers_count_as_often_as_they_are_given() -> None:
    assert verify("5+5=10", [5, 5, 3], 10).reward == 1.0
    assert verify("5+5=10", [5, 4, 3], 10).reward == 0.0


def test_the_answer_is_normalised() -> None:
    assert verify("7 × 3 = 21,  21 − 5 = 16!", NUMBERS, TARGET).answer == "7*3=21 21-5=16"
    assert verify("so: 007*3=21", NUMBERS, TARGET).answer == "7*3=21"


@pytest.mark.parametrize(
    "response",
    [
        "1" * 100_000,
        " " * 100_000,
        "1 " * 50_000,
        "1+" * 50_000,
        "1+1=" * 25_000,
        "7*3=21 " * 14_000,
        "7*3=21" + " " * 100_000 + "21-5=16",
        "9" * 50_000 + "*" + "9" * 50_000 + "=" + "9" * 1000,
        "-" * 100_000,
        "\n- " * 33_000,
        "x" * 100_000,
        "7*3=21 " + "step " * 20_000,
        "\\" * 100_000,
        "٧*٣=٢١",
        "²+²=4",
        "\ud800\x00",
    ],
    ids=range(16),
)
def test_hostile_responses_are_judged_quickly(response: str) -> None:
    began = time.process_time()
    assert verify(response, NUMBERS, TARGET).reward in (0.0, 1.0)
    assert time.process_time() - began < 1.0


@given(st.text(alphabet="0123456789+-*/=x ., \nok×−", max_size=80))
def test_any_text_gets_a_verdict(response: str) -> None:
    verdict = verify(response, NUMBERS, TARGET)
    assert (verdict.reward == 1.0) == (verdict.reason == "")
    steps = find_steps(response)
    assert find_steps(write_steps(steps)) == steps


def test_solutions_by_hand() -> None:
    assert find_solutions((2, 3), 2) == {
        1: (((3, "-", 2, 1),),),
        5: (((3, "+", 2, 5),),),
        6: (((3, "*", 2, 6),),),
    }
    assert 16 not in find_solutions((3, 5, 7), 1)
    ways = find_solutions((3, 5, 7), 2)[16]
    assert [write_steps(way) for way in ways] == ["7*3=21 21-5=16"]


@pytest.mark.parametrize("settings", [Countdown(), Countdown(numbers=4, largest=8), Countdown(largest=30)])
def test_every_problem_is_solved_by_its_reference_solution(settings: Countdown) -> None:
    task = countdown(settings)
    for name in task.splits:
        problems = task.split(name).draw(60, 0, seed=3) + task.split(name).take(60)
        verdicts = task.judge([(problem, problem.solution or "") for problem in problems])
        assert [verdict.reward for verdict in verdicts] == [1.0] * 120
        for problem in problems:
            assert settings.lowest_target <= problem.answer["target"] <= settings.highest_target


def test_all_solutions_are_right() -> None:
    for numbers in itertools.combinations_with_replacement(range(1, 7), 3):
        for target, ways in find_solutions(numbers, 2).items():
            assert len(set(ways)) == len(ways)
            for way in ways:
                assert verify(write_steps(way), numbers, target).reward == 1.0


def test_draw_is_a_function_of_position_and_seed() -> None:
    train = CountdownProblems(Countdown(), "train")
    assert train.draw(10, 0, seed=5)[4:] == train.draw(6, 4, seed=5)
    assert train.draw(10, 0, seed=5) != train.draw(10, 0, seed=6)


def test_splits_share_no_problem() -> None:
    task = countdown()
    train = {problem.id for problem in task.split("train").draw(5000, 0, seed=1)}
    test = {problem.id for problem in task.split("test").take(None)}
    validation = {problem.id for problem in task.split("validation").take(200)}
    assert len(test) == 500
    assert not train & test
    assert not train & validation
    assert not test & validation


def test_take_is_fixed_and_grows_at_its_end() -> None:
    test = countdown().split("test")
    assert test.take(20) == test.take(30)[:20]


def test_the_wording_holds_the_problem() -> None:
    settings = Countdown(prompt="{target} from {numbers}, please")
    (problem,) = countdown(settings).split("train").draw(1, 0, seed=0)
    numbers = " ".join(map(str, problem.answer["numbers"]))
    assert problem.prompt[0]["content"] == f"{problem.answer['target']} from {numbers}, please"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"numbers": 9}, "task 'countdown': numbers: should be at most 5, not 9"),
        ({"largest": 1}, "largest: should be at least 2, not 1"),
        ({"lowest_target": 9, "highest_target": 5}, "no target is from 9 to 5"),
        ({"prompt": "Reach {target}."}, "does not contain {numbers}"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, object], words: str) -> None:
    with pytest.raises(UserError, match=words):
        tasks.load("countdown", **settings)


def test_more_problems_than_there_are() -> None:
    small = countdown(Countdown(numbers=2, largest=5)).split("test")
    assert 0 < len(small.take(1000)) < 20
    assert small.take(2) == small.take(1000)[:2]


BASE = Path(__file__).parents[1] / "src/scorl/models/countdown-base"


@pytest.fixture(scope="module")
def tokenizer():  # type: ignore[no-untyped-def]
    transformers = pytest.importorskip("transformers")
    return transformers.AutoTokenizer.from_pretrained(BASE)


def test_the_base_reads_and_writes_its_world_exactly(tokenizer) -> None:  # type: ignore[no-untyped-def]
    task = countdown()
    texts = [p.prompt[0]["content"] for p in task.split("test").take(50)] + [task.correction]
    texts += [p.solution or "" for p in task.split("test").take(50)]
    texts += ["Check: 7*3=21 ok, 21-5=15 no. Try: 7*3=21 ok, 21-5=16 ok.", "Sorry. 7+5=12 12+3=15"]
    for text in texts:
        ids = tokenizer.encode(text, add_special_tokens=False)
        assert tokenizer.unk_token_id not in ids
        assert tokenizer.decode(ids) == text
    assert len(tokenizer.encode(task.correction, add_special_tokens=False)) == 1


def test_the_base_template_extends(tokenizer) -> None:  # type: ignore[no-untyped-def]
    turns = [("user", "a"), ("assistant", "b"), ("user", "c")]
    messages = [{"role": role, "content": content} for role, content in turns]
    rendered = [
        tokenizer.apply_chat_template(messages[:n], tokenize=False, add_generation_prompt=n != 2) for n in (1, 2, 3)
    ]
    assert rendered[0] == "<|user|>a<|end|><|assistant|>"
    assert rendered[1] == rendered[0] + "b<|end|>"
    assert rendered[2] == rendered[1] + "<|user|>c<|end|><|assistant|>"


HASTY = BASE.with_name("hasty-base")


def test_the_hasty_base_reads_and_writes_its_world_exactly() -> None:
    tokenizer = pytest.importorskip("transformers").AutoTokenizer.from_pretrained(HASTY)
    task = countdown(Countdown(most_steps=1))
    texts = [p.prompt[0]["content"] for p in task.split("test").take(50)] + [task.correction]
    texts += ["Quick: 7+3=10", "Steps: 7*5=35", "Again: 7+3=10", "Sorry. 11-5=6"]
    texts += ["Check: 7+3=10 no. Try: 5-3=2 no. Try: 7*5=35 ok.", "Check: 12*12=144 no."]
    for text in texts:
        ids = tokenizer.encode(text, add_special_tokens=False)
        assert tokenizer.unk_token_id not in ids
        assert tokenizer.decode(ids) == text
    for word in ("Quick: ", "Steps: ", "Again: ", "Sorry. ", "Check: "):
        assert len(tokenizer.encode(word, add_special_tokens=False)) == 1


def test_a_whole_first_attempt_of_the_hasty_base_is_much_better_than_a_hasty_one() -> None:
    pytest.importorskip("transformers")
    from scorl.engines.torch import TorchEngine
    from scorl.evaluation import evaluate
    from scorl.model.policy import Policy
    from scorl.settings import EvaluationSettings

    settings = EvaluationSettings(problems=300, temperature=1.0)
    task = countdown(Countdown(most_steps=1))
    result = evaluate(TorchEngine(Policy(str(HASTY))), task, settings, attempts=1, max_tokens=8)
    said = [group[0].responses[0] for group in result.groups]
    hasty = [r.verdict.reward for r in said if r.verdict and r.text.startswith("Quick: ")]
    whole = [r.verdict.reward for r in said if r.verdict and r.text.startswith("Steps: ")]
    assert len(hasty) + len(whole) > 290
    assert 0.6 < len(hasty) / 300 < 0.8
    assert sum(hasty) / len(hasty) < 0.25
    assert sum(whole) / len(whole) > 0.35


VERIFY = BASE.with_name("verify-base")


def test_the_verify_base_reads_and_writes_its_world_exactly() -> None:
    tokenizer = pytest.importorskip("transformers").AutoTokenizer.from_pretrained(VERIFY)
    for text in (
        Verification().verification,
        "Check: 7+3=10 no. Verdict: wrong",
        "Check: 7*5=35 ok. Verdict: right",
        "Verdict: right",
        "Quick: 7+3=10",
    ):
        ids = tokenizer.encode(text, add_special_tokens=False)
        assert tokenizer.unk_token_id not in ids
        assert tokenizer.decode(ids) == text


def test_a_careful_verification_of_the_verify_base_is_mostly_true_and_a_blunt_one_is_a_coin() -> None:
    pytest.importorskip("transformers")
    from scorl.engines.torch import TorchEngine
    from scorl.evaluation import evaluate
    from scorl.model.policy import Policy
    from scorl.settings import EvaluationSettings

    settings = EvaluationSettings(problems=400, temperature=1.0)
    task = replace(countdown(Countdown(most_steps=1)), between=Verification())
    result = evaluate(TorchEngine(Policy(str(VERIFY))), task, settings, max_tokens=48)
    checks = [group[0].responses[1] for group in result.groups]
    careful = [r.right for r in checks if r.text.startswith("Check: ")]
    blunt = [r.right for r in checks if r.text.startswith("Verdict: ")]
    assert 0.1 < len(careful) / 400 < 0.3
    assert sum(careful) / len(careful) > 0.8
    assert 0.4 < sum(blunt) / len(blunt) < 0.6
