"""Faults at the moments that a clock hardly meets: a run's own file operations in Python, one after the other.

python tests/faults.py [--cases 20] [--faults kill,full]        (make test-faults: every operation)

At an operation a run is killed, asked to stop, interrupted for the second time, or finds the disk full from there on.
Then its folder is looked at, the run resumes, and it must end equal to the undisturbed run bit for bit. By the fault
"kill resuming" it is killed once more while it resumes, at an operation by chance, and resumes again.
"""

import argparse
import errno
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path

import torch
from kills import FailedError, find_differences, read_run
from support.pace import paced
from support.worlds import letters, letters_recipe, save_model

from scorl.engines.torch import TorchEngine
from scorl.model.manifest import find_damage
from scorl.model.policy import Policy
from scorl.objectives import StageOne, StageTwo, Star
from scorl.recipe import decide
from scorl.run.build import BuiltRecipe
from scorl.run.directory import RunDirectory
from scorl.run.run import run_recipe
from scorl.settings import CheckpointSettings, EvaluationSettings, LearnerSettings, LoggingSettings
from scorl.training.stage import Stage

STAGES = (
    Stage(Star(keep_right=True), 2, problems=6, samples=8),
    Stage(StageOne(beta_2=0.3, target_kl=0.05), 2, problems=2, samples=2, reset_reference=True),
    Stage(StageTwo(), 2, problems=2, samples=2),
)
STEPS = sum(stage.steps for stage in STAGES)
CHANGES = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.symlink", "shutil.rmtree"}
"""Python's audit events of what changes a folder; `open` also of what is only read.

They say nothing of bytes that are written to an open file, of syncs, and of what safetensors writes, in Rust.
"""
Listener = Callable[[int, str, str], None]
"""Takes an operation's number, its event and its path."""
FAILED, INTERRUPTED = 3, 130
"""Exit codes of a run that says that the disk is full, and of one that was interrupted."""


def build(model: str) -> BuiltRecipe:
    """All that a run writes, in six steps."""
    recipe = replace(
        letters_recipe(model, STAGES, max_tokens=2),
        learner=LearnerSettings(learning_rate=1e-2),
        evaluation=EvaluationSettings(eval_steps=3, problems=3),
        checkpoint=CheckpointSettings(save_steps=1, save_total_limit=2, state_total_limit=2),
        logging=LoggingSettings(compress_attempts=True, attempts_total_limit=3),
    )
    policy = Policy(model)
    return BuiltRecipe(decide(recipe, policy.device, vllm=False), policy, TorchEngine(policy), letters())


def kill(number: int, event: str, path: str) -> None:
    """End as SIGKILL does."""
    os.kill(os.getpid(), signal.SIGKILL)


def fill(number: int, event: str, path: str) -> None:
    """A disk without room, on which one can still delete."""
    if event not in ("os.remove", "os.rmdir", "shutil.rmtree"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)


def stop(number: int, event: str, path: str) -> None:
    """SIGTERM."""
    if number == 0:
        signal.raise_signal(signal.SIGTERM)


def stop_twice(number: int, event: str, path: str) -> None:
    """Ctrl-C, and once more at the next operation."""
    if number < 2:
        signal.raise_signal(signal.SIGINT)


RESUMING = "kill resuming"
FAULTS: dict[str, Listener] = {"kill": kill, "full": fill, "stop": stop, "stop twice": stop_twice, RESUMING: kill}
"""Called with each operation from the chosen one on, counted from 0."""
ALLOWED = {
    **{"kill": {-9}, "full": {FAILED, 0}, "stop": {INTERRUPTED, -15, 0}, "stop twice": {INTERRUPTED, 0}},
    RESUMING: {-9},
}
"""How a run may end. 0: it did not depend on the operation, or was done; -15: it had not begun to catch signals."""
RESUMED = 30
"""So many operations from its start a resumed run has cut off what lies behind its checkpoint."""
LAST = 10
"""So many operations before its end a run is done: what is left is its last evaluation's."""


def watch(run: Path, listen: Listener) -> None:
    """Have `listen` called before each change of the folder, with its number and path; as long as the process lives."""
    numbers = count()

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if event not in CHANGES or not isinstance(arguments[0], (str, os.PathLike)):
            return
        path = os.fspath(arguments[0])
        writes = event != "open" or (isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR))
        if writes and f"{path}/".startswith(f"{run}/"):
            listen(next(numbers), event, path)

    sys.addaudithook(hook)


def run_apart(run: Path, built: BuiltRecipe, listen: Listener | None = None) -> int:
    """Run or resume in a process of its own, in which alone the weights change; its exit code."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    code = 1
    try:
        if listen:
            watch(run, listen)
        result = run_recipe(built, RunDirectory(run), describe=lambda folder, updates: f"after {updates}")
        code = INTERRUPTED if result.interrupted else 0
    except KeyboardInterrupt:
        code = INTERRUPTED
    except OSError as error:
        code = FAILED if error.errno == errno.ENOSPC else 1
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def look(run: Path) -> str | None:
    """What is wrong with the folder that a fault left."""
    for folder in (run / "checkpoints").glob("step-*"):
        if damage := find_damage(folder):
            return f"{folder.name}: {damage}"
    return None


def is_allowed(name: str, code: int, later: int) -> bool:
    """Whether a run may end like that, so many operations after the fault."""
    deaf = name.startswith("stop") and code == 0 and later > LAST
    return code in ALLOWED[name] and not deaf


def try_fault(
    run: Path, built: BuiltRecipe, undisturbed: dict[str, object], name: str, moment: int
) -> tuple[str, str | None]:
    """Make a run with a fault at an operation, and resume it; the file that was met, and what was wrong."""
    met, later = run.with_suffix(".met"), run.with_suffix(".later")
    met.write_text("nothing")
    later.write_text("0")

    def listen(number: int, event: str, path: str) -> None:
        if number == moment:
            met.write_text(str(Path(path).relative_to(run)))
        if number >= moment:
            later.write_text(str(number - moment))
            FAULTS[name](number - moment, event, path)

    code = run_apart(run, built, listen)
    if not is_allowed(name, code, int(later.read_text())):
        return met.read_text(), f"exit code {code}, {later.read_text()} operations later"
    if wrong := look(run):
        return met.read_text(), wrong
    if name == RESUMING:
        second = random.Random(moment).randrange(RESUMED)
        code = run_apart(
            run, built, lambda number, event, path: kill(number, event, path) if number == second else None
        )
        if code not in (-9, 0):
            return met.read_text(), f"exit code {code} when it resumes and is to be killed at operation {second}"
        if wrong := look(run):
            return met.read_text(), f"{wrong}, behind a second kill at operation {second} of the resume"
    if code := run_apart(run, built):
        return met.read_text(), f"exit code {code} when it resumes"
    try:
        others = find_differences(undisturbed, read_run(run, STEPS))
    except FailedError as error:
        return met.read_text(), str(error)
    return met.read_text(), f"differs in {', '.join(others)}" if others else None


def main() -> None:
    """Try every fault at every operation, or at some; exit code 1 if something was lost."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, help="so many operations for each fault, by chance; all unless given")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--faults", default=",".join(FAULTS))
    options = parser.parse_args()
    torch.set_num_threads(1)  # threads do not survive a fork
    began, wrong, tried, draw = time.monotonic(), [], Counter(), random.Random(options.seed)
    with tempfile.TemporaryDirectory(prefix="scorl-faults-") as folder:
        built, straight = build(save_model(Path(folder) / "model")), Path(folder) / "undisturbed"
        log = Path(folder) / "operations"
        assert run_apart(straight, built, lambda number, event, path: log.open("a").write(f"{path}\n") and None) == 0
        undisturbed, operations = read_run(straight, STEPS), len(log.read_text().splitlines())
        for name in options.faults.split(","):
            moments = range(operations)
            for moment in paced(draw.sample(moments, options.cases) if options.cases else moments):
                met, problem = try_fault(Path(folder) / f"{name}-{moment}", built, undisturbed, name, moment)
                tried[name] += 1
                if problem:
                    wrong.append(f"{name} at operation {moment} ({met}): {problem}")
                    print(wrong[-1], flush=True)
    print(f"{operations} operations; {dict(tried)} in {time.monotonic() - began:.0f} s, {len(wrong)} wrong")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
