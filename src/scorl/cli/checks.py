"""What this machine, this installation and a model can do."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterator
from importlib import metadata

import torch
import transformers

from scorl.engines.engine import Request
from scorl.engines.torch import TorchEngine
from scorl.estimate.device import bandwidth, matmul_rate
from scorl.model.onednn import onednn_is_faster
from scorl.model.policy import Policy
from scorl.trajectory import user
from scorl.verifiers.program import broker_pool
from scorl.verifiers.sandbox_test import try_forbidden_acts
from scorl.version import __version__

__all__ = ["EXTRAS", "Finding", "of_installation", "of_model", "of_rates", "of_sandbox"]

Finding = tuple[str, str]
"""What was looked at, and what was found."""

EXTRAS = {
    "math": ("math-verify",),
    "lora": ("peft",),
    "hub": ("datasets",),
    "parquet": ("pyarrow",),
    "gguf": ("gguf",),
    "vllm": ("vllm",),
    "loggers": ("tensorboard", "wandb", "trackio"),
    "ray": ("ray",),
}
"""The optional groups of pyproject.toml and what they bring."""

QUESTION = "What is 2 + 3?"


def of_installation() -> Iterator[Finding]:
    """Versions, device, threads and extras."""
    yield "scorl", __version__
    yield "python", platform.python_version()
    yield "torch", str(torch.__version__)
    yield "transformers", str(transformers.__version__)
    yield "device", _device()
    asked = os.environ.get("OMP_NUM_THREADS")
    yield (
        "threads",
        f"{torch.get_num_threads()} of {os.cpu_count()} cores; "
        + (
            f"OMP_NUM_THREADS={asked}"
            if asked
            else "OMP_NUM_THREADS is not set, which means all; a tiny model wants 1 or 2"
        ),
    )
    yield "matmuls", "by oneDNN on the CPU (model.onednn)" if onednn_is_faster() else "as torch does them"
    for extra, names in EXTRAS.items():
        versions = {name: _version(name) for name in names}
        found = ", ".join(f"{name} {version}" if version else f"no {name}" for name, version in versions.items())
        yield (
            f"extra '{extra}'",
            found + ("" if all(versions.values()) else f": pip install 'scorl[{extra}]'"),
        )


def of_rates() -> Iterator[Finding]:
    """What this CPU reaches, as `scorl plan` measures it."""
    many, few = (matmul_rate(tokens) / 1e9 for tokens in (2048, 32))
    yield "matrices", f"{many:.0f} GFLOP/s on 2,048 tokens, {few:.0f} on 32"
    yield "bandwidth", f"{bandwidth() / 1e9:.1f} GB/s element by element"


def of_sandbox() -> Iterator[Finding]:
    """How well untrusted programs are held here, proved by programs that try to break out."""
    name, reason = broker_pool(os.getpid()).level
    yield "sandbox", f"{name}: {reason}" if name == "full" else f"{name.upper()}: {reason}"
    if name == "none":
        return
    acts = try_forbidden_acts()
    refused, done = ([act for act, stopped in acts.items() if stopped is wanted] for wanted in (True, False))
    yield "sandbox, tried", "refused: " + (", ".join(refused) or "nothing")
    if done:
        yield "sandbox, tried", "NOT refused: " + ", ".join(done)


def of_model(name: str) -> Iterator[Finding]:
    """What a model is, what its template does to history, how it ends a turn, and a few words of it.

    Raises:
        UserError: the model cannot be loaded.
    """
    policy = Policy(name)
    chat = policy.chat
    decoder = policy.decoder
    yield "model", f"{type(decoder).__name__}, {decoder.num_parameters():,} parameters, on {policy.device}"
    yield "context", f"{policy.max_positions} tokens" if policy.max_positions else "no limit is named"
    ends = policy.tokenizer.convert_ids_to_tokens(sorted(chat.end_ids))
    yield "end tokens", " ".join(ends)
    for difference in chat.differences() or ["none: appended turns read as the template writes them"]:
        yield "template", difference
    prompt = chat.prompt((user(QUESTION),))
    began = time.perf_counter()
    sample = TorchEngine(policy).sample([Request(prompt, 0)], temperature=0.0, max_tokens=16)[0]
    rate = len(sample.ids) / (time.perf_counter() - began)
    yield "generation", f"{QUESTION!r} -> {chat.text(sample.ids)!r} ({rate:.0f} tokens/s, greedy, one row)"


def _device() -> str:
    if torch.cuda.is_available():
        return f"{torch.cuda.device_count()} GPU: {torch.cuda.get_device_name()}"
    return "mps" if torch.backends.mps.is_available() else f"cpu ({platform.machine()})"


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
