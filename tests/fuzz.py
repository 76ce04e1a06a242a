"""Mutated recipes, command lines and files of data, given to the commands that read them, in one process.

python tests/fuzz.py --count 5000 --seed 0 [--kinds recipes,data]        (make test-fuzz)

Each case ends with exit code 0 or 2, in a sentence without long lines, within `SECONDS` of the processor and `WAIT` by
the clock, before a model is loaded. A bad row is named by its file and its number; with `on_error: skip` it is left out
and counted.
"""

import argparse
import contextlib
import io
import json
import os
import random
import re
import signal
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

from support.mutations import FORMATS, TASKS, VALUES, damage_file, damage_rows, mutate_recipe, mutate_text, odd_override

from scorl.cli import main
from scorl.errors import UserError
from scorl.recipe import resolve, shipped_recipes

SECONDS = 20.0
"""Of the processor, that a case may take."""
WAIT = 600.0
"""Seconds by the clock: what waits for something takes no processor, and other work may leave it little of that."""
LINE = 1000
"""The most characters of a line of a message."""
LOADED = "a model would be loaded now"
LOADERS = (
    "model.policy.Policy.of",
    "cli.evaluate.build_engine",
    "cli.serve._listen",
    "cli.train._by_torchrun",
    "cli.train._by_ray",
)
"""What loads a model, or starts processes that do."""
READ = "nobody-asked-this"
"""The id of an answer to no problem: it is refused after the task's files have been read."""


class HangError(BaseException):
    """A case takes too long."""


def run_command(arguments: list[str]) -> tuple[int, str, str]:
    """A command's exit code and what it wrote; what it raised besides is in the last.

    Exit code -1: a traceback, -2: it hangs.
    """

    def stop(*_: object) -> None:
        raise HangError

    out, err = io.StringIO(), io.StringIO()
    clocks = ((signal.ITIMER_PROF, signal.SIGPROF, SECONDS), (signal.ITIMER_REAL, signal.SIGALRM, WAIT))
    before = [(signal.signal(alarm, stop), signal.setitimer(clock, seconds)) for clock, alarm, seconds in clocks]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main(arguments)
        code = 0
    except SystemExit as ended:
        code = int(ended.code or 0)
    except HangError:
        code = -2
        err.write("".join(traceback.format_exc().splitlines(keepends=True)[-12:]))
    except Exception:
        code = -1
        err.write("".join(traceback.format_exc().splitlines(keepends=True)[-8:]))
    finally:
        for (clock, alarm, _), (handler, left) in zip(clocks, before, strict=True):
            signal.setitimer(clock, 0)
            signal.signal(alarm, handler)
            signal.setitimer(clock, *left)  # pytest-timeout has one
    return code, out.getvalue(), err.getvalue()


def refuse_to_load(*_: object, **__: object) -> Any:
    """Takes the place of whatever loads a model."""
    raise UserError(LOADED)


def find_fault(code: int, err: str) -> str | None:
    """What is wrong with how a command ended, in a line."""
    if code not in (0, 2):
        return f"exit {code}: {err.strip().splitlines()[-1][:300] if err.strip() else ''}"
    if code == 2 and not err.strip():
        return "refused without a word"
    if len(err) > 20_000:
        return f"a message of {len(err)} characters: {err[:80]!r}"
    if (longest := max(err.split("\n"), key=len)) and len(longest) > LINE:
        return f"a line of {len(longest)} characters: {longest[:80]!r}"
    if re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]", err):
        return f"characters that a terminal obeys: {err!r:.200}"
    return None


@cache
def trees(full: bool) -> tuple[dict[str, Any], ...]:
    """Recipes to mutate: those that ship with every default written out, and small ones that can be prepared."""
    names = list(shipped_recipes()) if full else ["countdown", "verify-pag"]
    shipped = [resolve(name).as_dict() for name in names]
    local = {"path": "scorl:countdown-base"}
    small = [{**tree, "model": {**tree["model"], **local}, "task": {"name": "countdown"}} for tree in shipped[:2]]
    brief = {
        "model": local,
        "task": {"name": "files", "path": "good.jsonl", "few_shot": [{"problem": "1?", "solution": "1"}]},
        "stages": [{"objective": "score_stage_one", "steps": 2}, {"objective": "reinforce", "steps": 2}],
    }
    return (*shipped, *small, *small, brief, brief, brief)


def try_recipe(rng: random.Random, full: bool) -> tuple[str, str | None]:
    """One mutated recipe or command line: of which kind it was, and what went wrong."""
    tree = rng.choice(trees(full))
    command = rng.choice((["train", "--dry-run"],) * 6 + (["train", "--show-prompts"], ["train"]))
    overrides: list[str] = []
    if rng.random() < 0.25:
        kind = "override"
        overrides = [odd_override(rng, tree) for _ in range(rng.randint(1, 2))]
        Path("mine.yaml").write_text(json.dumps(tree), encoding="utf-8")
    else:
        kind, data = mutate_recipe(rng, tree)
        Path("mine.yaml").write_bytes(data)
    where = rng.choice(("mine.yaml",) * 20 + ("./mine.yaml", ".", "", "~no-such-user/x", "x" * 300, "mine.yaml/x"))
    code, _, err = run_command([command[0], where, *overrides, *command[1:], "--out", "out"])
    return kind, find_fault(code, err) and f"{find_fault(code, err)}  {overrides!r:.200}"


def try_data(rng: random.Random, full: bool) -> tuple[str, str | None]:
    """One damaged file of data, read by one of the tasks."""
    task, form = rng.choice(list(TASKS)), rng.choice(FORMATS)
    damaged = (damage_rows if rng.random() < 0.7 else damage_file)(rng, TASKS[task], form)
    Path(damaged.name).write_bytes(damaged.data)
    settings = [f"path={damaged.name}"]
    settings += {"math": ["test_path=math.jsonl"], "mbpp": ["shots=0"]}.get(task, [])
    skip = rng.random() < 0.3
    arguments = ["evaluate", "nobody.jsonl", *settings, *(["on_error=skip"] if skip else []), "--task", task]
    code, _, err = run_command(arguments)
    if fault := find_fault(code, err):
        return f"{task}, {damaged.kind}", f"{form}: {fault}"
    taken = READ in err
    if not taken and damaged.name not in err and "gold answers" not in err:
        return f"{task}, {damaged.kind}", f"{form}: the file is not named: {err[:200]}"
    if damaged.row is not None and not taken:
        if skip:
            return f"{task}, {damaged.kind}", f"{form}: not skipped: {err[:200]}"
        if not re.search(rf"(line|entry) {damaged.row}\b", err) and "gold answers" not in err:
            return f"{task}, {damaged.kind}", f"{form}: row {damaged.row} is not named: {err[:200]}"
    return f"{task}, {damaged.kind}", None


def try_answers(rng: random.Random, full: bool) -> tuple[str, str | None]:
    """One damaged file or option of the other commands."""
    kind = rng.choice(("answers", "judge", "wordings", "scripted", "solve", "serve", "few-shot"))
    answer = {"id": "q1", "attempts": ["1", "2"], "model": "m", "sampling": {"temperature": 0, "max_tokens": 9}}
    line: dict[str, Callable[[int], dict[str, Any]]] = {
        "answers": lambda n: {**answer, "id": f"q{n}"},
        "judge": lambda n: {"id": n, "response": "\\boxed{1}", "answer": 1, "numbers": [1, 2], "target": 3},
        "scripted": lambda n: {"prompt_contains": "", "response": f"{n}"},
        "few-shot": lambda n: {"problem": f"{n}?", "solution": f"{n}."},
    }
    if kind in line:
        damage = damage_rows if rng.random() < 0.7 else damage_file
        Path("lines.jsonl").write_bytes(damage(rng, line[kind], "jsonl").data)
    elif kind == "wordings":
        tree = {"mine": "Look again.", "other": "Again."}
        Path("w.yaml").write_bytes(mutate_recipe(rng, tree)[1])
    elif kind == "solve":
        Path("q.txt").write_bytes(mutate_text(rng, b"What is 2 + 2?")[1])
    odd = str(rng.choice(VALUES)).replace("\0", "").encode(errors="replace").decode()
    options = ("upstream", "model", "attempts", "samples", "correction", "task", "run", "host", "port", "api-key-env")
    arguments = {
        "answers": ["evaluate", "lines.jsonl", "path=good.jsonl", "--split", "all", "--task", "files"],
        "judge": ["judge", "lines.jsonl", "--verifier", rng.choice(("exact", "math", "countdown"))],
        "wordings": ["evaluate", "scorl:countdown-base", "--task", "countdown", "--wordings", "w.yaml"],
        "scripted": ["solve", "scorl:countdown-base", "1?", "engine.answers=lines.jsonl", "--engine", "scripted"],
        "few-shot": ["evaluate", "nobody.jsonl", "path=good.jsonl", "few_shot=lines.jsonl", "--task", "files"],
        "solve": ["solve", "scorl:countdown-base", "--file", "q.txt", *([f"task.prompt={odd}"] * (rng.random() < 0.3))],
        "serve": ["serve", "--upstream", "http://127.0.0.1:9/v1", f"--{rng.choice(options)}={odd}"],
    }[kind]
    code, _, err = run_command(arguments)
    return kind, find_fault(code, err) and f"{find_fault(code, err)}  {arguments!r:.300}"


KINDS = {"recipes": try_recipe, "data": try_data, "answers": try_answers}


@contextlib.contextmanager
def a_place_to_try(folder: Path) -> Iterator[None]:
    """A folder with good files in it, in which no model can be loaded and no hub be asked."""
    here = Path.cwd()
    os.chdir(folder)
    for task, make in TASKS.items():
        Path(f"{task}.jsonl").write_text("".join(json.dumps(make(n)) + "\n" for n in range(100, 112)), encoding="utf-8")
    Path("good.jsonl").write_text("".join(json.dumps(TASKS["files"](n)) + "\n" for n in range(12)), encoding="utf-8")
    Path("nobody.jsonl").write_text(json.dumps({"id": READ, "attempts": ["x"]}), encoding="utf-8")
    try:
        with contextlib.ExitStack() as stack:
            for name in LOADERS:
                stack.enter_context(patch(f"scorl.{name}", refuse_to_load))
            stack.enter_context(patch("huggingface_hub.constants.HF_HUB_OFFLINE", new=True))
            yield
    finally:
        os.chdir(here)


def fuzz(kind: str, count: int, seed: int, full: bool = False) -> tuple[Counter[str], dict[str, list[str]]]:
    """So many cases of a kind: how many there were of each sort, and what went wrong by its likeness."""
    sorts: Counter[str] = Counter()
    faults: dict[str, list[str]] = {}
    for number in range(count):
        sort, fault = KINDS[kind](random.Random(f"{seed} {kind} {number}"), full)
        sorts[sort] += 1
        if fault:
            likeness = re.sub(r"\d+|'[^']*'", "_", fault)[:70]
            faults.setdefault(likeness, []).append(f"{kind} {number} ({sort}): {fault}")
    return sorts, faults


def run() -> None:
    """Exit code 1 if a case ended otherwise than it should."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", default=",".join(KINDS))
    options = parser.parse_args()
    failed = 0
    for kind in options.kinds.split(","):
        with tempfile.TemporaryDirectory(prefix="scorl-fuzz-") as folder, a_place_to_try(Path(folder)):
            sorts, faults = fuzz(kind, options.count, options.seed, full=True)
        print(f"{kind}: {sorts.total()} cases, {sum(map(len, faults.values()))} faults", flush=True)
        print("  " + ", ".join(f"{count} {sort}" for sort, count in sorts.most_common()))
        for lines in faults.values():
            print(f"  {len(lines)} x {lines[0]}")
        failed += len(faults)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    run()
