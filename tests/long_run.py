"""A long run of tiny steps: memory but for their records, handles, processor time a step, children and files stay flat,
whatever befalls its workers.

python tests/long_run.py --steps 10000        (make test-long; a short one in tests/test_long_run.py)

Every so often the workers of the verifier are killed, and one is asked what it cannot answer in time.
"""

import argparse
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import linear_regression, median

from support.worlds import letters, letters_recipe, save_model

from scorl.engines.torch import TorchEngine
from scorl.model.policy import Policy
from scorl.objectives import StageTwo
from scorl.recipe import decide
from scorl.run.build import BuiltRecipe
from scorl.run.directory import RunDirectory
from scorl.run.run import run_recipe
from scorl.settings import CheckpointSettings, EvaluationSettings, LoggingSettings
from scorl.tasks.task import Task
from scorl.training.stage import Stage
from scorl.trajectory import Problem, Verdict
from scorl.verifiers.workers import Check, CheckResult, compare_all, worker_pool

EQUAL, ENDLESS = Check("x+1", "1+x", "x+1", "1+x"), Check("1", "9^{9^{9}}", "1", "9^{9^{9}}")
PARTS = 10
"""Looks at a run."""
KEPT = 50
"""Steps whose attempts stay."""
BEST = 15
"""Files of the checkpoints that may be kept beside the last ones."""
SIZE_OF_BEST = 1 << 18
"""Their bytes, with what each evaluation leaves: its attempts, its part of evaluation.json."""
BYTES_A_STEP = 4096
"""What a step may leave in memory: its line of steps.jsonl, which the run holds, takes 2.4 KB there."""
SLACK = 4 << 20
"""What else memory may grow by from the middle to the end: allocators are not exact. It was at most 0.6 MB."""


@dataclass(frozen=True)
class Look:
    """A run at some step."""

    step: int
    seconds: float
    """Of the processor, a step since the look before: the median."""
    memory: int
    handles: int
    threads: int
    files: int
    """In the run's folder."""
    size: int
    """Their bytes, but those of steps.jsonl, which has a line a step."""
    children: int
    largest_worker: int
    """Memory of the verifier's largest worker; one that was killed starts anew when it is wanted."""


def judged_by_workers(trouble: int) -> Task:
    """The letters, each judgement of which asks a worker too; every so many judgements the workers are in trouble."""
    task, asked, pool = letters(), 0, worker_pool(os.getpid())

    def judge(pairs: Sequence[tuple[Problem, str]]) -> list[Verdict]:
        nonlocal asked
        asked += 1
        if asked % trouble == 0:
            for pid in pool.pids():
                os.kill(pid, signal.SIGKILL)
        if asked % trouble == trouble // 2:
            (late,) = compare_all([ENDLESS], 0.05)
            assert late.problem == "timeout", late
        assert compare_all([EQUAL], 60.0) == [CheckResult(True)]
        return task.judge(pairs)

    return replace(task, judge=judge)


def memory_of(pid: int | str) -> int:
    """Of a process, in bytes; one that has just ended has none."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def look_around(step: int, seconds: Sequence[float], run: Path) -> Look:
    """How a run is at a step."""
    files = [path for path in run.rglob("*") if path.is_file()]
    children = [pid for task in Path("/proc/self/task").iterdir() for pid in (task / "children").read_text().split()]
    return Look(
        step,
        median(seconds),
        memory_of("self"),
        len(os.listdir("/proc/self/fd")),
        threading.active_count(),
        len(files),
        sum(path.stat().st_size for path in files if path.name != "steps.jsonl"),
        len(children),
        max(map(memory_of, worker_pool(os.getpid()).pids()), default=0),
    )


def measure(folder: Path, steps: int, trouble: int = 0) -> list[Look]:
    """Make a run, and look at it at every tenth of its steps; with `trouble` its workers have some."""
    model, run = save_model(folder / "model"), folder / "run"
    recipe = replace(
        letters_recipe(model, (Stage(StageTwo(), steps, problems=2, samples=2),), max_tokens=2),
        evaluation=EvaluationSettings(eval_steps=steps // PARTS, problems=3),
        checkpoint=CheckpointSettings(save_steps=steps // PARTS),
        logging=LoggingSettings(compress_attempts=True, attempts_total_limit=KEPT),
    )
    policy = Policy(model)
    task = judged_by_workers(trouble) if trouble else letters()
    built = BuiltRecipe(decide(recipe, policy.device, vllm=False), policy, TorchEngine(policy), task)
    looks, spent, began = [], [], time.process_time()

    def on_step(record: dict) -> None:
        nonlocal began
        now = time.process_time()
        spent.append(now - began)
        began = now
        if (record["step"] + 1) % (steps // PARTS) == 0:
            looks.append(look_around(record["step"] + 1, spent, run))
            spent.clear()

    run_recipe(built, RunDirectory(run), on_step=on_step)
    return looks


def find_growth(looks: Sequence[Look]) -> list[str]:
    """What of a run is not flat, from its middle to its end."""
    early, late = looks[: PARTS // 2], looks[PARTS // 2 - 1 :]
    first, last = late[0], late[-1]
    grown = {
        "handles": last.handles > first.handles,
        "threads": last.threads > first.threads,
        "files": last.files > first.files + len(looks) + BEST,  # an evaluation's attempts at each look
        "size": last.size > first.size + SIZE_OF_BEST,
        "children": last.children > max(look.children for look in early),
    }
    said = [f"{name} grew from {getattr(first, name):,} to {getattr(last, name):,}" for name, so in grown.items() if so]
    for name in ("memory", "largest_worker"):
        slope = linear_regression([look.step for look in late], [getattr(look, name) for look in late]).slope
        if slope > BYTES_A_STEP + SLACK / (last.step - first.step):
            said.append(f"{name} grows by {slope:,.0f} bytes a step")
    return said


def find_slowdown(looks: Sequence[Look], most: float) -> list[str]:
    """Whether steps take more than so many times the processor's time in the second half."""
    early, late = (median(look.seconds for look in half) for half in (looks[1 : PARTS // 2], looks[PARTS // 2 :]))
    return [f"steps take {late / early:.2f} times the processor's time"] if late > most * early else []


def main() -> None:
    """Make a run, print its looks; exit code 1 if something grew, or steps became slower."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--trouble", type=int, default=500, help="judgements between two troubles of the workers")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="scorl-long-") as folder:
        looks = measure(Path(folder), options.steps, options.trouble)
    print("  step  ms/step  memory, MB  handles  threads  files  size, KB  children  largest worker, MB")
    for look in looks:
        figures = (1000 * look.seconds, look.memory / 1e6, look.handles, look.threads, look.files, look.size / 1e3)
        print("{:6} {:8.1f} {:11.1f} {:8} {:8} {:6} {:9.1f}".format(look.step, *figures), end=" ")
        print(f"{look.children:9} {look.largest_worker / 1e6:19.1f}")
    sys.exit("\n".join(find_growth(looks) + find_slowdown(looks, 1.3)) or 0)  # an empty text would be an error too


if __name__ == "__main__":
    main()
