"""Conversations: the same first attempts with other turns, and a question that is asked once more."""

from dataclasses import replace

from support.templates import chat_of

from scorl.engines.engine import Request, Sample
from scorl.engines.scripted import ScriptedEngine
from scorl.rollout import Draws, converse, extend, judge
from scorl.run.files import response_records
from scorl.settings import Sampling
from scorl.tasks.task import Task
from scorl.tasks.turns import Turn
from scorl.trajectory import Problem, Response, Verdict, user

CHAT = chat_of("chatml")
PROBLEM = Problem("sum", (user("What is 2 + 2?"),), answer="4")
DRAWS = Draws(lambda problem, sample, place: sample + 10 * place, samples=2, sampling=Sampling(1.0, 20))


def answer(prompt: str, seed: int) -> str:
    return f"{prompt.count('What is 2 + 2?')} asked, seed {seed}"


def test_first_attempts_are_continued_by_other_turns_and_never_written_again():
    asked: list[int] = []

    def count(prompt: str, seed: int) -> str:
        asked.append(seed)
        return answer(prompt, seed)

    engine = ScriptedEngine(CHAT, count)
    (group,) = converse(engine, [PROBLEM], (Turn("Again."), Turn("Again.")), DRAWS)
    asked.clear()
    (other,) = extend(engine, [group], (Turn("Sure?"),), DRAWS)
    assert asked == [10, 11]
    assert [t.responses[0] for t in other] == [t.responses[0] for t in group]
    first, second = other[1].responses
    assert second.prompt_ids[: len(first.prompt_ids + first.ids)] == first.prompt_ids + first.ids
    assert "Sure?" in CHAT.show(second.prompt_ids)
    assert [t.sample for t in other] == [0, 1]


def test_a_turn_without_a_message_is_the_question_itself():
    ((trajectory, _),) = converse(ScriptedEngine(CHAT, answer), [PROBLEM], (Turn(None),), DRAWS)
    assert [r.text for r in trajectory.responses] == ["1 asked, seed 0", "2 asked, seed 10"]


def test_what_is_judged_is_not_judged_again():
    judged: list[str] = []

    def remember(pairs):
        judged.extend(text for _, text in pairs)
        return [Verdict(1.0, "correct")] * len(pairs)

    task = Task("sums", {}, "Again.", remember)
    engine = ScriptedEngine(CHAT, ["4", "5"])
    groups = judge(task, (), converse(engine, [PROBLEM], (), DRAWS))
    turns = (Turn("Sure?"),)
    (group,) = judge(task, turns, extend(engine, groups, turns, DRAWS))
    assert judged == ["4", "5", "4", "5"]
    assert all(response.right for t in group for response in t.responses)


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
