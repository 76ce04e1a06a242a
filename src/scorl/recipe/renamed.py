"""Keys by their former names: a user's recipe is told the new name, a run's own file is read as if it had it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

__all__ = ["RENAMED", "leaves", "rename"]

RENAMED = {
    "model.lora.rank": "model.lora.r",
    "model.lora.alpha": "model.lora.lora_alpha",
    "model.lora.targets": "model.lora.target_modules",
    "engine.vllm.gpu_memory": "engine.vllm.gpu_memory_utilization",
    "engine.vllm.tensor_parallel": "engine.vllm.tensor_parallel_size",
    "engine.vllm.context": "engine.vllm.max_model_len",
    "engine.vllm.patience": "engine.vllm.timeout",
    "engine.vllm.sleep": "engine.vllm.enable_sleep_mode",
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
"""Former keys, and former values (`key=value`), by what they are called now; N is any place in a list."""

Path = tuple[str | int, ...]


def rename(values: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """A recipe's mapping with the present names, and a line for each former one.

    >>> rename({"learner": {"clip": 1.0}})
    ({'learner': {'max_grad_norm': 1.0}}, ['learner.clip: is called max_grad_norm now'])
    """
    renamed = [_present(path, value) for path, value in leaves(values)]
    lines = [line for _, _, line in renamed if line]
    return (_nested((path, value) for path, value, _ in renamed), lines) if lines else (values, [])


def leaves(node: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """What is no mapping and no list, or an empty one, each with its path."""
    pairs = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    if not pairs or not node:
        yield path, node
        return
    for key, value in pairs:
        yield from leaves(value, (*path, key))


def _present(path: Path, value: Any) -> tuple[Path, Any, str | None]:
    """A leaf's present path and value, and what to say about it if they were others."""
    old = ".".join(map(str, path))
    key = re.sub(r"^stages\.\d+\.", "stages.N.", old)
    if new := RENAMED.get(f"{key}={value}"):
        return path, new.partition("=")[2], f"{old}: {value!r} is called {new.partition('=')[2]} now"
    if new := RENAMED.get(key):
        place = (*path[:2], *new.split(".")[2:]) if key != old else tuple(new.split("."))
        same = place[:-1] == path[:-1]
        return place, value, f"{old}: is called {place[-1] if same else '.'.join(map(str, place))} now"
    return path, value, None


def _nested(pairs: Iterable[tuple[Path, Any]]) -> Any:
    """The mapping of some leaves; keys that are numbers make a list."""
    tree: dict[Any, Any] = {}
    for path, value in pairs:
        node = tree
        for key in path[:-1]:
            node = node.setdefault(key, {})
        node[path[-1]] = value
    return _with_lists(tree)


def _with_lists(node: Any) -> Any:
    if not isinstance(node, dict):
        return node
    inner = {key: _with_lists(value) for key, value in node.items()}
    return list(inner.values()) if inner and all(isinstance(key, int) for key in inner) else inner
