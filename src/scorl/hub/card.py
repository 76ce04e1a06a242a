"""The model card of a checkpoint: what was trained, on what, what it reaches, how to ask it twice.

All of it is read from the run's own files, and no path of the machine goes into it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from scorl.hub.base import BaseModel, find_base, redact
from scorl.hub.eval_results import METRICS, dataset_of, describe_setup
from scorl.hub.wording import find_stop_strings, find_turns
from scorl.recipe.hidden import hide_secrets
from scorl.recipe.source import load, parse
from scorl.recipe.yaml_text import to_yaml
from scorl.report.table import tabulate_change, tabulate_evaluation, to_markdown
from scorl.run.directory import RunDirectory
from scorl.run.files import Record
from scorl.settings import Sampling
from scorl.tasks.turns import Turn, number_responses

__all__ = ["NAME_LINE", "describe_checkpoint", "latest_evaluation", "write_metadata"]

TEMPLATE = "card.md.j2"
NAME_LINE = 'name = "."  # this folder'
"""Of the code in the card; a pushed one names its repository."""
NO_SETTINGS_OF_THE_MODEL = ("logging", "loggers", "launcher", "versions")
"""Sections of a recipe that nobody needs who repeats it."""


def describe_checkpoint(run: RunDirectory, folder: Path, step: int, ask_hub: bool = False) -> str:
    """The text of README.md for a checkpoint.

    Args:
        run: its run.
        folder: the checkpoint's, with the model's files in it.
        step: updates that it has seen.
        ask_hub: see `find_base`.

    Raises:
        UserError: recipe or evaluations cannot be read.
    """
    recipe = hide_secrets(load(run.path)) | {"versions": find_versions(run)}
    base = find_base(str(recipe["model"]["path"]), ask_hub)
    evaluation = latest_evaluation(run, step)
    data = write_metadata(base, recipe, evaluation)
    template = (resources.files("scorl.hub") / TEMPLATE).read_text(encoding="utf-8")
    words = {
        **_describe_training(recipe, base, step),
        **_describe_evaluation(base, evaluation),
        **_describe_asking(folder, run, recipe, evaluation),
    }
    texts = [str(words["recipe"]), *(message or "" for message in words["messages"] or ())]
    words["fence"] = "`" * max([3, *(len(run) + 1 for text in texts for run in re.findall("`{3,}", text))])
    return str(ModelCard.from_template(data, template_str=template, **words)) + "\n"


def find_versions(run: RunDirectory) -> dict[str, Any]:
    """What `scorl.run.build.versions` noted of a run; empty where it did not."""
    noted = parse(run.recipe_text(), str(run.path))
    versions = noted.get("versions") if isinstance(noted, dict) else None
    return versions if isinstance(versions, dict) else {}


def latest_evaluation(run: RunDirectory, step: int | None = None) -> Record | None:
    """The last evaluation of the run's split after at most so many updates, with the `history` up to it."""
    evaluations = run.evaluations()
    split = (load(run.path).get("evaluation") or {}).get("split", "test")
    history = evaluations.get(split, {}).get("history", [])
    until = [entry for entry in history if step is None or entry["step"] <= step]
    return {**until[-1], "history": until} if until else None


def write_metadata(base: BaseModel, recipe: Mapping[str, Any], evaluation: Record | None) -> ModelCardData:
    """What the hub reads of a card."""
    dataset = dataset_of(evaluation) if evaluation else None
    results = _list_results(evaluation, dataset) if evaluation else None
    return ModelCardData(
        base_model=base.repo_id,
        library_name="transformers",
        pipeline_tag="text-generation",
        datasets=[dataset] if dataset else None,
        tags=["scorl", "self-correction", "reinforcement-learning", "conversational"],
        model_name=f"{base.name} on {redact(recipe['task']['name'])}",
        eval_results=results,
        **dict[str, Any](base.licence),
    )


def _list_results(evaluation: Record, dataset: str | None) -> list[EvalResult]:
    measured = {name: evaluation["metrics"].get(name) for name in METRICS}
    return [
        EvalResult(
            task_type="text-generation",
            dataset_type=dataset or str(redact(evaluation["task"])),
            dataset_name=str(redact(evaluation["task"])),
            dataset_split=evaluation["split"],
            metric_type=name.partition("_")[0],
            metric_name=name,
            metric_value=round(100 * metric["value"], 2),
        )
        for name, metric in measured.items()
        if metric and metric["value"] is not None
    ] or None  # type: ignore[return-value]


def _describe_training(recipe: Mapping[str, Any], base: BaseModel, step: int) -> dict[str, Any]:
    kept = {key: value for key, value in recipe.items() if key not in NO_SETTINGS_OF_THE_MODEL}
    versions = {str(redact(name)): value for name, value in (recipe.get("versions") or {}).items()}
    return {
        "base": base,
        "licence": base.licence,
        "task": redact(recipe["task"]["name"]),
        "step": step,
        "steps": sum(stage["steps"] for stage in recipe["stages"]),
        "stages": recipe["stages"],
        "training": recipe["model"],
        "versions": ", ".join(f"{name} {value}" for name, value in versions.items()) or "not noted",
        "recipe": to_yaml(redact(kept)),
        "few_shot": recipe["task"].get("few_shot"),
    }


def _describe_evaluation(base: BaseModel, evaluation: Record | None) -> dict[str, Any]:
    """The table of before and after, or of the one evaluation that there is."""
    if evaluation is None:
        return {"table": None}
    first, last = (
        {**entry, "model": base.name, "task": redact(entry["task"])} for entry in (evaluation["history"][0], evaluation)
    )
    grid = tabulate_change(first, last) if first["step"] != last["step"] else tabulate_evaluation(last)
    broken = evaluation["metrics"].get("correct_to_incorrect")
    return {
        "table": to_markdown(grid),
        "evaluated": evaluation["step"],
        "setup": describe_setup(evaluation).partition(", between the attempts")[0],
        "broken": f"{100 * broken['value']:.1f}%" if broken and broken["value"] is not None else None,
    }


def _describe_asking(
    folder: Path, run: RunDirectory, recipe: Mapping[str, Any], evaluation: Record | None
) -> dict[str, Any]:
    """The wording, and the arguments of code that asks as the run did."""
    turns = find_turns(evaluation.get("task_settings") or {}) if evaluation else None
    if evaluation is None or turns is None:
        return {"messages": None}
    model, question = recipe["model"], _find_question(run)
    stops = find_stop_strings(folder, model.get("stop_strings"))
    longest = _index_limits(evaluation["max_tokens"], turns)
    generation = {"do_sample": "False", "max_new_tokens": longest, **_undo_penalties(folder)}
    messages = [turn.message for turn in turns]
    system = recipe["task"].get("system_prompt")
    return {
        "messages": messages,
        "name_line": NAME_LINE,
        "template_arguments": "".join(
            f", {key}={value!r}" for key, value in (model.get("chat_template_kwargs") or {}).items()
        ),
        "generation_arguments": ", ".join(f"{key}={value}" for key, value in generation.items())
        + (f", stop_strings={stops!r}, tokenizer=tokenizer" if stops else ""),
        "strip": "".join(f".split({stop!r})[0]" for stop in stops),
        "question": json.dumps(question),
        "system": f'{{"role": "system", "content": {json.dumps(system)}}}, ' if system else "",
        "message_list": "[" + ", ".join("question" if m is None else json.dumps(m) for m in messages) + "]",
    }


def _index_limits(max_tokens: int | list[int], turns: Sequence[Turn]) -> str:
    """The longest response as an expression, which finds that of the next one by the `messages` before it."""
    if isinstance(max_tokens, int):
        return str(max_tokens)
    sampling = Sampling(max_tokens=tuple(max_tokens))
    # Each response stands between two messages of the user; a system message changes nothing in the half.
    return f"{[sampling.limit(attempt) for attempt in number_responses(turns)]}[(len(messages) - 1) // 2]"


def _undo_penalties(folder: Path) -> dict[str, Any]:
    """Arguments against what a generation config does to greedy decoding, and a run does not."""
    path = folder / "generation_config.json"
    config = json.loads(path.read_bytes()) if path.is_file() else {}
    neutral = {"repetition_penalty": 1.0, "no_repeat_ngram_size": 0, "num_beams": 1}
    return {key: value for key, value in neutral.items() if config.get(key) not in (None, value)}


def _find_question(run: RunDirectory) -> str:
    """The first held-out question of a run."""
    for record in run.attempts(run.attempted_steps(held_out=True)[:1], held_out=True):
        if record.get("question"):
            return str(record["question"])
    return "..."
