"""Every objective learns a trivial task in seconds; the same seed gives the same run."""

import pytest
import torch
from worlds import letters, tiny_policy

from scorl.engines import TorchEngine
from scorl.evaluation import evaluate
from scorl.learner import Learner
from scorl.objectives import Reinforce, StageOne, StageTwo, Supervised
from scorl.settings import LearnerSettings, Sampling
from scorl.stage import Stage
from scorl.training import train

SAMPLING = Sampling(max_tokens=1)


def run(policy, *stages, lr=5e-3, seed=0):
    total = sum(stage.steps for stage in stages)
    learner = Learner(policy, LearnerSettings(lr=lr), total=total)
    return list(train(policy, letters(), stages, seed=seed, sampling=SAMPLING, learner=learner))


def accuracy(policy, turn, attempts=2):
    result = evaluate(
        TorchEngine(policy),
        policy.chat,
        letters(),
        model="tiny",
        attempts=attempts,
        temperature=0,
        max_tokens=1,
    )
    return result.summary()["metrics"][f"accuracy_t{turn}"]["value"]


def stage(objective, attempts, steps=90):
    return Stage(objective, steps, problems=6, samples=16, attempts=attempts)


def test_reinforce_learns_one_attempt(tmp_path):
    policy = tiny_policy(tmp_path)
    run(policy, stage(Reinforce(), 1))
    assert accuracy(policy, 1, attempts=1) == 1


def test_reinforce_learns_two_attempts(tmp_path):
    policy = tiny_policy(tmp_path)
    run(policy, stage(Reinforce(), 2))
    assert accuracy(policy, 1) == accuracy(policy, 2) == 1


def test_supervised_learns_the_reference_solutions(tmp_path):
    policy = tiny_policy(tmp_path)
    steps = run(policy, Stage(Supervised(), 30, problems=6, samples=1, attempts=1))
    assert accuracy(policy, 1) == 1
    assert steps[0].line()["accuracy_t1"] is None  # nothing was sampled
    assert steps[-1].progress.loss < 0.1 * steps[0].progress.loss


def test_stage_one_teaches_the_second_attempt_and_holds_the_first(tmp_path):
    policy = tiny_policy(tmp_path)
    steps = run(policy, stage(StageOne(beta_2=3.0), 2, steps=90))
    assert accuracy(policy, 2) == 1
    assert accuracy(policy, 1) == 0  # as it was
    assert steps[-1].progress.kl[0] < 0.05 < steps[-1].progress.kl[1]


def test_stage_two_learns_both(tmp_path):
    policy = tiny_policy(tmp_path)
    run(policy, stage(StageTwo(alpha=10), 2))
    assert accuracy(policy, 1) == accuracy(policy, 2) == 1


def test_three_attempts(tmp_path):
    policy = tiny_policy(tmp_path)
    steps = run(policy, stage(StageTwo(alpha=2), 3))
    assert "accuracy_t3" in steps[0].line()
    assert accuracy(policy, 3, attempts=3) == 1


def test_interleaved_stages(tmp_path):
    one, two = (
        Stage(StageOne(), 2, problems=2, samples=4, name="a"),
        Stage(StageTwo(), 3, problems=4, samples=4),
    )
    steps = run(tiny_policy(tmp_path), one, two, one, two)
    assert [s.index for s in steps] == list(range(10))
    assert [s.line()["stage"] for s in steps] == (["a"] * 2 + ["score_stage_two"] * 3) * 2
    assert [s.groups[0][0].problem.id[-1] for s in steps] == list("acbcabacab")  # no problem skipped or repeated


def test_the_warm_up_can_become_the_reference(tmp_path):
    policy = tiny_policy(tmp_path)
    warm = Stage(Supervised(), 10, problems=6, samples=1, attempts=1)
    held = Stage(StageOne(), 2, problems=2, samples=4, renew_reference=True)
    steps = run(policy, warm, held)
    assert steps[10].progress.kl == pytest.approx({0: 0.0, 1: 0.0}, abs=1e-5)


def test_a_second_prompt_extends_the_first_turn(tmp_path):
    (step,) = run(tiny_policy(tmp_path), stage(StageTwo(), 2, steps=1))
    for group in step.groups:
        for first, second in (t.attempts for t in group):
            before = first.prompt_ids + first.ids
            assert second.prompt_ids[: len(before)] == before


def test_the_same_seed_gives_the_same_run_and_another_seed_another(tmp_path):
    torch.manual_seed(0)
    one = run(tiny_policy(tmp_path), stage(StageTwo(), 2, steps=4))
    torch.manual_seed(1)  # nothing may draw from the global generator
    same = run(tiny_policy(tmp_path), stage(StageTwo(), 2, steps=4))
    other = run(tiny_policy(tmp_path), stage(StageTwo(), 2, steps=4), seed=1)
    assert [s.groups for s in one] == [s.groups for s in same] != [s.groups for s in other]
    assert [s.progress for s in one] == [s.progress for s in same]


def test_a_problem_that_is_drawn_twice_is_sampled_anew(tmp_path):
    (step,) = run(tiny_policy(tmp_path), Stage(StageTwo(), 1, problems=6, samples=8))
    once, again = step.groups[0], step.groups[3]
    assert once[0].problem == again[0].problem
    assert [t.attempts[0].ids for t in once] != [t.attempts[0].ids for t in again]
    assert [t.sample for t in again] == list(range(8, 16))
