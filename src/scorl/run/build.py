"""From a recipe to what it names: the task read, the model loaded, the engine built."""

from __future__ import annotations

import hashlib
import platform
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers

from scorl.distributed.ranks import ALONE, Ranks
from scorl.engines import ENGINES, Engine, vllm_is_installed
from scorl.errors import UserError
from scorl.evaluation import hash_problems
from scorl.learner import Learner
from scorl.model.chat import Chat, check_template
from scorl.model.context import check_context, check_solutions, max_positions, usable_positions
from scorl.model.loading import load_config, resolve_model
from scorl.model.policy import Place, Policy, resolve_device
from scorl.recipe.auto import decide
from scorl.recipe.sections import Recipe, TaskChoice
from scorl.tasks.own_code import find_file
from scorl.tasks.task import Task
from scorl.text_files import as_path
from scorl.training.collected import RolloutStore
from scorl.training.loop import train
from scorl.training.step import Step
from scorl.trajectory import Problem
from scorl.version import __version__

__all__ = ["BuiltRecipe", "build", "hash_weights", "place_of_weights", "prepare", "versions"]

LOOKED_AT = 100
"""Problems of each split of which it is looked at whether they fit into the model's context, and are what they were."""
END_BYTES = 2**20
"""Of a file of weights, at its start, where the header of safetensors is, and its end."""
SPOTS, SPOT_BYTES = 256, 2**14
"""Of a file of weights, spread evenly over it: a whole one would take minutes to read."""


@dataclass(frozen=True)
class BuiltRecipe:
    """A recipe with the objects that it names."""

    recipe: Recipe
    """What it left to the machine is decided."""
    policy: Policy
    engine: Engine
    task: Task

    def learner(self, ranks: Ranks = ALONE) -> Learner:
        """A learner that has made no update yet."""
        return Learner(
            self.policy,
            self.recipe.learner,
            total=self.recipe.steps,
            temperature=self.recipe.engine.temperature,
            ranks=ranks,
            parallel=self.recipe.launcher.parallel,
        )

    def train(self, learner: Learner, store: RolloutStore | None = None) -> Iterator[Step]:
        """The steps that the learner has still to make; see `scorl.train`."""
        return train(
            self.policy,
            self.task,
            self.recipe.stages,
            seed=self.recipe.seed,
            split=self.recipe.task.split,
            sampling=self.recipe.engine.sampling,
            engine=self.engine,
            learner=learner,
            store=store,
        )


def build(recipe: Recipe, ranks: Ranks = ALONE) -> BuiltRecipe:
    """Build all that a recipe names, its faults first.

    Raises:
        UserError: the task, one of its splits, the model, vLLM or the engine's answers cannot be had.
    """
    recipe, task, chat = prepare(recipe, ranks)
    policy = Policy.of(recipe.model, weights=place_of_weights(recipe, ranks), chat=chat)
    engine = ENGINES[recipe.engine.name]
    return BuiltRecipe(recipe, policy, engine.build(recipe.engine.settings, recipe.model, policy, ranks), task)


def prepare(recipe: Recipe, ranks: Ranks = ALONE) -> tuple[Recipe, Task, Chat]:
    """All of `build` that needs no weights: the recipe with what it left to the machine decided, its task, its chat.

    Raises:
        UserError: as `build`.
    """
    task = recipe.build_task()
    _check_problems(recipe, task)
    ENGINES[recipe.engine.name].check(recipe.engine.settings)  # before the model's configuration is read
    check_template(recipe.model)
    # One rank decides for all: they must compute alike.
    recipe = ranks.broadcast(
        lambda: decide(recipe, resolve_device(recipe.model.device), vllm_is_installed()), "what auto means"
    )
    chat = Chat.of_model(recipe.model)
    if (warning := _check_context(recipe, task, chat)) and ranks.main:
        warnings.warn(warning, stacklevel=2)
    return recipe, task, chat


def place_of_weights(recipe: Recipe, ranks: Ranks) -> Place:
    """Where a rank loads the weights to: those that are to be divided are read by rank 0 alone."""
    if ranks.size == 1 or recipe.launcher.parallel == "ddp":
        return "device"
    return "host" if ranks.main else "nowhere"


def _check_problems(recipe: Recipe, task: Task) -> None:
    """Draw what the run will draw first, so that a shortage shows before a model is loaded."""
    task.split(recipe.evaluation.split).take(recipe.evaluation.problems)
    for stage in recipe.stages:
        problems = task.split(recipe.task.split).draw(stage.problems, 0, recipe.seed)
        if stage.objective.source == "solutions" and any(p.solution is None for p in problems):
            raise UserError(f"task '{task.name}' has no reference solutions, which {stage.objective_name} learns from")


def _check_context(recipe: Recipe, task: Task, chat: Chat) -> str | None:
    """See `check_context`, and `check_solutions` of what is learned from first."""
    config, turns = load_config(recipe.model.path), task.turns(recipe.attempts)
    positions = usable_positions(recipe.engine.settings, config)
    warning = check_context(chat, _first_problems(recipe, task), turns, recipe.engine.sampling, positions)
    if any(stage.objective.source == "solutions" for stage in recipe.stages):
        first = task.split(recipe.task.split).draw(LOOKED_AT, 0, recipe.seed)
        check_solutions(chat, first, max_positions(config))
    return warning


def _first_problems(recipe: Recipe, task: Task) -> list[Problem]:
    """Some that are evaluated, and as many that are trained on first."""
    limit = min(LOOKED_AT, recipe.evaluation.problems or LOOKED_AT)
    evaluated = task.split(recipe.evaluation.split).take(limit)
    return [*evaluated, *task.split(recipe.task.split).draw(LOOKED_AT, 0, recipe.seed)]


def versions(built: BuiltRecipe) -> Mapping[str, str]:
    """The versions, the device, the weights, the problems, and the contents of the task's files, that decide what a
    seed gives."""
    device, template = built.policy.device, built.recipe.model.chat_template
    files = [
        *task_files(built.recipe.task),
        *([Path(template)] if template and Path(template).is_file() else []),
    ]
    return {
        "scorl": __version__,
        "torch": str(torch.__version__),
        "transformers": transformers.__version__,
        "python": platform.python_version(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "weights": hash_weights(built.recipe.model.path),
        "inner weights": hash_weights(built.recipe.model.path, inner=True),
        "problems": hash_problems(_first_problems(built.recipe, built.task)),
        **{str(path): hash_contents(path) for path in files},
    }


def hash_weights(name: str, inner: bool = False) -> str:
    """A short hash of a model's files of weights, of each its size and its ends; of a model of the hub its commit.

    With `inner`, which runs of before have not noted, of spots in between.
    """
    files = resolve_model(name)
    folder = Path(files.path)
    if not folder.is_dir():
        return str(getattr(load_config(name), "_commit_hash", None))
    folders = (folder, Path(files.adapter)) if files.adapter else (folder,)
    found = [path for folder in folders for kind in ("*.safetensors", "*.bin") for path in folder.glob(kind)]
    digest = hashlib.blake2b(digest_size=8)
    for path in [folder / files.gguf_file] if files.gguf_file else sorted(found):
        size = path.stat().st_size
        places = [size * spot // SPOTS for spot in range(SPOTS)] if inner else [0, max(0, size - END_BYTES)]
        digest.update(f"{path.name} {size}".encode())
        with path.open("rb") as file:
            for place in places:
                file.seek(place)
                digest.update(file.read(SPOT_BYTES if inner else END_BYTES))
    return digest.hexdigest()


def task_files(task: TaskChoice) -> Iterator[Path]:
    """The files and folders that a task and its settings name: data, reward functions, the task's own."""
    verifiers = getattr(task.settings, "verifier", ())
    code = [find_file(name) for name in (task.name, *((verifiers,) if isinstance(verifiers, str) else verifiers))]
    data = [task.few_shot, *(getattr(task.settings, key, None) for key in ("path", "test_path", "attempts"))]
    for path in (*(as_path(name) for name in data if isinstance(name, str)), *filter(None, code)):
        if path.exists():
            yield path


def hash_contents(path: Path) -> str:
    """A short hash of a file, or of all files of a folder with their names."""
    digest = hashlib.blake2b(digest_size=8)
    for file in sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]:
        digest.update(file.relative_to(path).as_posix().encode(errors="surrogateescape"))
        with file.open("rb") as handle:
            while part := handle.read(2**20):
                digest.update(part)
    return digest.hexdigest()
