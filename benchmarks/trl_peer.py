"""The peer: TRL's GRPOTrainer on two-turn problems, in the settings that are its fastest on a CPU.

TRL's way to several turns is a `rollout_func`. This one generates the first attempts of all samples in one batch of
`transformers.generate`, appends the turn that asks again, and generates the second attempts in one batch; prompts are
left-padded, and all have one length here. TRL then scores and learns: a scalar reward for the whole trajectory, the
KL (k3) of every token that the policy wrote to a reference model that it loads. Nothing is logged, saved or reported,
gradient checkpointing, which its defaults switch on, is off as it is in ours, and the optimiser is the fused one.
Weights are float32; products are, too, or bfloat16 by autocast, which is TRL's default.

What TRL 1.16 computes more of: the second generation prefills prompt and first attempt again, for each sample, as
`generate` begins with no cache; prompts are computed once for each sample in learning too; its fused head scores every
position of a row on a CPU.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common import clock, coin
from datasets import Dataset
from peers import generated
from transformers import TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from scorl.model.chat import Chat
from scorl.model.onednn import use_onednn
from scorl.settings import Dtype

__all__ = ["Peer"]

os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"


@dataclass
class Peer:
    """Two-turn GRPO with TRL; `train` tells `between` after each step what it took."""

    folder: Path
    """An ordinary Hugging Face model."""
    chat: Chat
    prompts: Sequence[tuple[int, ...]]
    """Of the problems of one step."""
    correction: str
    samples: int
    tokens: int
    """Of each response."""
    rows: int
    """Of a micro-batch."""
    dtype: Dtype = "float32"
    """That it computes in."""
    onednn: bool = False
    """Whether its linear layers multiply by ours."""
    sampling: list[float] = field(default_factory=list)
    """Processor seconds of each rollout."""

    def train(self, steps: int, between: Callable[[float], None], scratch: Path) -> None:
        """Make so many steps."""
        count = len(self.prompts) * self.samples
        config = GRPOConfig(
            output_dir=str(scratch),
            max_steps=steps,
            per_device_train_batch_size=min(self.rows, count),
            gradient_accumulation_steps=max(1, count // self.rows),
            num_generations=self.samples,
            max_completion_length=4 * self.tokens,
            beta=0.01,
            learning_rate=1e-6,
            lr_scheduler_type="constant",
            optim="adamw_torch_fused",
            bf16=self.dtype == "bfloat16",
            gradient_checkpointing=False,
            use_cpu=True,
            logging_strategy="no",
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            model_init_kwargs={"dtype": "float32"},
        )
        data = Dataset.from_list([{"prompt": str(number)} for number in range(len(self.prompts))])
        trainer = GRPOTrainer(
            model=str(self.folder),
            reward_funcs=_reward,
            args=config,
            train_dataset=data,
            processing_class=self.chat.tokenizer,
            rollout_func=self._rollout,
            callbacks=[_Clock(between)],
        )
        if self.onednn:
            use_onednn(trainer.model)
            use_onednn(trainer.ref_model)
        trainer.train()

    def _rollout(self, prompts: list[str], trainer: Any) -> dict[str, Any]:
        began = clock()
        first = [list(self.prompts[int(prompt)]) for prompt in prompts]
        one = self._generate(trainer, first)
        second = [list(self.chat.follow(p, y, self.correction)) for p, y in zip(first, one, strict=True)]
        two = self._generate(trainer, second)
        said = [len(s) - len(p) - len(y) for p, y, s in zip(first, one, second, strict=True)]
        self.sampling.append(clock() - began)
        return {
            "prompt_ids": first,
            "completion_ids": [s[len(p) :] + y for p, s, y in zip(first, second, two, strict=True)],
            "logprobs": None,
            "env_mask": [[1] * len(y) + [0] * n + [1] * len(z) for y, n, z in zip(one, said, two, strict=True)],
        }

    def _generate(self, trainer: Any, prompts: list[list[int]]) -> list[list[int]]:
        model = trainer.accelerator.unwrap_model(trainer.model)
        model.eval()
        found = generated(model, prompts, self.tokens, self.chat.tokenizer.pad_token_id, self.dtype)
        model.train()
        return found


def _reward(completions: list[str], **columns: Any) -> list[float]:
    return [coin(completion) for completion in completions]


class _Clock(TrainerCallback):  # type: ignore[misc]
    def __init__(self, between: Callable[[float], None]) -> None:
        self.between = between

    def on_step_begin(self, *unused: Any, **more: Any) -> None:
        self.began = clock()

    def on_step_end(self, *unused: Any, **more: Any) -> None:
        self.between(clock() - self.began)
