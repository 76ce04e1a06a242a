"""What tests/test_pretend_gpu.py runs: python -m support.pretend_gpu.run GUARD CASE ..., which prints JSON by case."""

from __future__ import annotations

import json
import sys
import traceback
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from support.pretend_gpu.guard import load_guard

TOKENS = 3
"""Decoded by each row, and then twice as many: the difference is what a token costs."""


@dataclass(frozen=True)
class Case:
    """A way of learning."""

    dtype: Any
    lora: bool
    packing: Any
    gradient_checkpointing: bool

    @classmethod
    def named(cls, name: str) -> Case:
        """By `DTYPE-full|lora-PACKING-plain|checkpointing`."""
        dtype, weights, packing, layers = name.split("-")
        return cls(dtype, weights == "lora", packing, layers == "checkpointing")

    def run(self) -> dict[str, Any]:
        """Train a step of each stage; what the second update and a decoded token cost."""
        from scorl.engines.torch import TorchEngine
        from scorl.learner import Learner, flex, head_block
        from scorl.model.policy import Policy
        from scorl.settings import LearnerSettings, LoraSettings
        from support.pretend_gpu.device import OnGpu, pretend_gpu

        flex.ATTEND["cuda"] = _attend_by_rule
        head_block._fused = lambda formula: formula  # type: ignore[assignment]
        with pretend_gpu() as counts:
            policy = Policy("scorl:countdown-base", dtype=self.dtype, lora=LoraSettings(r=2) if self.lora else None)
            settings = LearnerSettings(
                tokens_per_microbatch=60,  # a step has some micro-batches
                packing=self.packing,
                gradient_checkpointing=self.gradient_checkpointing,
                use_liger_kernel=False,  # Triton's kernels cannot run here
            )
            learner, engine = Learner(policy, settings, total=2), TorchEngine(policy)
            learning = _train(policy, learner, engine, counts)
            learner.load_state(learner.state())
            return {
                "placed": all(isinstance(p, OnGpu) for p in (*policy.model.parameters(), *policy.model.buffers())),
                "packing": learner.packing,
                **learning,
                # Neither packing nor checkpoints matter to the engine.
                "decoding": None if self.gradient_checkpointing else _decode(engine, counts),
            }


def _attend_by_rule(query: Any, key: Any, value: Any, *, block_mask: Any, scale: Any, **_: Any) -> Any:
    """What flex_attention's kernel computes, which no pretend GPU can run: the mask's rule, and the tiles it lists."""
    import torch

    place = torch.arange(query.shape[2], device=query.device)
    mask = block_mask.mask_mod(None, None, place[:, None], place[None])
    tiles = block_mask.kv_num_blocks + block_mask.full_kv_num_blocks
    assert tiles.shape[-1] * block_mask.BLOCK_SIZE[0] == len(place)
    attend = torch.nn.functional.scaled_dot_product_attention
    return attend(query, key, value, attn_mask=mask, scale=scale, enable_gqa=True)


def _train(policy: Any, learner: Any, engine: Any, counts: Any) -> dict[str, Any]:
    """Two steps, and what the second update, when all is in place, cost."""
    from scorl import tasks
    from scorl.objectives import StageOne, StageTwo
    from scorl.settings import Sampling
    from scorl.training.loop import train
    from scorl.training.stage import Stage

    update, costs = learner.update, []

    def counted(*args: Any) -> Any:
        counts.reset()
        progress = update(*args)
        head = tuple(policy.decoder.get_output_embeddings().weight.shape)
        syncs, uploads = dict(counts.syncs), dict(counts.uploads)
        costs.append({"syncs": syncs, "uploads": uploads, "head_casts": counts.casts[head]})
        return progress

    learner.update = counted
    stages = [Stage(objective, 1, problems=2, samples=2, attempts=2) for objective in (StageOne(), StageTwo())]
    options: dict[str, Any] = {"engine": engine, "learner": learner, "sampling": Sampling(1.0, 6)}
    steps = list(train(policy, tasks.load("countdown"), stages, **options))
    progress = [step.progress for step in steps]
    return {"losses": [p.loss for p in progress], "gaps": [p.logprob_gap for p in progress], **costs[-1]}


def _decode(engine: Any, counts: Any) -> dict[str, Any]:
    """Synchronisations and launches a decoded token in a batch that no row leaves; synchronisations where rows do."""
    from scorl.engines.engine import Request

    engine.policy.chat = replace(engine.policy.chat, end_ids=frozenset())
    requests = [Request(tuple(range(3, 43 + i // 2)), i) for i in range(4)]
    engine.sample(requests, temperature=1.0, max_tokens=1)  # what is tried once
    found = []
    for tokens in (TOKENS, 2 * TOKENS):
        counts.reset()
        engine.sample(requests, temperature=1.0, max_tokens=tokens)
        found.append((counts.syncs.total(), counts.launches.total(), dict(counts.syncs)))
    (syncs, launches, _), (more_syncs, more_launches, places) = found
    engine.policy.chat = replace(engine.policy.chat, end_ids=frozenset(range(0, 1000, 12)))
    counts.reset()
    many = [replace(r, seed=i) for i in range(4) for r in requests]
    samples = engine.sample(many, temperature=3.0, max_tokens=20, keep=True)
    return {
        "syncs": (more_syncs - syncs) / TOKENS,
        "launches": (more_launches - launches) / TOKENS,
        "places": places,
        "lengths": sorted(len(sample.ids) for sample in samples),
        "syncs_as_rows_end": counts.syncs.total(),
    }


def refusals() -> dict[str, str]:
    """What the pretend GPU says to what CUDA refuses: by name, the kind of its error, or `taken`."""
    import torch

    from support.pretend_gpu.device import pretend_gpu

    def kind(act: Any) -> str:
        try:
            act()
        except Exception as error:
            return type(error).__name__
        return "taken"

    with pretend_gpu() as counts:
        here, there = torch.ones(2), torch.ones(2, device="cuda")
        told = {
            "sum of both": kind(lambda: here + there),
            "lookup of a CPU index": kind(lambda: torch.nn.functional.embedding(here.long(), there[:, None])),
            "numpy": kind(lambda: there.numpy()),
            "a number of the CPU": kind(lambda: there * torch.tensor(2.0)),
            "a copy": kind(lambda: there.copy_(here)),
            "backward": kind(lambda: there.clone().requires_grad_().sum().backward()),
        }
        counts.reset()
        there.sum().item()
        there.tolist()
        there[there > 0]
    return {**told, "synchronisations of three": str(counts.syncs.total())}


def main(guard: str, cases: Sequence[str]) -> None:
    """One line of JSON a case."""
    load_guard(Path(guard))
    warnings.simplefilter("ignore")
    print(json.dumps({"case": "refusals", **refusals()}), flush=True)
    for name in cases:
        try:
            told = Case.named(name).run()
        except Exception:  # the other cases have something to tell as well
            told = {"error": traceback.format_exc()}
        print(json.dumps({"case": name, **told}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
