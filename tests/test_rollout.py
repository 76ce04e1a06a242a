"""Conversations: the same first attempts with other turns, and a question that is asked once more."""

from dataclasses import replace

import pytest
from support.templates import chat_of

from scorl.engines.engine import Request, Sample
from scorl.engines.scripted import ScriptedEngine
from scorl.errors import UserError
from scorl.metrics import measure, share_out_of_context
from scorl.rollout import Draws, OfflineAttempts, converse, converse_each
from scorl.run.files import response_records
from scorl.settings import Sampling
from scorl.tasks.turns import Correction, SelfRefine, Turn
from scorl.trajectory import Problem, Response, Verdict, user

CHAT = chat_of("chatml")
PROBLEM = Problem("sum", (user("What is 2 + 2?"),), answer="4")
DRAWS = Draws(lambda problem, sample, place: sample + 10 * place, samples=2, sampling=Sampling(1.0, 20))


def answer(prompt: str, seed: int) -> str:
    return f"{prompt.count('What is 2 + 2?')} asked, seed {seed}"


def test_conversations_share_first_attempts_and_each_turn_is_asked_at_once():
    calls: list[int] = []

    class Counting(ScriptedEngine):
        def sample(self, requests: list[Request], **how: object) -> list[Sample]:
            calls.append(len(requests))
            return super().sample(requests, **how)

    engine = Counting(CHAT, answer)
    other = replace(PROBLEM, id="other")
    several = converse_each(engine, [PROBLEM, other], [(Turn("Again."),) * 2, (Turn("Sure?"),) * 2], DRAWS)
    assert calls == [4, 8, 8]
    assert several[0] == converse(engine, [PROBLEM, other], (Turn("Again."),) * 2, DRAWS)
    assert several[1] == converse(engine, [PROBLEM, other], (Turn("Sure?"),) * 2, DRAWS)
    first, second, _ = several[1][1][1].responses
    assert first is several[0][1][1].responses[0]
    assert second.prompt_ids[: len(first.prompt_ids + first.ids)] == first.prompt_ids + first.ids
    assert "Sure?" in CHAT.show(second.prompt_ids)
    assert converse_each(engine, [], [(Turn("Again."),), (Turn("Sure?"),)], DRAWS) == [[], []]


def test_a_turn_without_a_message_is_the_question_itself():
    ((trajectory, _),) = converse(ScriptedEngine(CHAT, answer), [PROBLEM], (Turn(None),), DRAWS)
    assert [r.text for r in trajectory.responses] == ["1 asked, seed 0", "2 asked, seed 10"]


def test_tokens_are_ids_or_what_an_endpoint_counts_or_unknown():
    response = Response((1, 2), (3,), (0.0,), "four", "stop")
    assert response.tokens == 1
    assert replace(response, counted=7).tokens == 7
    assert replace(response, counted=-1).tokens is None
    assert Response((), (), (), "four", "stop").tokens is None
    assert Response((), (), (), "", "length").tokens == 0


def test_an_endpoints_count_reaches_the_records():
    class Counting(ScriptedEngine):
        def sample(self, requests: list[Request], **how: object) -> list[Sample]:
            return [replace(sample, tokens=99) for sample in super().sample(requests, **how)]

    ((trajectory, _),) = converse(Counting(CHAT, ["4"]), [PROBLEM], (), DRAWS)
    (record,) = response_records(0, trajectory)
    assert (record["tokens"], record["prompt_tokens"]) == (99, None)


# Limits


class Limited(ScriptedEngine):
    """Notes the limit of each call."""

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)
        self.limits: list[int] = []

    def sample(self, requests: list[Request], *, max_tokens: int, **how: object) -> list[Sample]:
        self.limits.append(max_tokens)
        return super().sample(requests, max_tokens=max_tokens, **how)


def test_each_attempt_has_its_own_limit_and_the_last_one_stays():
    words = " ".join("abcdefghij")
    engine = Limited(CHAT, [words])
    whole = len(CHAT.reply(words))
    draws = replace(DRAWS, sampling=Sampling(1.0, (3, whole)))
    ((trajectory, _),) = converse(engine, [PROBLEM], Correction()("Again.", 3), draws)
    assert engine.limits == [3, whole, whole]
    assert [(len(a.ids), a.finish) for a in trajectory.attempts] == [(3, "length"), (whole, "stop"), (whole, "stop")]
    engine = Limited(CHAT, [words])
    converse(engine, [PROBLEM], Correction()("Again.", 3), replace(DRAWS, sampling=Sampling(1.0, (9, 8, 7, 6))))
    assert engine.limits == [9, 8, 7]


def test_a_critique_counts_with_the_attempt_that_it_leads_to():
    engine = Limited(CHAT, ["4"])
    converse(engine, [PROBLEM], SelfRefine()("", 3), replace(DRAWS, sampling=Sampling(1.0, (3, 5, 9))))
    assert engine.limits == [3, 5, 5, 9, 9]


def test_first_attempts_that_another_writes_or_that_are_brought_count():
    engine, other = Limited(CHAT, ["4"]), Limited(CHAT, ["5"])
    draws = replace(DRAWS, sampling=Sampling(1.0, (3, 5)), offline=OfflineAttempts(other, 0.5))
    converse(engine, [PROBLEM], (Turn("Again."),), draws)
    assert (other.limits, engine.limits) == ([3], [3, 5])
    engine = Limited(CHAT, ["4"])
    converse(engine, [replace(PROBLEM, first_attempt="5")], (Turn("Again."),), replace(draws, offline=None))
    assert engine.limits[-1] == 5


def test_what_was_cut_and_what_found_no_room_is_told_by_each_limit():
    words = " ".join("abcdefghij")
    sampling = Sampling(1.0, (3, 50))
    ((trajectory, _),) = converse(
        ScriptedEngine(CHAT, [words]), [PROBLEM], (Turn("Again."),), replace(DRAWS, sampling=sampling)
    )
    first, second = (replace(attempt, verdict=Verdict(0.0, "incorrect")) for attempt in trajectory.attempts)
    judged = replace(trajectory, responses=(first, second))
    assert measure([[judged]])["truncated"] == 0.5
    assert share_out_of_context([[judged]], sampling) == 0
    full = replace(second, ids=second.ids[:10], finish="length")  # before its limit, behind that of attempt 1
    assert share_out_of_context([[replace(judged, responses=(first, full))]], sampling) == 0.5


@pytest.mark.parametrize("wrong", [0, -3, 1.5, (), (64, 0), (64, "256"), None])
def test_limits_that_are_none_are_refused(wrong: object):
    with pytest.raises(UserError, match="max_tokens should be a whole number from 1, or one for each attempt"):
        Sampling(max_tokens=wrong)


def test_a_list_of_limits_is_taken_for_the_tuple():
    assert Sampling(max_tokens=[64, 256]) == Sampling(max_tokens=(64, 256))
