"""Conversations: the same first attempts with other turns, and a question that is asked once more."""

from dataclasses import replace

from support.templates import chat_of

from scorl.engines.engine import Request, Sample
from scorl.engines.scripted import ScriptedEngine
from scorl.rollout import Draws, converse, converse_each
from scorl.run.files import response_records
from scorl.settings import Sampling
from scorl.tasks.turns import Turn
from scorl.trajectory import Problem, Response, user

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
