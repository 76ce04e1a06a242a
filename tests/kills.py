"""Kills runs by SIGKILL at random moments, resumes them, and compares them bit for bit with runs that nobody disturbed.

python tests/kills.py --kills 60 --seed 0 [--kinds lora,ddp]        (make test-kills)

Tiny runs of several kinds, each killed up to `MOST` times, then resumed by `--resume auto` until it is done. Of several
processes the launcher or one of the ranks is killed; then nothing of the family may live on.
"""

import argparse
import json
import multiprocessing
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from hashlib import sha256
from multiprocessing.process import BaseProcess
from pathlib import Path

import yaml
from support.processes import descendants, survivors

from scorl.cli import main

FORKS = multiprocessing.get_context("forkserver")
"""Of a process that has imported what a run imports, which takes longer than the run. Ranks are started by torchrun."""
FORKS.set_forkserver_preload(["scorl.cli.train", "scorl.run.run", "scorl.model.loading", "peft"])
MOST = 5
"""Kills of one run."""
SECONDS = 10.0
"""Within which a family must be gone."""
PHASES = ("starting", "first evaluation", "collecting", "learning", "saving", "ending")

COMMON = {
    "seed": 3,
    "model": {"path": "scorl:countdown-base"},
    "task": {"name": "countdown"},
    "engine": {"temperature": 1.0, "max_tokens": 24},
    "learner": {"learning_rate": 3e-4, "lr_scheduler_type": "linear"},
    "evaluation": {"problems": 24, "eval_steps": 3},
    "checkpoint": {"save_steps": 2},
}
SIZE = {"steps": 4, "problems": 4, "samples": 4}
STAGE_ONE = {"objective": "score_stage_one", "beta_2": 0.3, **SIZE}
STAGE_TWO = {"objective": "score_stage_two", **SIZE}
OFFLINE = {**STAGE_TWO, "branches": 2, "offline": 0.5}
STAR = {"objective": "star", "steps": 4, "problems": 16, "samples": 4, "keep_right": True}
OWN_CONVERSATIONS = {"objective": "rejection_sampling", "steps": 4, "problems": 16, "samples": 4}
PROCESS = {"objective": "process_level", **SIZE}
WARM_UP = {"objective": "supervised", "steps": 2, "problems": 8}
FEW_ATTEMPTS = {"compress_attempts": True, "attempts_total_limit": 3}
RANKS = {"name": "torchrun", "workers": 2, "timeout": 120}

KINDS = {
    "both stages": {"stages": [STAGE_ONE, OFFLINE]},
    "sparse": {"stages": [STAGE_ONE, OFFLINE], "checkpoint": {"save_steps": 5}, "logging": FEW_ATTEMPTS},
    "star": {"stages": [STAR]},
    "async": {"stages": [STAGE_ONE, STAGE_TWO], "checkpoint": {"save_steps": 1, "async_save": True}},
    "lora": {"stages": [STAGE_ONE, STAGE_TWO], "model": {"path": "scorl:countdown-base", "lora": {"r": 2}}},
    "adaptive": {"stages": [WARM_UP, {**STAGE_ONE, "target_kl": 0.05, "reset_reference": True}]},
    "verifies": {
        "stages": [OWN_CONVERSATIONS, PROCESS],
        "model": {"path": "scorl:verify-base"},
        "task": {"name": "countdown", "most_steps": 1},
        "turns": {"name": "verification"},
        "engine": {"temperature": 1.0, "max_tokens": 48},
    },
    "ddp": {"stages": [STAGE_ONE, STAGE_TWO], "launcher": RANKS},
    "fsdp2": {"stages": [STAGE_ONE, STAGE_TWO], "launcher": {**RANKS, "parallel": "fsdp2"}},
}


class FailedError(Exception):
    """A run did not do what it should; the message says what, and where it lies."""


@dataclass
class Kind:
    """A recipe, what its undisturbed run left, and what became of the others."""

    name: str
    folder: Path
    kills: Counter[str] = field(default_factory=Counter)
    runs: int = 0
    failed: list[str] = field(default_factory=list)
    undisturbed: dict[str, object] = field(default_factory=dict)
    step_seconds: float = 0.0
    start_seconds: float = 0.0

    @property
    def recipe(self) -> Path:
        """Its file."""
        return self.folder / "recipe.yaml"

    @property
    def steps(self) -> int:
        """Of its runs."""
        return sum(stage["steps"] for stage in KINDS[self.name]["stages"])

    def measure(self) -> None:
        """Make the undisturbed run."""
        self.folder.mkdir(parents=True)
        self.recipe.write_text(yaml.safe_dump(COMMON | KINDS[self.name]))
        run, began = self.folder / "undisturbed", time.monotonic()
        process = start(self.recipe, run)
        while process.is_alive() and not is_locked(run):
            time.sleep(0.01)
        at_work = time.monotonic()
        finish(process, run)
        self.start_seconds, self.step_seconds = at_work - began, (time.monotonic() - at_work) / self.steps
        self.undisturbed = read_run(run, self.steps)

    def disturb(self, seed: int, report: Callable[[str], bool]) -> None:
        """Make a run that is killed some times, until `report` says that it is enough, and compare it."""
        draw, run = random.Random(seed), self.folder / f"run-{seed}"
        try:
            for _ in range(draw.randint(1, MOST)):
                process = start(self.recipe, run)
                self.wait_for_moment(process, run, draw)
                if not process.is_alive():
                    break
                phase = kill(process, run, self.steps, draw)
                self.kills[phase] += 1
                if report(f"{self.name}: {phase}"):
                    break
            finish(start(self.recipe, run), run)
            found = read_run(run, self.steps)
            others = [name for name in self.undisturbed | found if self.undisturbed.get(name) != found.get(name)]
            if others:
                raise FailedError(f"differs from the undisturbed run in {', '.join(others)}")
            shutil.rmtree(run)
        except FailedError as error:
            self.failed.append(f"{run}: {error}")
            report(f"{self.name}: FAILED: {error}")
        self.runs += 1

    def wait_for_moment(self, process: BaseProcess, run: Path, draw: random.Random) -> None:
        """Wait for a moment that is drawn: at the start, of the first work, about a step, while a checkpoint is saved.

        A moment drawn by the clock alone would mostly meet the imports.
        """
        weights = (15, 25, 40, 20) if (run / "evaluation.json").exists() else (15, 75, 10, 0)
        what, done = draw.choices(("start", "work", "step", "save"), weights)[0], count_steps(run)
        wanted = draw.randint(done, max(done, self.steps - 1)) if what == "step" else 0
        if what == "start":
            time.sleep(draw.uniform(0, self.start_seconds))
            return
        while process.is_alive() and not (is_locked(run) and count_steps(run) >= wanted):
            time.sleep(0.002)
        while what == "save" and process.is_alive() and not is_saving(run):
            time.sleep(0.002)
        time.sleep(draw.uniform(0, {"work": 1.0, "step": 1.5, "save": 0.1}[what] * self.step_seconds))

    def row(self) -> list[str]:
        """Of the table."""
        equal = "yes" if not self.failed else f"NO ({len(self.failed)})"
        kills = [str(self.kills[phase] or "") for phase in PHASES]
        return [self.name, str(self.runs), str(self.kills.total()), *kills, equal]


def start(recipe: Path, run: Path) -> BaseProcess:
    """Start or resume a run; what it says goes to a file beside it."""
    process = FORKS.Process(target=train, args=(recipe, run))
    process.start()
    return process


def train(recipe: Path, run: Path) -> None:
    """The command, in a process of its own."""
    with run.with_suffix(".log").open("ab") as log:
        for said in (1, 2):
            os.dup2(log.fileno(), said)
    main(["train", str(recipe), "--out", str(run), "--resume", "auto"])


def finish(process: BaseProcess, run: Path) -> None:
    """Wait for a run that nobody disturbs."""
    process.join(300)
    if process.is_alive():
        process.kill()
        raise FailedError("does not end within 300 s")
    if process.exitcode:
        raise FailedError(f"exit code {process.exitcode}: {run.with_suffix('.log').read_text()[-1000:]}")


def kill(process: BaseProcess, run: Path, steps: int, draw: random.Random) -> str:
    """Kill a process of the family, see to it that the others go, and say in which phase that was."""
    assert process.pid is not None
    family = [process.pid, *descendants(process.pid)]
    phase = phase_of(run, steps)
    os.kill(draw.choice(family), 9)
    process.join(60)
    if process.is_alive():
        process.kill()
        raise FailedError("its launcher lives on without a rank")
    if left := survivors(family, SECONDS):
        raise FailedError(f"{len(left)} of {len(family)} processes live on")
    return phase


def phase_of(run: Path, steps: int) -> str:
    """What a run is at."""
    if not is_locked(run):
        return "starting" if count_steps(run) < steps else "ending"
    if not (run / "evaluation.json").exists():
        return "first evaluation"
    if is_saving(run):
        return "saving"
    recipe = (run / "recipe.yaml").read_text()
    if not count_steps(run) and any(f"objective: {name}" in recipe for name in ("star", "rejection_sampling")):
        return "collecting"
    return "learning" if count_steps(run) < steps else "ending"


def is_locked(run: Path) -> bool:
    """Whether a process is at work on it; to try the lock would disturb it."""
    try:
        inode = (run / ".lock").stat().st_ino
    except FileNotFoundError:
        return False
    return any(line.split()[-3].endswith(f":{inode}") for line in Path("/proc/locks").read_text().splitlines())


def is_saving(run: Path) -> bool:
    """Whether a checkpoint's draft is there."""
    return any((run / "checkpoints").glob(".*"))


def count_steps(run: Path) -> int:
    """Steps that a run has recorded."""
    try:
        return (run / "steps.jsonl").read_bytes().count(b"\n")
    except FileNotFoundError:
        return 0


def read_run(run: Path, steps: int) -> dict[str, object]:
    """What must be equal, by name: lines without their clocks, and the other files' digests."""
    lines = [json.loads(line) for line in (run / "steps.jsonl").read_text().splitlines()]
    last = f"checkpoints/step-{steps}"
    kinds = ("attempts/*", "held-out/*", "collected/*/*", f"{last}/*.safetensors")
    files = [path for kind in kinds for path in run.glob(kind)]
    digests = {str(path.relative_to(run)): sha256(path.read_bytes()).hexdigest() for path in files}
    evaluation = json.loads((run / "evaluation.json").read_text())
    return {"steps.jsonl": [{**line, "seconds": None} for line in lines], "evaluation.json": evaluation, **digests}


def print_table(kinds: list[Kind]) -> None:
    """Kind, runs, kills by phase, and whether all was equal."""
    rows = [["kind", "runs", "kills", *PHASES, "equal"], *(kind.row() for kind in kinds)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)))


def disturb_runs() -> None:
    """Disturb runs of all kinds in turn until there were enough kills; exit code 1 if one did not end equal."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="scorl-kills-"))
    kinds = [Kind(name, folder / name.replace(" ", "-")) for name in options.kinds.split(",")]
    print(f"seed {options.seed}, in {folder}", flush=True)

    def count_kills() -> int:
        return sum(kind.kills.total() for kind in kinds)

    def report(what: str) -> bool:
        print(f"{count_kills()}/{options.kills} {what}", flush=True)
        return count_kills() >= options.kills

    def work(number: int) -> None:
        if count_kills() < options.kills:
            kinds[number % len(kinds)].disturb(options.seed + number, report)

    (first := FORKS.Process(target=int)).start()
    first.join()  # so that no kind measures the imports
    with ThreadPoolExecutor(options.jobs) as pool:
        list(pool.map(Kind.measure, kinds))
        list(pool.map(work, range(20 * options.kills)))
    print_table(kinds)
    if failed := [line for kind in kinds for line in kind.failed]:
        sys.exit("\n".join(failed))
    shutil.rmtree(folder)


if __name__ == "__main__":
    disturb_runs()
