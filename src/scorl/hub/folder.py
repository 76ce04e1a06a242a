"""What of a checkpoint others are given: the files of a repository on the hub, and never the trainer's state."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from huggingface_hub import ModelCard

from scorl.errors import UserError
from scorl.hub.base import find_base
from scorl.hub.card import NAME_LINE, describe_checkpoint, latest_evaluation
from scorl.hub.eval_results import FOLDER, dataset_of, day_of, to_entries, to_yaml
from scorl.hub.weights import INDEX, cast_file, cast_index, find_dtypes, name_dtype
from scorl.model.loading import resolve_model
from scorl.model.manifest import CARD, check_model_files
from scorl.recipe.source import load
from scorl.run.checkpoint import ADAPTER
from scorl.run.directory import EVALUATIONS, RunDirectory
from scorl.settings import Dtype

__all__ = ["Checkpoint", "Files", "collect_files", "find_checkpoint", "measure", "write_files"]

Files = dict[str, Path | bytes]
"""A repository: what lies under each name, as a file or in memory."""

OF_WHOLE_WEIGHTS = re.compile(r"(model|pytorch_model).*|config\.json|generation_config\.json")
"""Files that do not belong to adapters by themselves."""
ORIGINS = ("_name_or_path", "name_or_path", "base_model_name_or_path")
"""Keys of JSON files under which libraries note where a model was loaded from."""
SECRET = re.compile(
    rb"\bhf_[A-Za-z0-9]{30,}|\bsk-[A-Za-z0-9_-]{32,}|\bAKIA[0-9A-Z]{16}\b|-----BEGIN [A-Z ]*PRIVATE KEY-----"
)
LARGEST_TEXT = 1 << 20
"""Bytes of a file that is looked through for secrets; larger ones are weights and vocabularies."""


@dataclass(frozen=True)
class Checkpoint:
    """A model folder, and the run that it is of, if that is there."""

    folder: Path
    run: RunDirectory | None
    step: int | None


def find_checkpoint(source: str) -> Checkpoint:
    """The checkpoint that a path means: of a run directory its newest one.

    Raises:
        UserError: there is none, or a file of it is damaged.
    """
    folder = Path(resolve_model(source).path).resolve()
    if not folder.is_dir() or source.startswith(("scorl:", "pypi:")) or not (folder / "config.json").is_file():
        raise UserError(f"{source}: no run directory and no checkpoint of one; RUN or RUN/checkpoints/best would be")
    check_model_files(folder)
    name, run = folder.name, RunDirectory.of_model(str(folder))
    step = int(name.removeprefix("step-")) if re.fullmatch(r"step-\d+", name) else None
    return Checkpoint(folder, run if step is not None else None, step)


def collect_files(
    checkpoint: Checkpoint,
    repo_id: str,
    scratch: Path,
    *,
    dtype: Dtype | Literal["auto"] = "auto",
    adapter: bool = False,
    dataset: str | None = None,
) -> Files:
    """All that is uploaded.

    Args:
        checkpoint: of a run.
        repo_id: what it will be called on the hub.
        scratch: an empty folder for weights that are cast.
        dtype: of the weights; `auto`: the type that the run computed in, where they are kept in a wider one.
        adapter: the adapters by themselves in place of the merged weights.
        dataset: on the hub, that the problems are of; None: that of the task, if it has one.

    Raises:
        UserError: there are no such adapters, there is nothing to make a card from, or a file holds a secret.
    """
    files: Files = {path.name: path for path in sorted(checkpoint.folder.iterdir()) if path.is_file()}
    if adapter:
        files = _take_adapter(checkpoint.folder, files)
    else:
        _cast(files, _choose_dtype(checkpoint, dtype), scratch)
    files = {name: _forget_origin(name, content) for name, content in files.items()}
    evaluation = latest_evaluation(checkpoint.run, checkpoint.step) if checkpoint.run else None
    files[CARD] = _finish_card(checkpoint, repo_id, adapter, dataset).encode()
    dataset = dataset or (dataset_of(evaluation) if evaluation else None)
    if evaluation and dataset and checkpoint.run:
        day, where = day_of(checkpoint.run.path / EVALUATIONS), f"https://huggingface.co/{repo_id}"
        entries = to_entries(evaluation, dataset, date=day, source_url=where)
        files[f"{FOLDER}/{_name_file(dataset)}.yaml"] = to_yaml(entries).encode()
    _refuse_secrets(files)
    return files


def measure(content: Path | bytes) -> int:
    """Bytes of a file."""
    return content.stat().st_size if isinstance(content, Path) else len(content)


def write_files(files: Files, folder: Path) -> None:
    """Write a repository into a folder that is empty or not there.

    Raises:
        UserError: there is something in it.
    """
    if folder.is_dir() and any(folder.iterdir()):
        raise UserError(f"{folder}: is not empty; --dry-run wants a folder that is empty or not there")
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, Path):
            shutil.copyfile(content, path)
        else:
            path.write_bytes(content)


def _take_adapter(folder: Path, files: Files) -> Files:
    if not (folder / ADAPTER).is_dir():
        raise UserError(f"{folder}: has no adapters by themselves: the run trained all weights, or in shards (fsdp2)")
    kept = {name: content for name, content in files.items() if not OF_WHOLE_WEIGHTS.fullmatch(name)}
    return kept | {path.name: path for path in sorted((folder / ADAPTER).iterdir()) if path.is_file()}


def _choose_dtype(checkpoint: Checkpoint, dtype: str) -> str | None:
    """None: the weights stay as they are."""
    if dtype != "auto":
        return dtype
    computed = load(checkpoint.run.path)["model"].get("dtype") if checkpoint.run else None
    return computed if computed in ("bfloat16", "float16") else None


def _cast(files: Files, dtype: str | None, scratch: Path) -> None:
    weights = {name: path for name, path in files.items() if name.endswith(".safetensors") and isinstance(path, Path)}
    others = {name: path for name, path in weights.items() if dtype and find_dtypes(path) - {dtype}}
    if not dtype or not others:
        return
    done = {name: cast_file(path, dtype, scratch / name) for name, path in others.items()}
    files.update(done)
    files["config.json"] = name_dtype(_read(files["config.json"]), dtype)
    if INDEX in files:
        files[INDEX] = cast_index(_read(files[INDEX]), {**weights, **done})


def _forget_origin(name: str, content: Path | bytes) -> Path | bytes:
    """A JSON file without the folder of this machine that a model was loaded from."""
    if not name.endswith("config.json"):
        return content
    values = json.loads(_read(content))
    kept = {key: find_base(values[key]).name for key in ORIGINS if isinstance(values.get(key), str)}
    if all(values[key] == value for key, value in kept.items()):
        return content
    return (json.dumps(values | kept, indent=2, ensure_ascii=False) + "\n").encode()


def _finish_card(checkpoint: Checkpoint, repo_id: str, adapter: bool, dataset: str | None) -> str:
    """The checkpoint's own card, or a new one where it has none, with what only who uploads it knows."""
    path, base = checkpoint.folder / CARD, None
    if checkpoint.run:
        base = find_base(str(load(checkpoint.run.path)["model"]["path"]), ask_hub=True)
    if path.is_file():
        card = ModelCard(path.read_text(encoding="utf-8"), ignore_metadata_errors=True)
    elif checkpoint.run and checkpoint.step is not None:
        card = ModelCard(describe_checkpoint(checkpoint.run, checkpoint.folder, checkpoint.step, ask_hub=True))
    else:
        raise UserError(f"{checkpoint.folder}: has no {CARD}, and the run is not there from which one could be made")
    if base and not card.data.get("license"):
        for key, value in base.licence.items():
            card.data[key] = value
    if adapter:
        card.data["library_name"], card.data["base_model_relation"] = "peft", "adapter"
    if dataset:
        card.data["datasets"] = [dataset]
    return str(card).replace(NAME_LINE, f'name = "{repo_id}"').rstrip("\n") + "\n"


def _name_file(dataset: str) -> str:
    return dataset.rpartition("/")[2].lower()


def _refuse_secrets(files: Mapping[str, Path | bytes]) -> None:
    for name, content in files.items():
        if measure(content) <= LARGEST_TEXT and SECRET.search(_read(content)):
            raise UserError(f"{name}: holds what looks like a key or a token; nothing is uploaded. Take it out")


def _read(content: Path | bytes) -> bytes:
    return content.read_bytes() if isinstance(content, Path) else content
