"""Exact gradients of three responses: an answer, a verification, another answer; one token each.

As in test_gradient.py: the expectation of the loss's gradient over every possible group against the gradient of what
the method says it maximises.
"""

import itertools
from dataclasses import replace

import pytest
import torch
from support.tabular import TOKENS, Table, enumerate_gradient

from scorl.objectives import PAG, UFO, OutcomeLevel, ProcessLevel, Reinforce
from scorl.settings import LearnerSettings
from scorl.trajectory import Problem, Response, Trajectory, Verdict

RIGHT = {0: True, 1: False, 2: False}
"""Whether the answer of one token is right."""
SAYS = {0: "right", 1: "wrong", 2: "wrong"}
"""What the verification of one token claims."""


def conversation(said, sample):
    prompt, responses = (0,), []
    for place, token in enumerate(said):
        if place == 1:
            verdict = Verdict(float((SAYS[token] == "right") == RIGHT[said[0]]), "", answer=SAYS[token])
        else:
            verdict = Verdict(float(RIGHT[token]), "")
        role = "verification" if place == 1 else "attempt"
        responses.append(Response(prompt, (token,), (0.0,), "", "stop", verdict, role))
        prompt += (token,)
    return Trajectory(Problem("p", ()), sample, tuple(responses))


def conversations(table):
    for said in itertools.product(TOKENS, repeat=3):
        logp = sum(table.logp(said[:place], said[place : place + 1]) for place in range(3))
        yield logp, lambda sample, said=said: conversation(said, sample)


def value(table, paid):
    """E over the first, E over the verification given the first, E over the last given both where it is come to;
    `paid` gives the rewards of one conversation. A distribution that is conditioned on is a constant."""
    total = torch.zeros((), dtype=torch.double)
    for said in itertools.product(TOKENS, repeat=3):
        p = [table.logp(said[:place], said[place : place + 1]).exp() for place in range(3)]
        rewards = paid(conversation(said, 0))
        behind = [p[1].detach() * p[2].detach(), p[2].detach(), 1.0]
        before = [1.0, p[0].detach(), p[0].detach() * p[1].detach()]
        for place, reward in enumerate(rewards):
            total = total + before[place] * p[place] * behind[place] * reward
    return total


def pag(alpha, gamma=0.0):
    def paid(t):
        rewards = [r.reward for r in t.reached]
        if len(rewards) == 3:
            rewards[2] += alpha * (rewards[2] - rewards[0])
            rewards[1] += gamma * rewards[2]
        rewards[0] += gamma * rewards[1]
        return rewards

    return paid


CASES = {
    "pag": (PAG(alpha=2.0, scale_rewards="none"), pag(2.0)),
    "pag, credit across turns": (PAG(alpha=2.0, gamma=0.5, scale_rewards="none"), pag(2.0, 0.5)),
    "process level": (ProcessLevel(beta_1=0.0), lambda t: [2 * r.reward - 1 for r in t.reached]),
    "outcome level": (OutcomeLevel(beta_1=0.0), lambda t: [2 * t.final.reward - 1] * len(t.reached)),
}


@pytest.mark.parametrize("name", CASES)
def test_each_is_an_unbiased_gradient_of_what_it_maximises(name):
    objective, paid = CASES[name]
    table = Table(1, turns=3)
    exact = torch.autograd.grad(value(table, paid), table.logits)[0]
    ours = enumerate_gradient(table, objective, list(conversations(table)), 2, LearnerSettings())
    torch.testing.assert_close(-ours, exact, atol=1e-6, rtol=1e-6)
    assert exact.abs().max() > 0.05


def test_ufo_is_an_unbiased_gradient_of_its_episodes():
    """Two attempts, the second after a wrong first one alone; both are paid for the episode."""
    objective, table = UFO(beta_1=0.0, repetition_penalty=0.0), Table(1, turns=2)

    def two(said, sample):
        made = conversation((*said, 0), sample).responses
        attempts = (made[0], replace(made[1], role="attempt", verdict=Verdict(float(RIGHT[said[1]]), "")))
        return Trajectory(Problem("p", ()), sample, attempts)

    exact = torch.zeros((), dtype=torch.double)
    for first, second in itertools.product(TOKENS, repeat=2):
        p1, p2 = table.logp((), (first,)).exp(), table.logp((first,), (second,)).exp()
        episode = 1.0 if RIGHT[first] else 0.5 * RIGHT[second]
        exact = exact + (p1 * p2.detach() + p1.detach() * p2 * (not RIGHT[first])) * episode
    drawn = [
        (
            table.logp((), (first,)) + table.logp((first,), (second,)),
            lambda sample, said=(first, second): two(said, sample),
        )
        for first, second in itertools.product(TOKENS, repeat=2)
    ]
    ours = enumerate_gradient(table, objective, drawn, 2, LearnerSettings())
    torch.testing.assert_close(-ours, torch.autograd.grad(exact, table.logits)[0], atol=1e-6, rtol=1e-6)


def test_the_credit_of_pass_at_k_is_its_gradient():
    """1 - (1 - p)^3 of three samples, p the probability of the right token."""
    table = Table(1, turns=1)
    p = table.logp((), (0,)).exp()
    exact = torch.autograd.grad(1 - (1 - p) ** 3, table.logits)[0]

    def drawn(token):
        made = Response((0,), (token,), (0.0,), "", "stop", Verdict(float(RIGHT[token]), ""))
        return table.logp((), (token,)), lambda sample: Trajectory(Problem("p", ()), sample, (made,))

    for samples in (3, 4):
        objective = Reinforce(beta_1=0.0, pass_k=3)
        ours = enumerate_gradient(table, objective, [drawn(t) for t in TOKENS], samples, LearnerSettings())
        torch.testing.assert_close(-ours, exact, atol=1e-6, rtol=1e-6)
