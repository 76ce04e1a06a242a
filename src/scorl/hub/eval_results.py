"""An evaluation in the form of the hub's leaderboards, `.eval_results/TASK.yaml` in a model's repository.

https://huggingface.co/docs/hub/eval-results; the reading and the writing are huggingface_hub's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scorl.hub.wording import find_messages
from scorl.recipe import yaml_text
from scorl.settings import Sampling

if TYPE_CHECKING:
    from huggingface_hub import EvalResultEntry

    from scorl.evaluation import Summary

__all__ = ["DATASETS", "FOLDER", "METRICS", "dataset_of", "day_of", "describe_setup", "to_entries", "to_yaml"]

FOLDER = ".eval_results"
DATASETS = {
    "gsm8k": "openai/gsm8k",
    "humaneval": "openai/openai_humaneval",
    "math": "HuggingFaceH4/MATH-500",
    "mbpp": "google-research-datasets/mbpp",
    "svamp": "ChilleD/SVAMP",
}
"""Where the held-out problems of a task come from, on the hub."""
OWN_SPLIT = ("svamp",)
"""Tasks whose split is not that of the data set."""
LOCAL_FILE = re.compile(r"\.(jsonl?|ndjson|csv|tsv|parquet|arrow)(\.gz)?$")
METRICS = ("accuracy_t1", "accuracy_t2", "delta")
"""What is exported, each as a task of its own."""


def dataset_of(summary: Summary) -> str | None:
    """The data set on the hub that an evaluation took its problems from; None: none that is known, or a local file."""
    path = (summary.get("task_settings") or {}).get("path")
    if path is None:
        return DATASETS.get(summary["task"])
    named = isinstance(path, str) and re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", path)
    return path if summary["task"] == "files" and named and not LOCAL_FILE.search(path) else None


def to_entries(
    summary: Summary, dataset: str, *, date: str | None = None, source_url: str | None = None
) -> list[EvalResultEntry]:
    """One entry for each of `METRICS` that the evaluation has, in percent.

    Args:
        summary: of the evaluation.
        dataset: on the hub.
        date: of the evaluation, as ISO 8601 has it.
        source_url: where it can be looked up.
    """
    from huggingface_hub import EvalResultEntry

    measured = {name: summary["metrics"].get(name) for name in METRICS}
    return [
        EvalResultEntry(
            dataset_id=dataset,
            task_id=name,
            value=round(100 * metric["value"], 2),
            date=date,
            source_url=source_url,
            source_name="scorl" if source_url else None,
            notes=f"{_describe_metric(name, metric)}. {describe_setup(summary)}",
        )
        for name, metric in measured.items()
        if metric and metric["value"] is not None
    ]


def day_of(file: Path) -> str:
    """The day on which an evaluation was written, by the clock of its file."""
    return datetime.fromtimestamp(file.stat().st_mtime, UTC).date().isoformat()


def to_yaml(entries: list[EvalResultEntry]) -> str:
    """The text of a file in `.eval_results/`."""
    from huggingface_hub import eval_result_entries_to_yaml

    return yaml_text.to_yaml(eval_result_entries_to_yaml(entries))


def describe_setup(summary: Summary) -> str:
    """How it was measured, in a line."""
    samples = summary["samples"]
    # Older evaluations did not write down what was said.
    said = summary["messages"] if "messages" in summary else find_messages(summary.get("task_settings") or {})
    temperature, max_tokens = summary["temperature"], summary["max_tokens"]
    words = " | ".join("(the question again)" if message is None else message for message in said or ())
    parts = [
        f"{summary['problems']} problems of the split {summary['split']}"
        f"{' (of scorl, not of the data set)' * (summary['task'] in OWN_SPLIT)}",
        f"{samples} sample{'s' * (samples > 1)} each"
        f"{'' if temperature is None else f' at temperature {temperature:g}'}",
        *([f"at most {Sampling(max_tokens=max_tokens).describe_limits()} tokens an attempt"] if max_tokens else []),
        *([f"between the attempts the user says: {' '.join(words.split())}"] if words else []),
    ]
    return ", ".join(parts)


def _describe_metric(name: str, metric: Mapping[str, Any]) -> str:
    what = {
        "accuracy_t1": "Percent right in the first attempt",
        "accuracy_t2": "Percent right in the second attempt, which knows no verdict",
        "delta": "Percentage points, second attempt minus first",
    }[name]
    if metric["low"] is None:
        return what
    return f"{what}; 95% interval {100 * metric['low']:.1f} to {100 * metric['high']:.1f}"
