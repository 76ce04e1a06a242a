"""Which first attempts the later ones follow: of each problem's samples the best, or a wrong one."""

from dataclasses import replace

import pytest
from support.conversations import response
from support.templates import chat_of
from support.worlds import letters, tiny_policy

from scorl.engines.scripted import ScriptedEngine
from scorl.engines.torch import TorchEngine
from scorl.errors import UserError
from scorl.evaluation import evaluate
from scorl.learner import Learner
from scorl.learner.batch import trained_responses
from scorl.metrics import count_tokens
from scorl.objectives import StageOne
from scorl.recipe import resolve
from scorl.rollout import Draws, rollout
from scorl.settings import LearnerSettings, Sampling
from scorl.tasks.task import Task
from scorl.tasks.turns import Turn
from scorl.training.loop import train
from scorl.training.stage import Stage
from scorl.trajectory import Credit, Problem, Trajectory, Verdict, user

CHAT = chat_of("chatml")
PROBLEMS = [Problem("even", (user("even?"),)), Problem("odd", (user("odd?"),))]
DRAWS = Draws(lambda problem, sample, place: sample + 10 * place, samples=3, sampling=Sampling(1.0, 20), branches=2)
REWARDS = {"even? 0": 0.0, "even? 1": 1.0, "even? 2": 1.0, "odd? 0": 1.0, "odd? 1": 1.0, "odd? 2": 1.0}


def answer(prompt: str, seed: int) -> str:
    return f"{'even?' if 'even?' in prompt else 'odd?'} {seed}"


def judge(pairs):
    return [Verdict(REWARDS.get(str(text), 0.0), "") for _, text in pairs]


@pytest.mark.parametrize(
    ("first", "chosen"), [("best", ["even? 1", "odd? 0"]), ("wrong", ["even? 0", "odd? 0"])], ids=["best", "wrong"]
)
def test_of_each_problems_samples_one_is_gone_on_from(first, chosen):
    groups = rollout(
        ScriptedEngine(CHAT, answer), Task("t", {}, "", judge), PROBLEMS, (Turn("Again."),), replace(DRAWS, first=first)
    )
    assert [[t.attempts[0].text for t in group] for group in groups] == [[text] * 2 for text in chosen]
    for group in groups:
        assert [t.branch for t in group] == [0, 1]
        assert len({t.sample for t in group}) == 1
        assert len({t.attempts[1].text for t in group}) == 2
        assert all(t.attempts[0].offline for t in group)  # chosen by its reward, so never trained on
        drafts = sum(len(CHAT.reply(text)) for text in REWARDS if text[:3] == group[0].problem.id[:3])
        assert count_tokens(group) == drafts + sum(len(t.attempts[1].ids) for t in group)


@pytest.mark.parametrize("first", ["each", "best", "wrong"])
@pytest.mark.parametrize(
    ("judge", "why"),
    [
        (lambda pairs: None, "the judge gave None"),
        (lambda pairs: [Verdict(1.0, "")], r"the judge gave \d+ verdicts on \d+ attempts"),
        (lambda pairs: [Verdict(None, "")] * len(pairs), "a reward is a finite number"),
    ],
    ids=["none", "too few", "no reward"],
)
def test_a_judge_that_says_something_else_is_told_so_whoever_asks_it(first, judge, why):
    with pytest.raises(UserError, match=why):
        rollout(
            ScriptedEngine(CHAT, answer),
            Task("t", {}, "", judge),
            PROBLEMS,
            (Turn("Again."),),
            replace(DRAWS, first=first),
        )


@pytest.mark.parametrize("drawn", [1.0, 0.0], ids=["best", "wrong"])
def test_the_credits_behind_a_chosen_first_attempt_by_hand(drawn):
    """Second attempts less the mean of the other three, whatever the first was worth: 1 - 1/3, 0 - 2/3; it has none."""
    first = replace(response("attempt", drawn), offline=True)
    seconds = [response("attempt", reward) for reward in (1.0, 1.0, 0.0, 0.0)]
    group = [Trajectory(PROBLEMS[0], 2, (first, second), branch=k) for k, second in enumerate(seconds)]
    examples = StageOne(beta_1=0.1, beta_2=0)(group)
    learned = [[(place, credit.advantage, credit.beta) for place, _, credit in trained_responses(e)] for e in examples]
    right, wrong = (pytest.approx((1, advantage, 0.1)) for advantage in (2 / 3, -2 / 3))
    assert learned == [[right], [right], [wrong], [wrong]]


def test_refinements_of_the_best_draft_are_learned(tmp_path):
    """iGRPO: drafts without a gradient, then refinements of the best one."""
    policy = tiny_policy(tmp_path)
    stage = Stage(StageOne(beta_1=0, beta_2=0), 90, problems=6, samples=4, branches=8, first="best")
    learner = Learner(policy, LearnerSettings(learning_rate=5e-3), total=stage.steps)
    steps = list(train(policy, letters(), [stage], sampling=Sampling(max_tokens=1), learner=learner))
    assert all(e.credits[0] == Credit() for e in steps[-1].examples)
    assert 0 not in steps[-1].progress.kl
    assert evaluate(TorchEngine(policy), letters(), max_tokens=1).summary()["metrics"]["accuracy_t2"]["value"] == 1


def test_second_attempts_at_wrong_first_ones_are_learned(tmp_path):
    """ScRPO: the policy's own wrong answers alone are gone on from."""
    policy = tiny_policy(tmp_path)
    stage = Stage(StageOne(beta_1=0, beta_2=0), 90, problems=6, samples=4, branches=8, first="wrong")
    learner = Learner(policy, LearnerSettings(learning_rate=5e-3), total=stage.steps)
    steps = list(train(policy, letters(), [stage], sampling=Sampling(max_tokens=1), learner=learner))
    chosen = [t.attempts[0].right for step in steps[:9] for group in step.groups for t in group]
    assert sum(chosen) < 0.1 * len(chosen)
    line = steps[0].line()
    assert line["accuracy_t1"] is line["reward_t1"] is line["delta"] is None
    assert line["accuracy_t2"] is not None
    assert evaluate(TorchEngine(policy), letters(), max_tokens=1).summary()["metrics"]["accuracy_t2"]["value"] == 1


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ("first: best", r"stages\.0\.branches: first: best goes on from one attempt, at least twice, not 1"),
        (
            "first: wrong, branches: 2, offline: 0.5",
            r"stages\.0\.offline: first: wrong chooses among the policy's own attempts",
        ),
        ("first: worst, branches: 2", r"stages\.0\.first"),
    ],
)
def test_what_cannot_be_meant_is_refused(tmp_path, keys, message):
    path = tmp_path / "r.yaml"
    path.write_text(
        f"extends: countdown\nstages: [{{objective: score_stage_one, steps: 2, problems: 4, samples: 2, {keys}}}]\n"
    )
    with pytest.raises(UserError, match=message):
        resolve(str(path))
