"""Kills runs by SIGKILL at random moments, resumes them, and compares them bit for bit with runs that nobody disturbed.

python tests/kills.py --kills 60 --seed 0 [--kinds lora,ddp]        (make test-kills)

Tiny runs of several kinds, each killed up to `MOST` times, then resumed by `--resume auto` until it is done. Of several
processes the launcher or one of the ranks is killed; then nothing of the family may live on. Each kill aims at a phase
of a run that is drawn; which one it met, the run has said itself (support/phases.py).
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
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import accumulate
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import yaml
from support.phases import mark_phases, phase_file, read_phase
from support.processes import descendants, survivors

from scorl.cli import main

FORKS = multiprocessing.get_context("forkserver")
"""Of a process that has imported what a run imports, which takes longer than the run. Ranks are started by torchrun."""
FORKS.set_forkserver_preload(["scorl.cli.train", "scorl.run.run", "scorl.model.loading", "peft", "support.phases"])
MOST = 5
"""Kills of one run."""
MANY = 200
"""Kills of all runs, of which each phase must have met one."""
SECONDS = 30.0
"""Within which a family must be gone."""
PHASES = (
    *("starting", "first evaluation", "collecting", "sampling", "sampled", "learning", "recording", "saving"),
    *("pruning", "later evaluation", "between", "ending"),
)
SHORT = {"sampled", "recording", "pruning", "between"}
"""Of milliseconds."""
LATE = {"saving", "pruning", "later evaluation"}
"""Behind the last step too."""
EARLY = {"first evaluation", "collecting"}
"""Before the first step."""
COLLECTING = {"star", "rejection_sampling"}
"""Objectives whose stages collect at their start, and sample at no other time."""
MARKS_OF_RANKS = """
import os
if os.environ.get("RANK") == "0":
    from pathlib import Path
    from support.phases import mark_phases
    mark_phases(Path(os.environ["MARKED_RUN"]))
"""
"""What ranks run before all else, as Python's `sitecustomize`: they are started by torchrun."""

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
    between_stages: int = 0
    """Kills behind the last step of a stage and before the next one's first."""
    step_seconds: float = 0.0
    start_seconds: float = 0.0

    @property
    def recipe(self) -> Path:
        """Its file."""
        return self.folder / "recipe.yaml"

    @property
    def stages(self) -> list[dict[str, Any]]:
        """Of its recipe."""
        return KINDS[self.name]["stages"]

    @property
    def steps(self) -> int:
        """Of its runs."""
        return sum(stage["steps"] for stage in self.stages)

    @property
    def boundaries(self) -> list[int]:
        """The steps after which a stage follows another."""
        return list(accumulate(stage["steps"] for stage in self.stages))[:-1]

    def measure(self) -> None:
        """Make the undisturbed run."""
        self.folder.mkdir(parents=True)
        self.recipe.write_text(yaml.safe_dump(COMMON | KINDS[self.name]))
        (self.folder / "sitecustomize.py").write_text(MARKS_OF_RANKS)
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
                family = self.wait_for_moment(process, run, draw)
                recorded, phase = count_steps(run), phase_of(run, self.steps)
                if not kill(process, family, draw):
                    break
                self.kills[phase] += 1
                self.between_stages += recorded in self.boundaries
                if report(f"{self.name}: {phase}, {recorded} steps"):
                    break
            finish(start(self.recipe, run), run)
            if others := find_differences(self.undisturbed, read_run(run, self.steps)):
                raise FailedError(f"differs from the undisturbed run in {', '.join(others)}")
            shutil.rmtree(run)
        except (FailedError, OSError) as error:
            self.failed.append(f"{run}: {error}")
            report(f"{self.name}: FAILED: {error}")
        self.runs += 1

    def wait_for_moment(self, process: BaseProcess, run: Path, draw: random.Random) -> list[int]:
        """Wait for a moment of a phase that is drawn, behind a step that is drawn; the processes of the run.

        A moment drawn by the clock alone would mostly meet the imports.
        """
        assert process.pid is not None
        aim, done = draw.choice(self.find_aims(run)), count_steps(run)
        if aim == "starting":
            time.sleep(draw.uniform(0, self.start_seconds))
            return [process.pid, *descendants(process.pid)]
        latest = done if aim in EARLY else max(done, self.steps - 1)
        wanted = draw.choice(self.boundaries) if aim == "boundary" else draw.randint(done, latest)
        while process.is_alive() and not (is_locked(run) and count_steps(run) >= wanted):
            time.sleep(0.002)
        family = [process.pid, *descendants(process.pid)]  # which takes longer than some phases do
        while aim != "boundary" and process.is_alive() and phase_of(run, self.steps, locked=True) != aim:
            if aim not in LATE and count_steps(run) == self.steps:
                break  # it was missed
            time.sleep(0.0005)
        time.sleep(draw.uniform(0, 0.001 if aim in SHORT else self.step_seconds / 2))
        return family

    def find_aims(self, run: Path) -> list[str]:
        """The phases that a run has still before it; at a boundary any of them may be met."""
        done, collects = count_steps(run), [stage["objective"] in COLLECTING for stage in self.stages]
        ahead = {
            "starting": True,
            "first evaluation": not (run / "evaluation.json").exists(),
            "collecting": collects[0] and not done,
            "boundary": done < min(self.boundaries, default=0),
            **dict.fromkeys(("sampling", "sampled"), not all(collects) and done < self.steps - 1),
            **dict.fromkeys(("learning", "recording", "saving", "pruning", "later evaluation"), done < self.steps),
        }
        return [aim for aim, so in ahead.items() if so]

    def row(self) -> list[str]:
        """Of the table."""
        equal = "yes" if not self.failed else f"NO ({len(self.failed)})"
        kills = [str(self.kills[phase] or "") for phase in PHASES]
        return [self.name, str(self.runs), str(self.kills.total()), *kills, str(self.between_stages or ""), equal]


def start(recipe: Path, run: Path) -> BaseProcess:
    """Start or resume a run; what it says goes to a file beside it."""
    phase_file(run).unlink(missing_ok=True)
    process = FORKS.Process(target=train, args=(recipe, run))
    process.start()
    return process


def train(recipe: Path, run: Path) -> None:
    """The command, in a process of its own."""
    with run.with_suffix(".log").open("ab") as log:
        for said in (1, 2):
            os.dup2(log.fileno(), said)
    os.environ["PYTHONPATH"] = os.pathsep.join([str(recipe.parent), *sys.path])
    os.environ["MARKED_RUN"] = str(run)
    mark_phases(run)
    main(["train", str(recipe), "--out", str(run), "--resume", "auto"])


def finish(process: BaseProcess, run: Path) -> None:
    """Wait for a run that nobody disturbs."""
    process.join(300)
    if process.is_alive():
        process.kill()
        raise FailedError("does not end within 300 s")
    if process.exitcode:
        raise FailedError(f"exit code {process.exitcode}: {run.with_suffix('.log').read_text()[-1000:]}")


def kill(process: BaseProcess, family: list[int], draw: random.Random) -> bool:
    """Kill a process of the family, and see to it that the others go; False: the run had ended by itself."""
    if not process.is_alive():
        return False
    for victim in (draw.choice(family), family[0]):
        with suppress(ProcessLookupError):  # it may have ended just now
            os.kill(victim, 9)
            break
    process.join(60)
    if process.is_alive():
        process.kill()
        raise FailedError("its launcher lives on without a rank")
    if left := survivors(family, SECONDS):
        raise FailedError(f"{len(left)} of {len(family)} processes live on")
    return True


def phase_of(run: Path, steps: int, locked: bool | None = None) -> str:
    """What a run is at, of `PHASES`; `locked`: whether a process is known to be at work on it."""
    if not (is_locked(run) if locked is None else locked):
        return "starting" if count_steps(run) < steps else "ending"
    phase = read_phase(run)
    if phase == "evaluating":
        return "later evaluation" if (run / "evaluation.json").exists() else "first evaluation"
    if phase in ("sampling", "sampled", "learning", "recording") and is_saving(run):  # meanwhile, by async_save
        return "saving"
    if phase in ("", "between") and count_steps(run) == steps:
        return "ending"
    return phase or "starting"


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
    """What must be equal, by name: lines without their clocks, the digests of files, the best checkpoint, all names.

    Of the last checkpoint that is every file but the card and the manifest: weights, adapter, trainer state.

    Raises:
        FailedError: something is lost or torn.
    """
    last = run / f"checkpoints/step-{steps}"
    try:
        lines = [json.loads(line) for line in (run / "steps.jsonl").read_text().splitlines()]
        files = [path for kind in ("attempts/*", "held-out/*", "collected/*/*") for path in run.glob(kind)]
        files += [
            path for path in last.rglob("*") if path.is_file() and path.name not in ("README.md", "manifest.json")
        ]
        digests = {str(path.relative_to(run)): sha256(in_order(path)).hexdigest() for path in files}
        evaluation = json.loads((run / "evaluation.json").read_text())
        best = [os.readlink(link) for link in (run / "checkpoints").glob("best")]
    except (OSError, ValueError) as error:
        raise FailedError(f"cannot be read: {error}") from error
    return {
        "steps.jsonl": [{**line, "seconds": None} for line in lines],
        "evaluation.json": evaluation,
        "best": best,
        "names": sorted(str(path.relative_to(run)) for path in run.rglob("*")),
        **digests,
    }


def in_order(path: Path) -> bytes:
    """A file's bytes; of safetensors with a sorted header, for its metadata are written in an order by chance."""
    data = path.read_bytes()
    if path.suffix != ".safetensors":
        return data
    end = 8 + int.from_bytes(data[:8], "little")
    return json.dumps(json.loads(data[8:end]), sort_keys=True).encode() + data[end:]


def find_differences(one: dict[str, object], other: dict[str, object]) -> list[str]:
    """What is not equal of two runs as `read_run` gives them; names of files one by one."""
    alone = {*one["names"]} ^ {*other["names"]}
    different = [name for name in one | other if name != "names" and one.get(name) != other.get(name)]
    return [*different, *sorted(f"{name} (is in one alone)" for name in alone)]


def print_table(kinds: list[Kind]) -> None:
    """Kind, runs, kills by phase, those of them between two stages, and whether all was equal."""
    rows = [["kind", "runs", "kills", *PHASES, "between stages", "equal"], *(kind.row() for kind in kinds)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)))


def find_missed(kinds: list[Kind]) -> list[str]:
    """The phases that kinds aim at and no kill has met, of so many kills that each should have been."""
    met = sum((kind.kills for kind in kinds), Counter())
    aims = {aim for kind in kinds for aim in kind.find_aims(kind.folder / "none")} - {"boundary"}
    return sorted(aim for aim in aims if not met[aim]) if met.total() >= MANY else []


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
    failed = [line for kind in kinds for line in kind.failed]
    if missed := find_missed(kinds):
        failed.append(f"no kill met {', '.join(missed)}")
    if failed:
        sys.exit("\n".join(failed))
    shutil.rmtree(folder)


if __name__ == "__main__":
    disturb_runs()
