"""Carrying the runs out: ordinary run directories, each made by a `scorl train` of its own, several at a time.

OUT/recipes/score-seed-0.yaml      what each run was given
OUT/score/seed-0/                  its run directory; its messages are in OUT/score/seed-0.log
OUT/collected/seed-0-5f3a91c2/     what STaR and Pair-SFT sample of the base, once for all that sample alike
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from scorl.compare.arms import Arm
from scorl.compare.methods import METHODS
from scorl.engines import vllm_is_installed
from scorl.errors import UserError
from scorl.metrics import Ending, Tally, tally_outcomes
from scorl.parent import PARENT
from scorl.recipe import Recipe, decide, decided_like, device_kind, differences, resolve
from scorl.run.directory import RunDirectory
from scorl.run.files import write_whole
from scorl.run.progress import format_duration

__all__ = ["Run", "execute_runs", "plan_runs", "start_run"]

PAUSE = 0.2
"""Seconds between two looks at the children."""


@dataclass(frozen=True, eq=False)
class Run:
    """One run of an arm; equal to itself alone, since a recipe that holds mappings has no hash."""

    arm: Arm
    seed: int
    recipe: Recipe
    directory: Path

    @property
    def name(self) -> str:
        """What people read."""
        return f"{self.arm.label}, seed {self.seed}" if self.arm.trains else self.arm.label

    @property
    def corrects(self) -> bool:
        """Whether it trains second attempts."""
        return _corrects(self.recipe)

    @property
    def ending(self) -> Ending:
        """When its policy stops at inference: by its own verification where it answers more than once and is asked."""
        if self.recipe.stages and not self.corrects:
            return "first"
        of_method = METHODS[self.arm.method].ending
        asked = {turn.role for turn in self.recipe.turns("", 2)}
        return of_method if of_method == "verifier" or "verification" not in asked else "verification"

    def tally(self, evaluation: dict[str, Any]) -> Tally:
        """The sums behind the metrics of one of its evaluations, those of its policy at inference among them."""
        ratios, tokens = evaluation.get("edit_ratios"), evaluation.get("tokens")
        return tally_outcomes(evaluation["outcomes"], ratios, tokens, self.ending)

    @property
    def files(self) -> RunDirectory:
        """What it leaves there."""
        return RunDirectory(self.directory)

    @property
    def log(self) -> Path:
        """What the run says while it runs."""
        return self.directory.with_name(self.directory.name + ".log")

    @property
    def done(self) -> bool:
        """Whether its last evaluation is there."""
        evaluation = self.evaluation
        return evaluation is not None and evaluation["step"] == self.recipe.steps

    @property
    def evaluation(self) -> dict[str, Any] | None:
        """Its latest evaluation; None: there is none yet."""
        return self.files.evaluations().get(self.recipe.evaluation.split)


def plan_runs(recipe: Recipe, arms: Sequence[Arm], seeds: int, out: Path) -> list[Run]:
    """The runs of all arms, seed by seed, so that a table of what is there early is fair.

    Raises:
        UserError: an arm does not fit the recipe, or a folder holds a run of another recipe.
    """
    runs = []
    for k in range(seeds):
        for arm in arms:
            if arm.trains or k == 0:
                made = arm.recipe(recipe)
                seed = recipe.seed + k
                evaluation = replace(made.evaluation, fixed=_corrects(made))
                names = replace(
                    made.logging,
                    group=made.logging.group or out.name,
                    run_name=f"{made.logging.run_name or out.name}/{arm.name}/seed-{seed}",
                )
                made = replace(made, seed=seed, evaluation=evaluation, logging=names)
                runs.append(Run(arm, seed, made, out / arm.folder / f"seed-{seed}"))
    for run in runs:
        if run.files.has_recipe and (changed := differences(resolve(run.directory), run.recipe)):
            raise UserError("\n  ".join([f"{run.directory}: holds a run of another recipe:", *changed]))
    return runs


def _corrects(recipe: Recipe) -> bool:
    return bool(recipe.stages) and recipe.stages[-1].attempts > 1


def execute_runs(
    runs: Sequence[Run], out: Path, jobs: int, report: Callable[[str], None], before: Sequence[Run] = ()
) -> list[Run]:
    """Make the runs that are not there yet, `jobs` at a time; returns those that failed.

    Args:
        runs: what is wanted.
        out: the folder of the comparison.
        jobs: runs at a time; each gets its share of the cores.
        report: is given a sentence when a run ends.
        before: runs of another folder; what they leave to the machine is decided for these as it was for them.

    Raises:
        KeyboardInterrupt: Ctrl-C, after the running ones have saved.
    """
    waiting = [run for run in runs if not run.done]
    recipes = {run: _decide_alike(run, [*runs, *before]) for run in waiting}
    if len(waiting) < len(runs):
        report(f"{len(runs) - len(waiting)} of {len(runs)} runs are there already")
    began, total, finished = time.monotonic(), len(waiting), 0
    running: dict[Run, subprocess.Popen[bytes]] = {}
    failed: list[Run] = []
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                run = waiting.pop(0)
                running[run] = start_run(run, recipes[run], out, jobs)
            for run in [run for run, child in running.items() if child.poll() is not None]:
                finished += 1
                code = running.pop(run).returncode
                if code:
                    failed.append(run)
                left = (time.monotonic() - began) / finished * (total - finished)
                report(f"{finished}/{total} {_describe_ending(run, code)}, about {format_duration(left)} left")
            time.sleep(PAUSE)
    except KeyboardInterrupt:
        _stop(running)
        raise
    return failed


def _decide_alike(run: Run, runs: Sequence[Run]) -> Recipe:
    """A run's recipe, with what it leaves to the machine decided as for the others: each measuring by itself, under
    another load, some might compute in another type.

    What began goes on as it is; else that run decides which is there first and leaves as much open.
    """
    there = [other for other in (run, *runs) if other.files.has_recipe and _left_open(other) == _left_open(run)]
    if there:
        return decided_like(run.recipe, resolve(there[0].directory))
    if run.recipe.launcher.name == "ray":  # its workers are on other machines
        return run.recipe
    return decide(run.recipe, device_kind(run.recipe.model.device), vllm_is_installed())


def _left_open(run: Run) -> tuple[object, ...]:
    """All that decides what a machine is asked, but for the machine."""
    model, learner = run.recipe.model, run.recipe.learner
    asked = (model.dtype, model.onednn, run.recipe.engine.name, learner.importance_sampling_cap)
    return model.path, model.device, *asked, learner.use_liger_kernel


def start_run(run: Run, recipe: Recipe, out: Path, jobs: int) -> subprocess.Popen[bytes]:
    """Start a run by its decided recipe in a process of its own, which ends with this one, or resume it; its output
    goes into its log.
    """
    recipes = out / "recipes"
    recipes.mkdir(parents=True, exist_ok=True)
    path = recipes / f"{run.arm.folder}-seed-{run.seed}.yaml"
    write_whole(path, recipe.dump())
    run.directory.mkdir(parents=True, exist_ok=True)
    if run.recipe.stages and run.recipe.stages[0].objective.source == "collected":
        _share_collected(run, recipe, out)
    command = [sys.executable, "-m", "scorl", "train", str(path), "--out", str(run.directory), "--resume", "auto"]
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, (os.cpu_count() or 1) // jobs))
    with run.log.open("ab") as log:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=os.environ | {"OMP_NUM_THREADS": threads, PARENT: str(os.getpid())},
            start_new_session=True,  # a terminal's Ctrl-C is for us to pass on
        )


def _share_collected(run: Run, recipe: Recipe, out: Path) -> None:
    """What the first stage collects is the base's work: all arms of a seed that sample alike, in this command or in a
    later one, read and write it at one place.
    """
    if not all(setting.startswith("learner.") for setting in run.arm.settings):
        return
    stage, sections = recipe.stages[0], recipe.as_dict()
    drawn = (stage.attempts, stage.problems, stage.samples, stage.branches, stage.offline, stage.first)
    asked = [drawn, *(sections[name] for name in ("model", "task", "turns", "engine"))]
    alike = hashlib.blake2b(json.dumps(asked, sort_keys=True).encode(), digest_size=4).hexdigest()
    shared, link = out / "collected" / f"seed-{run.seed}-{alike}", run.files.collected(0)
    link.parent.mkdir(exist_ok=True)
    if not link.is_symlink() and not link.exists():
        link.symlink_to(os.path.relpath(shared, link.parent))
    link.resolve().mkdir(parents=True, exist_ok=True)


def _describe_ending(run: Run, code: int) -> str:
    """How a run ended, in figures or in the last words of its log; a negative exit code is the signal that ended it."""
    if code < 0:
        memory = ", as the system does when memory runs out" if code == -signal.SIGKILL else ""
        return f"{run.name}: FAILED: killed by {signal.Signals(-code).name}{memory} (see {run.log})"
    if not run.done:
        words = run.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return f"{run.name}: FAILED: {words[-1] if words else 'without a word'} (see {run.log})"
    assert run.evaluation is not None
    metrics = run.evaluation["metrics"]
    first, second = (100 * metrics[f"accuracy_t{turn}"]["value"] for turn in (1, 2))
    final = metrics.get("accuracy_selective")
    stops = f", {100 * final['value']:.1f} where it stops by itself" if final else ""
    return f"{run.name}: @t1 {first:.1f} @t2 {second:.1f} Delta {second - first:+.1f}{stops}"


def _stop(running: dict[Run, subprocess.Popen[bytes]]) -> None:
    """Ask the children to save, and wait; a second Ctrl-C ends them at once."""
    for sign in (signal.SIGINT, signal.SIGKILL):
        for child in running.values():
            child.send_signal(sign)
        try:
            for child in running.values():
                child.wait()
            return
        except KeyboardInterrupt:
            continue
