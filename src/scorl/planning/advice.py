"""Which setting would make fit what does not: each tried in the model of memory, alone, then one on top of the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from scorl.planning.device import DEVICES
from scorl.planning.memory import memory
from scorl.planning.setup import Setup
from scorl.planning.tokens import lesson
from scorl.settings import LoraSettings

__all__ = ["Remedy", "fits", "remedies"]

MOST_DEVICES = 256


@dataclass(frozen=True)
class Remedy:
    """What to write in the recipe or on the command line, and the bytes of a device after it."""

    change: str
    bytes: float


def fits(setup: Setup) -> bool:
    """Whether a device holds what it has to."""
    return memory(setup).peak <= setup.device.usable()


def remedies(setup: Setup) -> list[Remedy]:
    """Changes that make it fit: each one that does by itself; where none does, the shortest pile of them that does."""
    changed = [found for change in CHANGES if (found := change(setup)) is not None]
    alone = [_remedy(text, after) for text, after in changed if fits(after)]
    return alone or _piled(setup)


def _remedy(text: str, after: Setup) -> Remedy:
    return Remedy(text, memory(after).peak)


def _piled(setup: Setup) -> list[Remedy]:
    """All changes one on top of the other, in their order, until it fits; none where it never does."""
    texts = []
    for change in CHANGES:
        if (found := change(setup)) is not None:
            text, after = found
            if memory(after).peak < memory(setup).peak:
                texts.append(text)
                setup = after
        if fits(setup):
            return [_remedy(" ".join(texts), setup)]
    return []


Change = Callable[[Setup], tuple[str, Setup] | None]
"""A setting's text and the setup with it; None where it is set already, or means nothing."""


def _checkpointing(setup: Setup) -> tuple[str, Setup] | None:
    after = setup.with_learner(checkpointing=True)
    return None if setup.learner.checkpointing else ("learner.checkpointing=true", after)


def _smaller_batches(setup: Setup) -> tuple[str, Setup] | None:
    """Micro-batches halved until it fits, but no smaller than the longest trajectory."""
    longest = max(lesson(setup, stage).longest for stage in setup.stages)
    return _halved(setup, setup.learner.tokens_per_batch, longest, "learner.tokens_per_batch", _with_tokens)


def _fewer_rows(setup: Setup) -> tuple[str, Setup] | None:
    """Fewer rows decoded at once."""
    return _halved(setup, setup.batch_size, 1, "engine.batch_size", lambda s, n: replace(s, batch_size=n))


def _with_tokens(setup: Setup, tokens: int) -> Setup:
    return setup.with_learner(tokens_per_batch=tokens)


def _halved(
    setup: Setup, value: int, least: float, key: str, with_value: Callable[[Setup, int], Setup]
) -> tuple[str, Setup] | None:
    found = list(_halves(value, least))
    if not found:
        return None
    chosen = next((n for n in found if fits(with_value(setup, n))), found[-1])
    return f"{key}={chosen}", with_value(setup, chosen)


def _halves(value: int, least: float) -> Iterator[int]:
    while value // 2 >= least:
        value //= 2
        yield value


def _sharded(setup: Setup) -> tuple[str, Setup] | None:
    wanted = setup.count > 1 and setup.parallel == "ddp"
    return ("--parallel fsdp2", replace(setup, parallel="fsdp2")) if wanted else None


def _half_precision(setup: Setup) -> tuple[str, Setup] | None:
    return None if setup.size == 2 else ("model.dtype=bfloat16", replace(setup, dtype="bfloat16"))


def _adapters(setup: Setup) -> tuple[str, Setup] | None:
    return None if setup.lora else ("model.lora={}", replace(setup, lora=LoraSettings()))


def _more_devices(setup: Setup) -> tuple[str, Setup] | None:
    """Twice as many, and again, until it fits."""
    if setup.device.measured:
        return None
    counts = [n for n in (2**k for k in range(1, 9)) if n > setup.count and n <= MOST_DEVICES]
    made = [replace(setup, count=n, parallel="fsdp2") for n in counts]
    after = next((s for s in made if fits(s)), None)
    return after and (f"--gpus {after.count}", after)


def _larger_device(setup: Setup) -> tuple[str, Setup] | None:
    larger = sorted((d for d in DEVICES.values() if d.memory > setup.device.memory), key=lambda d: d.memory)
    made = [replace(setup, device=device) for device in larger]
    after = next((s for s in made if fits(s)), None)
    return after and (f"--gpu {after.device.name}", after)


CHANGES: tuple[Change, ...] = (
    _checkpointing,
    _smaller_batches,
    _fewer_rows,
    _sharded,
    _half_precision,
    _adapters,
    _more_devices,
    _larger_device,
)
"""From what costs little to what costs most."""
