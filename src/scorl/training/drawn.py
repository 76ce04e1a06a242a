"""Guards of what was sampled: texts that belong to their tokens, and draws that are draws."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import islice

from scorl.engines.engine import Dialogue
from scorl.errors import GuardError
from scorl.trajectory import Group, Response

__all__ = ["check_drawn", "check_varied"]

LOOKS = 16
"""Trajectories whose texts are looked at."""
CHANCE = 1e-8
"""How improbable equal samples must be; a run looks at thousands of steps."""


def check_drawn(chat: Dialogue, groups: Sequence[Group]) -> None:
    """Catches texts that stand beside other tokens, which verdicts are then about, and samples that are no draws.

    Raises:
        GuardError: it is so.
    """
    _check_texts(chat, groups)
    check_varied(groups)


def _check_texts(chat: Dialogue, groups: Sequence[Group]) -> None:
    for trajectory in islice((trajectory for group in groups for trajectory in group), LOOKS):
        for place, response in enumerate(trajectory.responses):
            if response.ids and not response.offline and chat.text(response.ids) != response.text:
                raise GuardError(
                    f"{trajectory.name(place)}, has a text that is not that of its tokens: texts stand beside other "
                    "responses than their own, or the engine's chat is not the model's"
                )


def check_varied(groups: Sequence[Group]) -> None:
    """Catches samples of a problem that are alike although the sampler's own log-probabilities make that improbable.

    Of greedy draws they always are, and of one seed for all.
    """
    chance = 0.0
    for group in groups:
        own = [first for t in group if t.branch == 0 and (first := _first_own(t.responses))]
        if len({response.ids for response in own}) > 1:
            return
        chance += sum(sum(response.logprobs) for response in own[1:])
    if chance < math.log(CHANCE):
        raise GuardError(
            f"all samples of each problem are alike, which by their log-probabilities has a chance of e^{chance:.0f}: "
            "does the sampler take the likeliest token, or one seed for all?"
        )


def _first_own(responses: Sequence[Response]) -> Response | None:
    return next((response for response in responses if not response.offline), None)
