"""What tests/test_half_precision.py runs: gradients in bfloat16, each way of learning, as JSON; one process of gloo.

python -m support.half_gradients FOLDER
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed

from scorl.distributed.ranks import Ranks, exit_process
from scorl.engines.torch import TorchEngine
from scorl.learner import Learner
from scorl.learner.parallel import FSDP2
from scorl.model.policy import Policy
from scorl.model.reference import Reference
from scorl.model.shards import gather, shard_like
from scorl.objectives import StageTwo
from scorl.rollout import Draws, rollout
from scorl.seeds import derive
from scorl.settings import Dtype, LearnerSettings, Sampling
from scorl.trajectory import Credit, TrainingExample
from support.ranked import supported
from support.worlds import letters, save_model

WAYS: dict[str, dict[str, Any]] = {
    "rows": {"packing": "padded"},
    "rows, checkpointing": {"packing": "padded", "gradient_checkpointing": True},
    "trees": {},
    "trees, checkpointing": {"gradient_checkpointing": True},
    "trees in small micro-batches": {"tokens_per_microbatch": 40},
    "trees, fsdp2": {},
    "trees, fsdp2, checkpointing": {"gradient_checkpointing": True},
}
WAYS = {way: WAYS[way] for way in supported(WAYS)}


def examples(policy: Policy) -> list[TrainingExample]:
    """Trajectories with branches, whose credits do not cancel."""
    task = letters()
    draws = Draws(lambda problem, sample, place: derive(problem.id, sample, place), 4, Sampling(max_tokens=6), 2)
    groups = rollout(TorchEngine(policy), task, task.split("train").draw(5, 0, 0), task.turns(2), draws)
    rows = [example for group in groups for example in StageTwo()(group)]
    credits = [Credit(0.3 * (i % 5) - 0.5, 0.2, 0.1 * (i % 2)) for i in range(len(rows))]
    return [TrainingExample(row.trajectory, (c,) * len(row.credits)) for row, c in zip(rows, credits, strict=True)]


def gradient(
    path: str, dtype: Dtype, rows: list[TrainingExample], way: str, device: str = "cpu"
) -> tuple[dict[str, Tensor], set[str]]:
    """Of one step against a reference that lies a little apart, in float64; and the types that it came in."""
    policy = Policy(path, dtype=dtype, device=device)
    packing = WAYS[way.removesuffix(", Liger")]
    settings = LearnerSettings(max_logprob_gap=1.0, use_liger_kernel="Liger" in way, **packing)
    learner = Learner(policy, settings, total=1)
    if "fsdp2" in way:  # a single process would keep them whole
        learner.reference = Reference(policy, sharded=True)
        learner.strategy = FSDP2(policy, learner.reference, Ranks(0, 1))
    set_apart(learner)
    learner.packing = learner.settings.packing
    learner.accumulate_gradients(rows)
    found = {name: p.grad for name, p in policy.parameters.items()}
    whole = {name: g.full_tensor() if hasattr(g, "full_tensor") else g for name, g in found.items() if g is not None}
    return {name: g.double().cpu() for name, g in whole.items()}, {str(g.dtype) for g in whole.values()}


def set_apart(learner: Learner) -> None:
    """Lay the reference a little apart from the policy, by the same numbers on all devices."""
    parameters = learner.policy.parameters
    torch.manual_seed(0)
    noise = {name: 0.05 * torch.randn(p.shape).to(p.device) for name, p in parameters.items()}
    learner.reference.load_state({n: shard_like(p, gather(p.detach()) + noise[n]) for n, p in parameters.items()})


def main(folder: Path) -> None:
    """By way and parameter: the relative error against float32, and the gradients' types."""
    torch.set_num_threads(1)
    path = save_model(folder, width=64)
    rows = examples(Policy(path, device="cpu"))
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    truth, _ = gradient(path, "float32", rows, "rows")
    told: dict[str, Any] = {}
    for way in WAYS:
        found, types = gradient(path, "bfloat16", rows, way)
        errors = {name: float((found[name] - truth[name]).norm() / truth[name].norm()) for name in truth}
        told[way] = {"errors": errors, "types": sorted(types)}
    print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    exit_process(0)
