"""Which setting would make it fit: each is tried in the model of memory, alone, then one on top of the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from scorl.planning.device import DEVICES
from scorl.planning.memory import memory
from scorl.planning.setup import Setup
from scorl.planning.tokens import lesson
from scorl.settings import LoraSettings

__all__ = ["Remedy", "fits", "remedies"]

COUNTS = tuple(2**k for k in range(1, 9))
"""Devices that are tried."""


@dataclass(frozen=True)
class Remedy:
    """What to write in the recipe or on the command line, and the bytes of a device after it."""

    change: str
    bytes: float


def fits(setup: Setup) -> bool:
    """Whether a device holds what it has to."""
    return memory(setup).peak <= setup.device.usable()


def remedies(setup: Setup) -> list[Remedy]:
    """Changes that make it fit: settings that do by themselves, else piles of them; and other devices that do."""
    settings = _alone(setup, (*FREE, *SMALLER, _adapters))
    piles = [_piled(setup, (*FREE, *way, *SMALLER)) for way in ((), *((other,) for other in OTHER))]
    found = settings or [pile for pile in piles if pile is not None]
    return list(dict.fromkeys([*found, *_alone(setup, MORE)]))


def _alone(setup: Setup, changes: Sequence[Change]) -> list[Remedy]:
    changed = [found for change in changes if (found := change(setup)) is not None]
    return [_remedy(text, after) for text, after in changed if fits(after)]


def _remedy(text: str, after: Setup) -> Remedy:
    return Remedy(text, memory(after).peak)


def _piled(setup: Setup, changes: Sequence[Change]) -> Remedy | None:
    """Changes one on top of the other until it fits, those left out that save nothing; None where it never fits."""
    texts = []
    for change in changes:
        found = None if fits(setup) else change(setup)
        if found is not None and _needs(found[1]) < _needs(setup):
            texts.append(found[0])
            setup = found[1]
    return _remedy(" ".join(texts), setup) if fits(setup) else None


def _needs(setup: Setup) -> float:
    """Bytes of both phases: a change counts if it helps in either."""
    found = memory(setup)
    return max(found.at_sampling, setup.device.usable()) + max(found.at_learning, setup.device.usable())


Change = Callable[[Setup], tuple[str, Setup] | None]
"""A setting's text and the setup with it; None where it is set already, or means nothing."""


def _checkpointing(setup: Setup) -> tuple[str, Setup] | None:
    after = setup.with_learner(gradient_checkpointing=True)
    return None if setup.learner.gradient_checkpointing else ("learner.gradient_checkpointing=true", after)


def _smaller_batches(setup: Setup) -> tuple[str, Setup] | None:
    """Micro-batches halved until learning fits, but no smaller than the longest trajectory."""
    longest = max(lesson(setup, stage).longest for stage in setup.stages)
    sizes = list(_halves(setup.learner.tokens_per_microbatch, longest))
    made = [(f"learner.tokens_per_microbatch={n}", setup.with_learner(tokens_per_microbatch=n)) for n in sizes]
    return _first(made, lambda after: memory(after).at_learning <= after.device.usable())


def _fewer_rows(setup: Setup) -> tuple[str, Setup] | None:
    """The rows that are decoded at once halved until sampling fits."""
    made = [(f"engine.batch_size={n}", replace(setup, batch_size=n)) for n in _halves(setup.batch_size, 1)]
    return _first(made, lambda after: memory(after).at_sampling <= after.device.usable())


def _first(made: list[tuple[str, Setup]], right: Callable[[Setup], bool]) -> tuple[str, Setup] | None:
    return next(((text, after) for text, after in made if right(after)), None)


def _halves(value: int, least: float) -> Iterator[int]:
    while value // 2 >= least:
        value //= 2
        yield value


def _sharded(setup: Setup) -> tuple[str, Setup] | None:
    wanted = setup.count > 1 and setup.parallel == "ddp" and not setup.lora
    return ("launcher.parallel=fsdp2", replace(setup, parallel="fsdp2")) if wanted else None


def _half_precision(setup: Setup) -> tuple[str, Setup] | None:
    return None if setup.size == 2 else ("model.dtype=bfloat16", replace(setup, dtype="bfloat16"))


def _adapters(setup: Setup) -> tuple[str, Setup] | None:
    return None if setup.lora else ("model.lora={}", replace(setup, lora=LoraSettings()))


def _more_devices(setup: Setup) -> tuple[str, Setup] | None:
    """Twice as many, and again, until it fits."""
    if setup.device.measured or setup.lora:
        return None  # several CPUs are not planned, and adapters are not divided
    after = [replace(setup, count=n, parallel="fsdp2") for n in COUNTS if n > setup.count]
    made = [(f"launcher.workers={each.count} launcher.parallel=fsdp2", each) for each in after]
    return _first(made, fits)


def _larger_device(setup: Setup) -> tuple[str, Setup] | None:
    larger = sorted((d for d in DEVICES.values() if d.memory > setup.device.memory), key=lambda d: d.memory)
    return _first([(f"--gpu {d.name}", replace(setup, device=d)) for d in larger], fits)


FREE: tuple[Change, ...] = (_checkpointing, _sharded, _half_precision)
"""What costs time or digits, and changes nothing of the method."""
SMALLER: tuple[Change, ...] = (_smaller_batches, _fewer_rows)
"""What costs time alone, the more the smaller; tried last in a pile."""
MORE: tuple[Change, ...] = (_more_devices, _larger_device)
"""What costs money."""
OTHER: tuple[Change, ...] = (_adapters, *MORE)
"""Another method, or other devices."""
