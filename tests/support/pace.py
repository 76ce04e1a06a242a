"""How far a harness of many cases is."""

import time
from collections.abc import Iterator, Sequence

__all__ = ["paced"]


def paced(cases: Sequence[int], size: int = 1) -> Iterator[int]:
    """The cases, of which each is so many tries; every half minute a line says how many are done, and how long it takes
    to the end."""
    begun = said = time.monotonic()
    for place, case in enumerate(cases):
        now = time.monotonic()
        if place and now - said > 30:
            said, rate = now, place * size / (now - begun)
            left = (len(cases) - place) * size / rate / 60
            print(f"  {place * size}/{len(cases) * size}, {rate:.1f} a second, {left:.0f} min", flush=True)
        yield case
