"""Responses that are no attempts: verifications are sampled, judged, credited and learned; critiques are not judged."""

import pytest
from support.conversations import PROBLEM, response, verified
from support.verified import Verified
from support.worlds import half_right, tiny_policy

from scorl import metrics
from scorl.engines.torch import TorchEngine
from scorl.evaluation import evaluate
from scorl.learner import Learner
from scorl.objectives import OBJECTIVES, Reinforce
from scorl.recipe import resolve
from scorl.run.files import response_records
from scorl.settings import LearnerSettings, Sampling
from scorl.tasks.turns import read_claim
from scorl.training.loop import train
from scorl.training.stage import Stage
from scorl.trajectory import Credit, TrainingExample, Trajectory


@pytest.mark.parametrize(
    ("text", "claim"),
    [
        ("**Verdict:** right", True),
        ("verdict: not correct", False),
        ("Verdict: wrong. The correct answer is 12.", False),
        ("The right answer would be 12.", None),
        ("The right-hand side is 5, so this holds.", None),
        ("That is the right answer.", True),
        ("That is not the right answer.", False),
        ("It isn't quite right.", False),
        ("The answer is wrong because 7 is not 8.", False),
    ],
)
def test_what_a_verification_claims(text, claim):
    assert read_claim(text) is claim


def test_a_response_has_a_place_and_an_attempt_a_number():
    trajectory = verified(0.0, "wrong", 1.0)
    assert trajectory.labels == ("t1", "v1", "t2")
    assert trajectory.attempts == (trajectory.responses[0], trajectory.responses[2])
    records = response_records(3, trajectory, (Credit(1.0), Credit(2.0), Credit(3.0)))
    assert [(r["place"], r["role"], r["turn"], r["advantage"]) for r in records] == [
        (0, "attempt", 0, 1.0),
        (1, "verification", 0, 2.0),
        (2, "attempt", 1, 3.0),
    ]
    with pytest.raises(ValueError, match="this critique has not been judged"):
        response("critique", None).reward  # noqa: B018


@pytest.mark.parametrize(
    ("trajectory", "reached", "final"),
    [
        (verified(1.0, "right", 0.0), 2, 1.0),
        (verified(0.0, "right", 1.0), 2, 0.0),
        (verified(1.0, "wrong", 0.0), 3, 0.0),
        (verified(0.0, "wrong", 1.0), 3, 1.0),
    ],
)
def test_a_verification_that_says_right_ends_the_conversation_at_inference(trajectory, reached, final):
    assert len(trajectory.reached) == reached
    measured = metrics.measure([[trajectory]])
    assert measured["accuracy_selective"] == final
    assert measured["accuracy_v1"] == trajectory.responses[1].reward
    assert (measured["accuracy_t1"], measured["accuracy_t2"]) == tuple(a.reward for a in trajectory.attempts)


def test_without_a_verification_nothing_is_selective():
    pair = Trajectory(PROBLEM, 0, (response("attempt", 1.0), response("attempt", 0.0)))
    assert "accuracy_selective" not in metrics.measure([[pair]])


def test_an_objective_of_attempts_leaves_other_responses_alone():
    group = [verified(1.0, "wrong", 0.0), verified(0.0, "wrong", 1.0, sample=1)]
    for example, signs in zip(Reinforce(beta_1=0.5)(group), ((1, -1), (-1, 1)), strict=True):
        assert example.credits == (Credit(signs[0], 0.5), Credit(), Credit(signs[1], 0.5))


@pytest.mark.parametrize("count", [1, 3])
def test_every_attempt_has_one_credit(count):
    with pytest.raises(ValueError, match="zip"):
        TrainingExample.of_attempts(verified(1.0, "wrong", 0.0), [Credit(1.0)] * count)


def test_the_credit_of_a_new_objective_by_hand():
    group = [verified(1.0, "wrong", 0.0), verified(0.0, "wrong", 1.0, sample=1)]
    examples = Verified(beta_1=0.1)(group)
    assert [[c.advantage for c in e.credits] for e in examples] == [[1, -1, -1], [-1, 1, 1]]
    scaled = Verified().over_batch(Verified()([*group, verified(0.0, "wrong", 1.0, sample=2)]))
    attempts = [c.advantage for e in scaled for c in (e.credits[0], e.credits[2])]
    assert sum(a * a for a in attempts) / len(attempts) == pytest.approx(1.0)


def test_a_new_objective_is_one_line_in_a_dict(monkeypatch, tmp_path):
    monkeypatch.setitem(OBJECTIVES, "verified", Verified)
    path = tmp_path / "mine.yaml"
    path.write_text(
        "extends: countdown\nturns: {name: verification}\n"
        "stages: [{objective: verified, steps: 2, problems: 4, samples: 2, beta_1: 0.2}]\n"
    )
    recipe = resolve(str(path))
    assert recipe.stages[0].objective == Verified(beta_1=0.2)
    assert recipe.stages[0].objective_name == "verified"
    again = tmp_path / "again.yaml"
    again.write_text(recipe.dump())
    assert resolve(str(again)) == recipe


def test_verifications_are_learned_and_revisions_where_they_are_reached(tmp_path):
    policy, task = tiny_policy(tmp_path), half_right()
    stage = Stage(Verified(), 120, problems=6, samples=16)
    learner = Learner(policy, LearnerSettings(learning_rate=2e-3), total=stage.steps)
    steps = list(train(policy, task, [stage], sampling=Sampling(max_tokens=1), learner=learner))
    for example in steps[-1].examples:
        first, check, second = example.trajectory.responses
        assert first.offline
        assert check.ids
        reached = check.verdict.answer != "right"
        assert (example.credits[2] != Credit()) == reached
        assert second.ids  # sampled all the same
    line = steps[0].line()
    assert {"accuracy_v1", "accuracy_selective", "reward_v1", "kl_v1", "kl_t2"} <= line.keys()
    measured = evaluate(TorchEngine(policy), task, model="tiny", max_tokens=1).summary()["metrics"]
    assert measured["accuracy_t1"]["value"] == 0.5
    assert measured["accuracy_v1"]["value"] == 1
    assert measured["accuracy_selective"]["value"] == 1
