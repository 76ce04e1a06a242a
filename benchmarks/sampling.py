"""Sampling against transformers: its `generate` and its continuous batching (vllm_sampling.py has vLLM).

    OMP_NUM_THREADS=1 python benchmarks/sampling.py --models tiny smollm2 --peers generate continuous

Two turns of `samples` responses to each problem, all of one length. Each peer gets the second prompts whole, since
none is handed the first turn's keys and values; continuous batching has a prefix cache of its own.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from common import MODELS, endless, paired, task
from floor import matrix_rate, torch_matrix_rate, work
from peers import PEERS, Ids
from step import STEPS, Size

import scorl
from scorl.engines import Engine, Request
from scorl.engines.torch import TorchEngine
from scorl.trajectory import Credit, Problem, Response, TrainingExample, Trajectory, Verdict

__all__ = ["asked", "examples", "measure", "ours", "rollout"]

Follow = Callable[[list[int], list[int]], list[int]]


def rollout(
    sample: Callable[[Ids, int], Ids], prompts: Ids, follow: Follow, attempts: int = 2
) -> list[tuple[Ids, Ids]]:
    """The prompts and the responses of each turn; `sample` gets prompts and how many turns are still to come."""
    turns = []
    for turn in range(attempts):
        responses = sample(prompts, attempts - 1 - turn)
        turns.append((prompts, responses))
        prompts = [follow(p, y) for p, y in zip(prompts, responses, strict=True)]
    return turns


def examples(turns: list[tuple[Ids, Ids]]) -> list[TrainingExample]:
    """What was sampled, with credit on every attempt."""
    rows = []
    for number in range(len(turns[0][0])):
        written = tuple(
            Response(tuple(p[number]), tuple(y[number]), (0.0,) * len(y[number]), "", "length", Verdict(0.0, ""))
            for p, y in turns
        )
        credit = Credit(advantage=(-1.0) ** number, beta=0.01)
        rows.append(TrainingExample(Trajectory(Problem(str(number), ()), 0, written), (credit,) * len(written)))
    return rows


def ours(engine: Engine, tokens: int) -> Callable[[Ids, int], Ids]:
    """Our engine, which keeps the first turn for the second."""

    def sample(prompts: Ids, left: int) -> Ids:
        requests = [Request(tuple(p), 1000 * left + i) for i, p in enumerate(prompts)]
        return [list(s.ids) for s in engine.sample(requests, temperature=1.0, max_tokens=tokens, keep=left > 0)]

    return sample


def asked(policy: scorl.Policy, size: Size) -> tuple[Ids, Follow]:
    """The first prompt of every sample, and what makes the next one of a prompt and its response."""
    about = task(policy, size.prompt)
    drawn = about.split("train").draw(size.problems, 0, 0)
    prompts = [list(policy.chat.prompt(p.prompt)) for p in drawn for _ in range(size.samples)]
    return prompts, lambda prompt, response: list(policy.chat.follow(prompt, response, about.correction))


def measure(model: str, size: Size, peer: str | None, rounds: int) -> dict[str, Any]:
    """Tokens a second of ours and of a peer (if any), and what share of the floor ours reaches."""
    policy = endless(MODELS[model])
    prompts, follow = asked(policy, size)
    mine = ours(TorchEngine(policy), size.response)
    other = PEERS[peer](policy, size.response) if peer else None
    sampled = rollout(mine, prompts, follow)  # warms up, and shows the work
    if other:
        rollout(lambda rows, _: other(rows), prompts, follow)
    found = paired(
        lambda: rollout(mine, prompts, follow),
        lambda: other and rollout(lambda rows, _: other(rows), prompts, follow),
        rounds,
        warm=True,
    )
    needed = work(policy, examples(sampled))
    figures = found.figures(needed.written)
    rate = matrix_rate(policy)
    share = needed.sampling / rate / needed.written * figures["ours"]
    return {
        **(figures if peer else {"ours": figures["ours"]}),
        "floor_share": share,
        "gflop_per_second": rate / 1e9,
        "torch_gflop_per_second": torch_matrix_rate(policy) / 1e9,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["tiny"], choices=sorted(MODELS))
    parser.add_argument("--shapes", nargs="+", default=["short"], choices=["short", "long"])
    parser.add_argument("--peers", nargs="+", default=["generate"], choices=sorted(PEERS))
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    for model in args.models:
        for shape in args.shapes:
            for peer in args.peers:
                print(model, shape, peer, measure(model, STEPS[model, shape], peer, args.rounds), flush=True)


if __name__ == "__main__":
    main()
