"""The right reward of answers as people and models write them, kind by kind (answers/); many of them are wrong answers.

Each file can be read by `scorl judge FILE --verifier math` as well.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from scorl.trajectory import Problem
from scorl.verifiers import math
from scorl.verifiers.countdown import verify as verify_steps

ANSWERS = Path(__file__).with_name("answers")


@pytest.mark.parametrize("kind", ["sentences", "equations", "bases", "tags", "spellings", "quantities", "letters"])
def test_the_reward_is_right(kind: str) -> None:
    pytest.importorskip("math_verify")
    rows = [json.loads(line) for line in (ANSWERS / f"{kind}.jsonl").read_text(encoding="utf-8").splitlines()]
    verdicts = math.judge([(Problem(row["id"], (), row["answer"]), row["response"]) for row in rows])
    wrong = [row for row, verdict in zip(rows, verdicts, strict=True) if verdict.reward != row["expected"]]
    assert wrong == []


@pytest.mark.parametrize("kind", ["sentences", "tags", "spellings", "quantities"])
def test_number_pays_for_no_wrong_answer_either(kind: str) -> None:
    rows = [json.loads(line) for line in (ANSWERS / f"{kind}.jsonl").read_text(encoding="utf-8").splitlines()]
    verdicts = math.judge_numbers([(Problem(row["id"], (), row["answer"]), row["response"]) for row in rows])
    assert [row for row, verdict in zip(rows, verdicts, strict=True) if verdict.reward > row["expected"]] == []


@pytest.mark.parametrize("gold", ["nan", "NaN", "\\boxed{nan}"])
def test_nothing_is_equal_to_nan(gold: str) -> None:
    assert math.verify(r"\boxed{nan}", gold).reward == 0


def test_steps_of_an_open_thought_are_no_answer() -> None:
    assert verify_steps("<think>7*3=21", [7, 3], 21).reward == 0
    assert verify_steps("<think>7+3=10</think>7*3=21", [7, 3], 21).reward == 1
