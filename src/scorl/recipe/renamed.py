"""Keys by their former names, which are read as the present ones."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from scorl.errors import UserError

__all__ = ["RENAMED", "leaves", "rename"]

RENAMED = {
    "model.lora.rank": "model.lora.r",
    "model.lora.alpha": "model.lora.lora_alpha",
    "model.lora.targets": "model.lora.target_modules",
    "engine.vllm.python": "engine.python",
    "engine.vllm.max_sync_gap": "engine.max_sync_gap",
    "engine.vllm.context": "engine.max_model_len",
    "engine.vllm.gpu_memory": "engine.gpu_memory_utilization",
    "engine.vllm.tensor_parallel": "engine.tensor_parallel_size",
    "engine.vllm.sleep": "engine.enable_sleep_mode",
    "engine.vllm.patience": "engine.timeout",
    "engine.vllm": "",
    "learner.optimizer": "learner.optim",
    "learner.lr": "learner.learning_rate",
    "learner.betas.0": "learner.adam_beta1",
    "learner.betas.1": "learner.adam_beta2",
    "learner.schedule": "learner.lr_scheduler_type",
    "learner.warmup": "learner.warmup_steps",
    "learner.clip": "learner.max_grad_norm",
    "learner.tokens_per_batch": "learner.tokens_per_microbatch",
    "learner.packing=tree": "learner.packing=prefix_tree",
    "learner.packing=rows": "learner.packing=padded",
    "learner.checkpointing": "learner.gradient_checkpointing",
    "learner.importance_cap": "learner.importance_sampling_cap",
    "stages.N.renew_reference": "stages.N.reset_reference",
    "evaluation.every": "evaluation.eval_steps",
    "checkpoint.every": "checkpoint.save_steps",
    "checkpoint.keep": "checkpoint.save_total_limit",
}
"""Former keys, and former values (`key=value`), by what they are called now; N is any place in a list, and an empty
name says that the keys of a mapping stand one level higher."""


def rename(values: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """A recipe's mapping with the present names, and a line for each former one.

    >>> rename({"learner": {"clip": 1.0}})
    ({'learner': {'max_grad_norm': 1.0}}, ['learner.clip: is called max_grad_norm now'])

    Raises:
        UserError: a key is there by both names.
    """
    renamed = [_present(path, value) for path, value in leaves(values)]
    lines = [line for _, _, line in renamed if line]
    present = [path for path, _, _ in renamed if path]
    if both := [line for path, _, line in renamed if line and present.count(path) > 1]:
        raise UserError("\n  ".join(f"{line}, and is there by both names" for line in both))
    return (_nested((path, value) for path, value, _ in renamed if path), lines) if lines else (values, [])


def leaves(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """What is no mapping and no list, or an empty one, each with its dotted path."""
    pairs = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    if not pairs or not node:
        yield path, node
    else:
        for key, value in pairs:
            yield from leaves(value, f"{path}.{key}".removeprefix("."))


def _present(path: str, value: Any) -> tuple[str, Any, str]:
    """A leaf's present path and value, and what to say about it if they were others."""
    key = re.sub(r"\.\d+\.", ".N.", path)
    if f"{key}={value}" in RENAMED:
        new = RENAMED[f"{key}={value}"].partition("=")[2]
        return path, new, f"{path}: {value!r} is called {new} now"
    if key not in RENAMED:
        return path, value, ""
    section, _, name = RENAMED[key].rpartition(".")
    if not name:
        return "", value, f"{path}: its keys stand one level higher now"
    if section != key.rpartition(".")[0]:
        return RENAMED[key], value, f"{path}: is called {RENAMED[key]} now"
    return f"{path.rpartition('.')[0]}.{name}", value, f"{path}: is called {name} now"


def _nested(pairs: Iterable[tuple[str, Any]]) -> Any:
    """The mapping of some leaves; keys that are numbers make a list."""
    tree: dict[str, Any] = {}
    for path, value in pairs:
        *parents, name = path.split(".")
        node: Any = tree
        for key in parents:
            node = node.setdefault(key, {})
            if not isinstance(node, dict):
                raise UserError(f"{path}: no key has a dot in its name")
        node[name] = value
    return _with_lists(tree)


def _with_lists(node: Any) -> Any:
    if not isinstance(node, dict):
        return node
    inner = {key: _with_lists(value) for key, value in node.items()}
    return list(inner.values()) if inner and all(str(key).isdigit() for key in inner) else inner
