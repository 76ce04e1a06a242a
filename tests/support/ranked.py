"""What test_ranks.py and test_four_ranks.py run: python support/ranked.py MODEL FOLDER CASE ..., under torchrun."""

import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from torch.distributed.fsdp import FSDPModule

from scorl.distributed.ranks import ALONE, Ranks, exit_process, process_group
from scorl.engines.torch import TorchEngine
from scorl.learner import Learner, Progress
from scorl.model.policy import Policy
from scorl.model.shards import local_shard
from scorl.objectives import StageOne, StageTwo, Star, Supervised
from scorl.recipe import LauncherSettings
from scorl.run.build import BuiltRecipe, place_of_weights
from scorl.run.directory import RunDirectory
from scorl.run.run import run_recipe
from scorl.settings import CheckpointSettings, Dtype, EvaluationSettings, LearnerSettings, LoraSettings
from scorl.training.stage import Stage
from support.worlds import letters, letters_recipe

HAS_FSDP2 = hasattr(FSDPModule, "reset_iter_state")
"""As torch 2.13 has it; with older versions scorl refuses `launcher.parallel: fsdp2`."""
needs_fsdp2 = pytest.mark.skipif(not HAS_FSDP2, reason="fsdp2 wants torch 2.13 or newer")

STAGES = {
    "full": (
        Stage(Supervised(), 1, problems=3, samples=1, attempts=1),
        Stage(StageOne(target_kl=0.01), 4, problems=3, samples=4, reset_reference=True),
        Stage(StageTwo(), 5, problems=5, samples=4, branches=2, offline=0.5),
    ),
    "collected": (Stage(Star(), 2, problems=3, samples=150),),
    "online": (Stage(StageOne(), 6, problems=3, samples=4),),  # no reference samples, nor an evaluation between
    "few": (Stage(StageTwo(), 2, problems=1, samples=3),),  # too few for four ranks
}


def supported(cases: Iterable[str]) -> list[str]:
    """Those of the cases that this version of torch can run."""
    return [case for case in cases if HAS_FSDP2 or not ("fsdp2" in case or "half" in case)]


def built(model: str, stages: str, kind: str = "ddp", ranks: Ranks = ALONE) -> BuiltRecipe:
    """Steps that have everything in them, in micro-batches so small that ranks need different numbers of them."""
    lora = LoraSettings(r=2) if kind.endswith("lora") else None
    sharded = kind in ("fsdp2", "half", "fsdp2lora")
    recipe = replace(
        letters_recipe(model, STAGES[stages], max_tokens=3),
        learner=LearnerSettings(
            learning_rate=1e-3, tokens_per_microbatch=40, lr_scheduler_type="cosine", warmup_steps=2
        ),
        evaluation=EvaluationSettings(eval_steps=0 if stages == "online" else 4, problems=3, fixed=stages == "full"),
        checkpoint=CheckpointSettings(save_steps=3, save_total_limit=9, state_total_limit=9),
        launcher=LauncherSettings(parallel="fsdp2" if sharded else "ddp"),
    )
    dtype: Dtype = "bfloat16" if kind.startswith("half") else "float32"
    policy = Policy(model, lora=lora, weights=place_of_weights(recipe, ranks), dtype=dtype)
    return BuiltRecipe(recipe, policy, TorchEngine(policy), letters())


def let_reference_drift() -> None:
    """Change this rank's shards of the reference after the first update."""
    update = Learner.update

    def update_and_drift(learner: Learner, *args: Any) -> Progress:
        progress = update(learner, *args)
        for parameter in learner.reference.head.parameters():
            local_shard(parameter).mul_(1 + 1e-6)
        return progress

    Learner.update = update_and_drift  # type: ignore[method-assign]


def main(model: str, folder: Path, cases: list[str]) -> None:
    """Each case is STAGES-KIND, and resumes what lies in its folder."""
    with process_group(None, 120.0, "cpu") as ranks:
        for case in cases:
            stages, kind, *more = case.split("-")
            case_built = built(model, stages, kind, ranks)
            if "rows" in more:
                recipe = case_built.recipe
                learner = replace(recipe.learner, gradient_checkpointing=True, packing="padded")
                case_built = replace(case_built, recipe=replace(recipe, learner=learner))
            if "drifting" in more:
                let_reference_drift()
            if "once" in more:
                recipe = case_built.recipe
                learner = replace(recipe.learner, sync_each_batch=False)
                case_built = replace(case_built, recipe=replace(recipe, learner=learner))
            if "async" in more:
                recipe = case_built.recipe
                checkpoint = replace(recipe.checkpoint, async_save=True)
                case_built = replace(case_built, recipe=replace(recipe, checkpoint=checkpoint))
            run_recipe(case_built, RunDirectory(folder / case, ranks))
        ranks.barrier("the end")
    exit_process(0)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])
