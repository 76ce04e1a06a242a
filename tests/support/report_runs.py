"""Run directories that reports are made of, without a model, and what stands in the page."""

from __future__ import annotations

import base64
import gzip
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from scorl.run.directory import RunDirectory

__all__ = ["attempt_lines", "read_page", "write_run"]

STAGES = ("one", "two")


def attempt_lines(step: int, problem: str, sample: int, texts: Iterable[str], rewards: str, **more: Any) -> list[dict]:
    """The lines of a trajectory; rewards as digits, one an attempt."""
    return [
        {
            "step": step, "problem": problem, "sample": sample, "turn": turn, "place": turn, "role": "attempt",
            "branch": 0, "text": text, "reward": float(reward), "verdict": "correct" if reward == "1" else "incorrect",
            "reason": "" if reward == "1" else f"wrong because of {turn}", "answer": text[-4:], "tokens": len(text),
            "prompt_tokens": 14, "finish": "stop", "policy": step, "advantage": 0.5 - turn, "beta": 0.01,
            "imitation": 0.0, "offline": False, "question": f"What is {problem}?", "gold": f"gold of {problem}", **more,
        }
        for turn, (text, reward) in enumerate(zip(texts, rewards, strict=True))
    ]  # fmt: skip


def write_run(path: Path, steps: int = 6, alarm: bool = False, extra: Iterable[dict] = ()) -> Path:
    """A run of two stages with four problems a step, one of each flip class, and evaluations at both ends."""
    run = RunDirectory(path)
    path.mkdir(parents=True)
    run.rewrite_recipe("seed: 7\nmodel: {path: tiny}\ntask: {name: countdown}\n")
    run.record_evaluation("test", _evaluation(0, "00"), _attempts(0, "held"))
    for step in range(steps):
        line = {"step": step, "stage": STAGES[step >= steps // 2], "accuracy_t1": 0.25, "accuracy_t2": 0.1 * step}
        line |= {"kl_t1": 0.01 * step, "loss": -0.5, "seconds": {"sample": 1.0, "learn": 2.0}, "truncated": 0.0}
        line["alarms"] = [{"kind": "collapse", "statistic": "nothing changes"}] if alarm and step == 4 else []
        lines = [*_attempts(step, "train"), *extra] if step == steps - 1 else _attempts(step, "train")
        run.record_step(line, lines)
    run.record_evaluation("test", _evaluation(steps, "01"), _attempts(steps, "held"))
    return path


def read_page(report: Path) -> dict[str, Any]:
    """What the page's scripts draw, and under `attempts` the packed attempts of each run."""
    data = re.findall(r'<script type="text/plain"[^>]*>([^<]*)</script>', report.read_text())
    charts, *attempts = (json.loads(gzip.decompress(base64.b64decode(one, validate=True))) for one in data)
    return {**charts, "attempts": attempts}


def _attempts(step: int, kind: str) -> list[dict]:
    found = []
    for problem, rewards in (("fixes", "01"), ("breaks", "10"), ("stays", "11"), ("fails", "00")):
        texts = f"{kind} {step}: 21-5=17 and so on", f"{kind} {step}: 21-5=16 and so on"
        found += attempt_lines(step, f"{problem}-{kind}", 0, texts, rewards)
    return found


def _evaluation(step: int, word: str) -> dict[str, Any]:
    names = ("accuracy_t1", "accuracy_t2", "delta", "incorrect_to_correct", "correct_to_incorrect", "answer_changed")
    rates = {name: {"value": 0.5 + step / 100, "low": 0.4, "high": 0.7} for name in names}
    problems = [f"countdown-{'1-' * (3 + k % 2)}to-{k}" for k in range(20)]
    return {
        "model": "tiny", "task": "countdown", "split": "test", "problems": 20, "samples": 1, "temperature": 0.0,
        "metrics": rates, "mcnemar_p": 0.5, "step": step, "edit_ratios": {p: k / 20 for k, p in enumerate(problems)},
        "outcomes": {p: word if k % 3 else "11" for k, p in enumerate(problems)},
    }  # fmt: skip
