"""The paper's figures, to stand beside ours: @t1, @t2, Delta in percent, without intervals as published."""

from __future__ import annotations

__all__ = ["PUBLISHED", "Published"]

Published = tuple[float, float, float]

PUBLISHED: dict[str, Published] = {
    "base": (52.6, 41.4, -11.2),
    "self_refine": (52.8, 51.8, -1.0),
    "star": (55.4, 41.2, -14.2),
    "star_plus": (53.6, 54.0, 0.4),
    "pair_sft": (52.4, 54.2, 1.8),
    "pair_sft_plus": (55.0, 55.0, 0.0),
    "single_turn": (61.8, 59.4, -2.4),
    "score": (60.0, 64.4, 4.4),
    "no_stage_one": (59.2, 61.4, 2.2),
    "no_bonus": (60.0, 62.6, 2.6),
    "star_stage_two": (56.2, 58.4, 2.2),
    "offline_only": (60.4, 60.6, 0.2),
}
"""MATH500 with Gemini 1.5 Flash, by the names of `METHODS`. Multi-turn RL has no row in the paper's tables."""
