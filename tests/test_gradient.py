"""Exact gradients on a tabular policy: three tokens, two turns; the loss against enumeration.

The policy is a table of logits per context. The expectation of the loss's gradient over every possible group is
compared with the gradient of the objective as printed (Eq. 2 to 4), where an attempt's tokens are credited with
that attempt alone: the distribution of first attempts is a constant in the second attempt's term.
"""

import itertools

import pytest
import torch
from support.tabular import TOKENS, Table, attempt_kl, enumerate_gradient, responses

from scorl.learner.batch import micro_batches
from scorl.learner.loss import loss
from scorl.objectives import Reinforce, StageOne, StageTwo
from scorl.settings import LearnerSettings
from scorl.trajectory import Problem, Response, Trajectory, Verdict

torch.manual_seed(3)
REWARD_1 = {y: float(r) for y, r in zip(itertools.product(TOKENS, TOKENS), torch.rand(9).round(), strict=True)}
REWARD_2 = {(y1, y2): float(torch.rand(()).round()) for y1 in REWARD_1 for y2 in itertools.product(TOKENS, TOKENS)}


def rewards(y1: tuple[int, ...], y2: tuple[int, ...]) -> tuple[float, float]:
    long = (y1 * 2)[:2], (y2 * 2)[:2]
    return REWARD_1[long[0]], REWARD_2[long]


def objective_value(table: Table, weights_1, shaped_2, betas) -> torch.Tensor:
    """E[w1 r1] - b1 KL_1 + E_{y1 fixed}[E[shaped r2] - b2 KL_2], differentiable."""
    value = -betas[0] * attempt_kl(table, ())
    for y1 in responses(table.length):
        p1 = table.logp((), y1).exp()
        value = value + p1 * weights_1 * rewards(y1, y1)[0]
        second = -betas[1] * attempt_kl(table, y1)
        for y2 in responses(table.length):
            second = second + table.logp(y1, y2).exp() * shaped_2(*rewards(y1, y2))
        value = value + p1.detach() * second
    return value


def trajectory(y1: tuple[int, ...], y2: tuple[int, ...], sample: int) -> Trajectory:
    r1, r2 = rewards(y1, y2)
    start = (0,)  # a prompt of one token; contexts of the table leave it out
    first = Response(start, y1, (0.0,) * len(y1), "", "stop", Verdict(r1, ""))
    second = Response(start + y1, y2, (0.0,) * len(y2), "", "stop", Verdict(r2, ""))
    return Trajectory(Problem("p", ()), sample, (first, second))


def expected_gradient(table: Table, objective, group_size: int, settings: LearnerSettings) -> torch.Tensor:
    pairs = [(y1, y2) for y1 in responses(table.length) for y2 in responses(table.length)]
    drawn = [
        (table.logp((), y1) + table.logp(y1, y2), lambda i, pair=(y1, y2): trajectory(*pair, i)) for y1, y2 in pairs
    ]
    return enumerate_gradient(table, objective, drawn, group_size, settings)


CASES = {
    "reinforce": (Reinforce(beta_1=0.3), 1.0, lambda r1, r2: r2, (0.3, 0.3)),
    "score_stage_one": (StageOne(beta_1=0.1, beta_2=0.4), 0.0, lambda r1, r2: r2, (0.5, 0.1)),
    "score_stage_two, given_before": (
        StageTwo(beta_1=0.2, alpha=10, baseline="given_before"),
        1.0,
        lambda r1, r2: r2 + 10 * (r2 - r1),
        (0.2, 0.2),
    ),
    "score_stage_two, reward_context": (
        StageTwo(beta_1=0.2, alpha=10, baseline="reward_context"),
        1.0,
        lambda r1, r2: r2 + 10 * (r2 - r1),
        (0.2, 0.2),
    ),
    "score_stage_two": (StageTwo(beta_1=0.2, alpha=10), 1.0, lambda r1, r2: r2 + 10 * (r2 - r1), (0.2, 0.2)),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(("length", "group"), [(1, 2), (2, 1)], ids=["leave-one-out", "two tokens a turn"])
def test_the_loss_is_an_unbiased_gradient_of_the_objective(name, length, group):
    objective, weights_1, shaped_2, betas = CASES[name]
    table = Table(length)
    exact = torch.autograd.grad(objective_value(table, weights_1, shaped_2, betas), table.logits)[0]
    ours = expected_gradient(table, objective, group, LearnerSettings(kl="exact", kl_in="both"))
    torch.testing.assert_close(-ours, exact, atol=1e-6, rtol=1e-6)
    assert exact.abs().max() > 0.05


@pytest.mark.parametrize(
    ("length", "kl", "kl_in", "unbiased"),
    [(2, "k1", "reward", True), (1, "k2", "loss", True), (1, "k3", "loss", False)],
)
def test_which_sampled_estimators_are_unbiased(length, kl, kl_in, unbiased):
    table = Table(length)
    exact = torch.autograd.grad(objective_value(table, 0.0, lambda r1, r2: 0.0 * r2, (0.5, 0.5)), table.logits)[0]
    objective = _only_kl(0.5)
    ours = expected_gradient(table, objective, 1, LearnerSettings(kl=kl, kl_in=kl_in))
    assert torch.allclose(-ours, exact, atol=1e-6) == unbiased


def test_stage_one_gives_first_attempts_a_kl_gradient_and_no_reward_gradient():
    table = Table(1)
    settings = LearnerSettings()
    without_kl = expected_gradient(table, StageOne(beta_1=0.0, beta_2=0.0), 2, settings)
    with_kl = expected_gradient(table, StageOne(beta_1=0.0, beta_2=0.5), 2, settings)
    first, second = table.index[()], slice(1, None)
    assert without_kl[first].abs().max() < 1e-9 < with_kl[first].abs().max()
    torch.testing.assert_close(without_kl[second], with_kl[second])


def test_importance_weights_make_another_samplers_draws_unbiased():
    """One attempt of one token, where weights by token are exact: a sampler that draws a and b differently."""
    table, sampler = Table(1), torch.tensor([0.2, 0.5, 0.3], dtype=torch.double)
    exact = torch.autograd.grad(sum(table.logp((), y).exp() * REWARD_1[y * 2] for y in responses(1)), table.logits)[0]
    found = {}
    for cap in (None, 100.0):
        found[cap] = torch.zeros_like(exact)
        for (y,) in responses(1):
            first = Response((0,), (y,), (float(sampler[y].log()),), "", "stop", Verdict(REWARD_1[y, y], ""))
            (batch,) = micro_batches(Reinforce()([Trajectory(Problem("p", ()), 0, (first,))]), 10_000, "padded")
            value = loss(batch, table.logp((), (y,))[None], None, 1, LearnerSettings(importance_sampling_cap=cap))
            found[cap] -= sampler[y] * torch.autograd.grad(value, table.logits)[0]
    torch.testing.assert_close(found[100.0], exact, atol=1e-6, rtol=1e-6)
    assert not torch.allclose(found[None], exact, atol=1e-2)


def _only_kl(beta: float):
    """Stage I's credit without any reward."""

    def objective(group):
        examples = Reinforce(beta_1=beta)(group)
        return [
            type(example)(example.trajectory, tuple(type(c)(0.0, c.beta) for c in example.credits))
            for example in examples
        ]

    return objective
