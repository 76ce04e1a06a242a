"""What `scorl doctor` looks at: this installation, this machine, its sandbox, and a model."""

from __future__ import annotations

import importlib
import os
import platform
import time
import warnings
from collections.abc import Iterator, Sequence
from importlib import metadata

import torch
import transformers

from scorl.engines.engine import Request, Sample
from scorl.engines.prefix_support import try_shared_prefix
from scorl.engines.torch import TorchEngine
from scorl.estimate.device import bandwidth, matmul_rate
from scorl.learner.tree_check import check_tree_support
from scorl.model.chat import Chat
from scorl.model.dtype import LARGE, choose_dtype, choose_onednn
from scorl.model.policy import Policy
from scorl.model.rates import cpu_rates
from scorl.run.trackers import MODULES
from scorl.settings import ModelSettings
from scorl.trajectory import Credit, Problem, Response, TrainingExample, Trajectory, user
from scorl.verifiers.program import broker_pool
from scorl.verifiers.sandbox_test import try_forbidden_acts
from scorl.version import __version__

__all__ = ["EXTRAS", "Finding", "check_installation", "check_model", "check_rates", "check_sandbox"]

Finding = tuple[str, str]
"""What was looked at, and what was seen."""

EXTRAS = {
    "math": ("math-verify",),
    "lora": ("peft",),
    "qlora": ("peft", "bitsandbytes", "accelerate"),
    "liger": ("liger-kernel",),
    "hub": ("datasets",),
    "parquet": ("pyarrow",),
    "gguf": ("gguf",),
    "vllm": ("vllm",),
    "openai": ("openai",),
    "serve": ("starlette", "uvicorn"),
    "inspect": ("inspect-ai",),
    "figures": ("matplotlib",),
    "loggers": ("tensorboard", "wandb", "trackio"),
    "ray": ("ray",),
    "reasoning-gym": ("reasoning-gym",),
    "verifiers": ("verifiers",),
}
"""The optional groups of pyproject.toml and what they bring."""

QUESTION = "What is 2 + 3?"


def check_installation() -> Iterator[Finding]:
    """Versions, device, threads, and extras."""
    yield "scorl", __version__
    yield "python", platform.python_version()
    yield "torch", str(torch.__version__)
    yield "transformers", str(transformers.__version__)
    yield "device", _describe_device()
    yield "threads", _describe_threads()
    for extra, packages in EXTRAS.items():
        yield f"extra '{extra}'", _describe_extra(extra, packages)


def check_rates() -> Iterator[Finding]:
    """What this CPU reaches, as `scorl plan` and a run's start measure it, and what a run makes of it."""
    many, few = (matmul_rate(tokens) / 1e9 for tokens in (2048, 32))
    yield "matrices", f"{many:.0f} GFLOP/s on 2,048 tokens, {few:.0f} on 32, in float32"
    yield "matmuls", str(cpu_rates())
    yield "large models", f"{_describe_arithmetic(LARGE)} (from {LARGE:,} parameters on, by these rates)"
    yield "smaller ones", _describe_arithmetic(0)
    yield "bandwidth", f"{bandwidth() / 1e9:.1f} GB/s element by element"


def check_sandbox() -> Iterator[Finding]:
    """How well untrusted programs are held here, proved by programs that try to break out."""
    name, reason = broker_pool(os.getpid()).level
    yield "sandbox", f"{name}: {reason}" if name == "full" else f"{name.upper()}: {reason}"
    if name == "none":
        return
    acts = try_forbidden_acts()
    yield "sandbox, tried", "refused: " + (", ".join(act for act, stopped in acts.items() if stopped) or "nothing")
    if not all(acts.values()):
        yield "sandbox, tried", "NOT refused: " + ", ".join(act for act, stopped in acts.items() if not stopped)


def check_model(settings: ModelSettings, chat: Chat) -> Iterator[Finding]:
    """What a model is, what its template does to history, how it ends a turn, and a few words of it.

    Raises:
        UserError: the model cannot be loaded.
    """
    policy = Policy.of(settings, chat=chat)
    size = policy.decoder.num_parameters()
    dtype = str(policy.dtype).removeprefix("torch.")
    yield "model", f"{type(policy.decoder).__name__}, {size:,} parameters, in {dtype} on {policy.device}"
    yield "context", f"{policy.max_positions} tokens" if policy.max_positions else "no limit is named"
    yield "end tokens", " ".join(policy.tokenizer.convert_ids_to_tokens(sorted(chat.end_ids))) or "none"
    if chat.stop_strings:
        yield "stop strings", " ".join(map(repr, chat.stop_strings))
    for difference in chat.differences() or ["appended turns read as the template writes them"]:
        yield "template", difference
    prompt = chat.prompt((user(QUESTION),))
    began = time.perf_counter()
    with warnings.catch_warnings(action="ignore"):  # the next line says it
        sample = TorchEngine(policy).sample([Request(prompt, 0)], temperature=0.0, max_tokens=16)[0]
    rate = len(sample.ids) / (time.perf_counter() - began)
    yield "sampling", _describe_sharing(policy)
    yield "learning", _describe_layout(policy, prompt, sample)
    yield "generation", f"{QUESTION!r} -> {chat.text(sample.ids)!r} ({rate:.0f} tokens/s, greedy, one row)"


def _describe_layout(policy: Policy, prompt: tuple[int, ...], sample: Sample) -> str:
    """How trajectories are laid out for the learner, tried on two that begin alike."""
    responses = (Response(prompt, ids, (0.0,) * len(ids), "", "stop") for ids in (sample.ids, sample.ids[:1]))
    problem = Problem("doctor", (user(QUESTION),))
    trajectories = (Trajectory(problem, number, (response,)) for number, response in enumerate(responses))
    examples = [TrainingExample(trajectory, (Credit(1.0),)) for trajectory in trajectories]
    objection = check_tree_support(policy, examples, "prefix_tree")
    return f"as plain rows, which is slower: {objection}" if objection else "as prefix trees: what is shared, once"


def _describe_sharing(policy: Policy) -> str:
    """What the embedded engine computes once for several samples and turns."""
    if fault := try_shared_prefix(policy):
        return f"each sample copies its prompt, which is slower: the model {fault}"
    return "samples share their prompt, later turns go on from what is cached"


def _describe_arithmetic(parameters: int) -> str:
    """What `model.dtype: auto` and `model.onednn: null` mean on this CPU."""
    cpu = torch.device("cpu")
    dtype = choose_dtype("auto", cpu, lambda: parameters)
    by = "oneDNN" if choose_onednn(None, dtype, cpu, lambda: parameters) else "torch's own products"
    return dtype if dtype != "float32" else f"float32 by {by}"


def _describe_device() -> str:
    if torch.cuda.is_available():
        return f"{torch.cuda.device_count()} GPU: {torch.cuda.get_device_name()}"
    return f"cpu ({platform.machine()})"  # also on a Mac: nothing runs on its GPU


def _describe_threads() -> str:
    variable = os.environ.get("OMP_NUM_THREADS")
    reason = (
        f"OMP_NUM_THREADS={variable}"
        if variable
        else "OMP_NUM_THREADS is not set, which means all; a tiny model wants 1 or 2"
    )
    return f"{torch.get_num_threads()} of {os.cpu_count()} cores; {reason}"


def _describe_extra(extra: str, packages: Sequence[str]) -> str:
    versions = {package: _find_version(package) for package in packages}
    listed = ", ".join(f"{name} {version}" if version else f"no {name}" for name, version in versions.items())
    broken = {name: fault for name, version in versions.items() if version and (fault := _find_fault(name))}
    for name, fault in broken.items():
        listed += f"; {name} CANNOT BE IMPORTED: {fault}"
    return listed if all(versions.values()) and not broken else f"{listed}: pip install 'scorl[{extra}]'"


def _find_version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _find_fault(package: str) -> str | None:
    """Why an installed package cannot be imported; what is there may still not go together."""
    if package == "vllm":  # takes half a minute; `engine.name: vllm` says what is wrong with it
        return None
    try:
        importlib.import_module(MODULES.get(package, package.replace("-", "_")))
    except Exception as error:  # of any kind: it is somebody else's code
        return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    return None
