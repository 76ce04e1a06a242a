"""examples/score_in_one_file.py has the package's arithmetic: losses and weights of both stages, and its verdicts."""

import copy
import importlib.util
import random
from pathlib import Path

import pytest
import torch

import scorl

FILE = Path(__file__).parents[1] / "examples" / "score_in_one_file.py"
SETTINGS = scorl.LearnerSettings(learning_rate=3e-4)


@pytest.fixture(scope="module")
def one_file():
    spec = importlib.util.spec_from_file_location("score_in_one_file", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_it_is_short_and_imports_nothing_of_the_package():
    text = FILE.read_text()
    assert len(text.splitlines()) <= 200
    assert "import scorl" not in text
    assert "from scorl" not in text


def test_losses_weights_rewards_and_prompts_are_the_packages(one_file):
    """The package samples two steps of each stage; the file learns from the same tokens beside it."""
    policy = scorl.Policy("scorl:countdown-base")
    model, tokenizer = copy.deepcopy(policy.model), policy.tokenizer
    reference, optimizer = copy.deepcopy(model), torch.optim.Adam(model.parameters(), lr=one_file.LR)
    stages = [
        scorl.Stage(scorl.StageOne(beta_1=one_file.BETA_1, beta_2=one_file.BETA_2), steps=2, problems=3, samples=8),
        scorl.Stage(scorl.StageTwo(beta_1=one_file.BETA_1, alpha=one_file.ALPHA), steps=2, problems=3, samples=8),
    ]
    steps = scorl.train(
        policy,
        scorl.tasks.load("countdown"),
        stages,
        seed=0,
        learner=scorl.Learner(policy, SETTINGS, total=4),
        sampling=scorl.Sampling(max_tokens=one_file.MAX_TOKENS),
    )
    for step, stage in zip(steps, [one_file.STAGE_ONE] * 2 + [one_file.STAGE_TWO] * 2, strict=True):
        trajectories = [same(one_file, tokenizer, trajectory) for group in step.groups for trajectory in group]
        loss = one_file.learn(model, reference, optimizer, trajectories, stage)
        assert loss == pytest.approx(step.progress.loss, rel=1e-4, abs=1e-5)
    start, ours, theirs = (torch.cat([p.flatten() for p in m.parameters()]) for m in (reference, model, policy.model))
    assert (ours - theirs).norm() < 0.01 * (ours - start).norm()


def same(one_file, tokenizer, trajectory):
    """The file's trajectory of the package's, judged and prompted by the file."""
    problem = one_file.Problem(**{key: trajectory.problem.answer[key] for key in ("numbers", "target")})
    first, second = (
        one_file.Attempt(list(a.prompt_ids), list(a.ids), one_file.reward(problem, a.text)) for a in trajectory.attempts
    )
    assert [first.reward, second.reward] == [attempt.reward for attempt in trajectory.attempts]
    assert first.prompt == one_file.chat(tokenizer, trajectory.problem.prompt[0]["content"])
    assert second.prompt == one_file.follow(tokenizer, first)
    return first, second


@pytest.mark.parametrize(
    ("text", "reward"),
    [
        ("7*3=21 21-5=16", 1.0),
        ("Check: 7+3=10 ok, 10+5=15 no. Try: 7*3=21 ok, 21-5=16 ok.", 1.0),
        ("7*3=21 21-5=16 Sorry. 7+5=12", 0.0),
        ("7*3=21", 0.0),
        ("7*3=22 22-6=16", 0.0),
        ("8*2=16", 0.0),
        ("16", 0.0),
        ("", 0.0),
    ],
)
def test_it_judges_as_the_package_does(one_file, text, reward):
    problem = scorl.Problem("p", (), answer={"numbers": [7, 3, 5, 11], "target": 16})
    (verdict,) = scorl.tasks.load("countdown").judge([(problem, text)])
    assert one_file.reward(one_file.Problem((7, 3, 5, 11), 16), text) == verdict.reward == reward


def test_it_runs_and_keeps_held_out_problems_out(one_file, capsys):
    one_file.main(tuple(stage._replace(steps=1) for stage in (one_file.STAGE_ONE, one_file.STAGE_TWO)), tests=2)
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["before", "after"]
    rng = random.Random(0)
    drawn = [
        {(tuple(sorted(p.numbers)), p.target) for p in draw}
        for draw in ([one_file.draw_problem(rng, held_out) for _ in range(500)] for held_out in (False, True))
    ]
    assert not drawn[0] & drawn[1]
