"""What would make it fit: each setting is tried by itself, then one on top of the other, by plans of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from scorl.errors import UserError
from scorl.estimate.device import DEVICES
from scorl.estimate.plan import Case, memory_of, problems_of
from scorl.recipe import changed

__all__ = ["Suggestion", "suggestions"]


@dataclass(frozen=True)
class Suggestion:
    """What to write on the command line, and the bytes of a device after it."""

    change: str
    bytes: float


Change = Callable[[Case], Iterator[str]]
"""Overrides to try, the mildest first; none where the setting is there already, or means nothing."""


def _sleep(case: Case) -> Iterator[str]:
    if case.vllm_bytes and not case.recipe.engine.settings.enable_sleep_mode:
        yield "engine.enable_sleep_mode=true"


def _smaller_server(case: Case) -> Iterator[str]:
    share = case.recipe.engine.settings.gpu_memory_utilization if case.vllm_bytes else 0.0
    while (share := round(share - 0.05, 2)) > 0:
        yield f"engine.gpu_memory_utilization={share}"


def _larger_server(case: Case) -> Iterator[str]:
    share = case.recipe.engine.settings.gpu_memory_utilization if case.vllm_bytes else 1.0
    while (share := round(share + 0.05, 2)) < 0.9:
        yield f"engine.gpu_memory_utilization={share}"


def _checkpointing(case: Case) -> Iterator[str]:
    if not case.recipe.learner.gradient_checkpointing:
        yield "learner.gradient_checkpointing=true"


def _smaller_microbatches(case: Case) -> Iterator[str]:
    """Halved, but no smaller than the longest trajectory."""
    tokens = case.recipe.learner.tokens_per_microbatch
    longest = max(case.workload(stage).longest for stage in case.recipe.stages)
    while (tokens := tokens // 2) >= longest:
        yield f"learner.tokens_per_microbatch={tokens}"


def _fewer_rows(case: Case) -> Iterator[str]:
    """Rows decoded at once; vLLM has its own share of the device for them."""
    rows = case.recipe.engine.settings.batch_size if case.recipe.engine.name == "torch" else 0
    while (rows := rows // 2) >= 16:
        yield f"engine.batch_size={rows}"


def _half_precision(case: Case) -> Iterator[str]:
    if case.size == 4 and case.device.is_gpu:
        yield "model.dtype=bfloat16"


def _lora(case: Case) -> Iterator[str]:
    if not case.recipe.model.lora and case.shards == 1:
        yield "model.lora={}"


def _shards(case: Case) -> Iterator[str]:
    """FSDP2 over 2 to 64 GPUs."""
    if case.device.is_gpu and not case.recipe.model.lora:
        for count in (2, 4, 8, 16, 32, 64):
            if count > case.shards:
                yield f"launcher.name=torchrun launcher.workers={count} launcher.parallel=fsdp2"


ALONE: tuple[Change, ...] = (
    _sleep, _checkpointing, _smaller_microbatches, _fewer_rows, _smaller_server, _larger_server, _half_precision,
    _shards, _lora,
)  # fmt: skip
MILD: tuple[Change, ...] = (
    _half_precision, _sleep, _checkpointing, _smaller_microbatches, _fewer_rows, _smaller_server, _larger_server,
)  # fmt: skip
"""What costs time alone, in the order in which it is piled up."""
OTHER: tuple[tuple[Change, ...], ...] = (MILD, (*MILD[:3], _shards, *MILD[3:]), (*MILD[:3], _lora, *MILD[3:]))


def suggestions(case: Case) -> list[Suggestion]:
    """Settings that make it fit by themselves, else the shortest piles of them; and a larger device that does."""
    alone = [made for change in ALONE if (made := _first_that_fits(case, change))]
    piles = [] if alone else [pile for way in OTHER if (pile := _pile(case, way))]
    return [*dict.fromkeys([*alone, *piles]), *_larger_device(case)]


def _trials(case: Case, change: Change) -> Iterator[tuple[str, Case, float]]:
    """What is tried, the case after it, and its excess; without what contradicts the recipe or this installation."""
    for text in change(case):
        try:
            after = replace(case, recipe=changed(case.recipe, text.split(), "the suggestion"))
            excess = _excess(after)
        except UserError:
            continue
        yield text, after, excess


def _excess(case: Case) -> float:
    """Bytes that are too many; a server without room for a row counts like a whole device."""
    memory = memory_of(case)
    usable = case.device.usable
    over = max(0.0, memory.at_sampling - usable) + max(0.0, memory.at_learning - usable)
    return over or usable * len(problems_of(case, memory))


def _first_that_fits(case: Case, change: Change) -> Suggestion | None:
    for text, after, excess in _trials(case, change):
        if not excess:
            return Suggestion(text, memory_of(after).peak)
    return None


def _pile(case: Case, changes: tuple[Change, ...]) -> Suggestion | None:
    """Changes one on top of the other until it fits, those left out that save nothing; None where it never fits."""
    texts: list[str] = []
    for change in changes:
        before, best = _excess(case), None
        for text, after, excess in _trials(case, change) if before else ():
            if excess < before:
                before, best = excess, (text, after)
            if not excess:
                break
        if best:
            texts.append(best[0])
            case = best[1]
    return None if _excess(case) else Suggestion(" ".join(texts), memory_of(case).peak)


def _larger_device(case: Case) -> Iterator[Suggestion]:
    larger = sorted((d for d in DEVICES.values() if d.memory > case.device.memory), key=lambda d: d.memory)
    for device in larger if case.device.is_gpu else ():
        if not _excess(after := replace(case, device=device)):
            yield Suggestion(f"--gpu {device.name}", memory_of(after).peak)
            return
