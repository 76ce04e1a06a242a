"""Measures the sandbox: python benchmarks/sandbox.py COMMAND (docs/code.md has the figures).

throughput [PROGRAMS]        programs a second, beside what starting a bare interpreter costs
canonical DATA               the reference programs of HumanEval and MBPP (a folder with both)
hostile FILE                 programs that cheat, attack or waste, and honest odd ones
agreement DATA SAMPLES PYTHON [PER_PROBLEM]
                             against evalplus, which PYTHON (another interpreter) has installed
"""

from __future__ import annotations

import collections
import gzip
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from scorl import tasks
from scorl.sandbox.bubblewrap import find_interpreter
from scorl.sandbox.pool import measure_slowness
from scorl.tasks import Problems
from scorl.trajectory import Problem
from scorl.verifiers.program import Examination, broker_pool, make_request

ADD = "def add(a, b):\n    return a + b\n"
TESTS = Examination(tests=("assert add(2, 3) == 5", "assert add(-1, 1) == 0", "assert add(10, 20) == 30"))


def throughput(count: str = "400") -> None:
    """Programs a second, and the cost of a bare process."""
    line = [find_interpreter(), "-I", "-S", "-c", "pass"]
    begun, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    for _ in range(50):
        subprocess.run(line, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    wall = (time.perf_counter() - begun) / 50
    cpu = (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) / 50
    print(f"bare interpreter: {1000 * wall:.1f} ms, of which {1000 * cpu:.1f} ms processor time")
    brokers = broker_pool(os.getpid())
    brokers.examine([make_request(ADD, TESTS)] * 4, "preferred")
    begun = time.perf_counter()
    judgements = brokers.examine([make_request(ADD, TESTS)] * int(count), "preferred")
    seconds = time.perf_counter() - begun
    print(f"{count} programs: {int(count) / seconds:.1f} a second on {os.cpu_count()} cores, {brokers.level}")
    print(collections.Counter(judgement.outcome for judgement in judgements))


def canonical(data: str) -> None:
    """The verdicts on the reference programs; every one should pass."""
    humaneval = {"path": f"{data}/humaneval/HumanEval.jsonl.gz", "timeout": 30.0}
    mbpp = {"path": f"{data}/mbpp/mbpp.jsonl", "shots": 0, "timeout": 30.0}
    tasks_of_mbpp = sys.modules["scorl.tasks.mbpp"]
    tasks_of_mbpp.SPLITS["prompt"] = range(1, 11)  # type: ignore[attr-defined]
    report("HumanEval", "humaneval", humaneval)
    report("MBPP", "mbpp", mbpp)
    plus = {"path": f"{data}/humaneval/HumanEvalPlus.jsonl.gz", "timeout": 60.0}
    report("HumanEval+", "humaneval+", plus)
    report("MBPP+", "mbpp+", {"path": f"{data}/mbpp/MbppPlus.jsonl.gz", "timeout": 60.0})


def report(title: str, name: str, settings: dict[str, Any]) -> None:
    """Judges the solutions of a task."""
    loaded = tasks.load(name, **settings)
    problems = [problem for split in loaded.splits.values() for problem in split.take(None)]
    begun = time.perf_counter()
    verdicts = loaded.judge([(problem, str(problem.solution)) for problem in problems])
    passed = sum(verdict.reward for verdict in verdicts)
    print(f"{title}: {passed:.0f} of {len(problems)} in {time.perf_counter() - begun:.0f} s")
    for problem, verdict in zip(problems, verdicts, strict=True):
        if not verdict.reward:
            print(f"  {problem.id}: {verdict.outcome}, {verdict.reason}")


def hostile(file: str) -> None:
    """How many hostile and odd programs come out as they should."""
    os.environ["CANARY"] = "SECRET-CANARY"
    cases = [json.loads(line) for line in Path(file).read_text(encoding="utf-8").splitlines()]
    words = {"passed": "pass", "failed": "fail", "memory": "oom", "forbidden": "error"}
    requests = [
        make_request(
            case["code"], Examination(tuple(case["tests"]), entry_point=case["entry_point"], stdin=case["stdin"] or "")
        )
        for case in cases
    ]
    right = 0
    for case, judgement in zip(cases, broker_pool(os.getpid()).examine(requests, "required"), strict=True):
        ok = words.get(judgement.outcome, judgement.outcome) in case["acceptable_verdicts"]
        right += ok
        if not ok:
            print(f"  {case['id']} {case['name']}: {judgement.outcome}, {judgement.reason}")
    print(f"{right} of {len(cases)} as they should")


def agreement(data: str, samples: str, python: str, per_problem: str = "4") -> None:
    """Our verdicts beside those of evalplus on the programs of a real model, problem by problem."""
    with gzip.open(samples, "rt", encoding="utf-8") as file:
        lines = [json.loads(line) for line in file]
    problems = humaneval(data).take(None)
    programs = [
        (matching(line["prompt"], problems).id, line["prompt"] + text)
        for line in lines
        for text in line["samples"][: int(per_problem)]
    ]
    theirs = evalplus(data, programs, python)
    for key, name, file_name in (("base", "humaneval", "HumanEval"), ("plus", "humaneval+", "HumanEvalPlus")):
        loaded = tasks.load(name, path=f"{data}/humaneval/{file_name}.jsonl.gz")
        asked = {problem.id: problem for problem in loaded.split("test").take(None)}
        # the bare program, as evalplus takes it: no code block to be found first
        pairs = [(asked[identity], f"```python\n{text}\n```") for identity, text in programs]
        begun = time.perf_counter()
        ours = loaded.judge(pairs)
        same = sum(bool(a.reward) == b[key] for a, b in zip(ours, theirs, strict=True))
        passed = sum(a.reward for a in ours)
        print(f"{key}: {same} of {len(programs)} agree; {passed:.0f} pass; {time.perf_counter() - begun:.0f} s")
        for (identity, _), mine, other in zip(programs, ours, theirs, strict=True):
            if bool(mine.reward) != other[key]:
                print(f"  {identity}: ours {mine.outcome} ({mine.reason[:150]}), evalplus {other[key]}")


def humaneval(data: str) -> Problems:
    """The problems of HumanEval."""
    return tasks.load("humaneval", path=f"{data}/humaneval/HumanEval.jsonl.gz").split("test")


def matching(prompt: str, problems: list[Problem]) -> Problem:
    """The problem of a prompt whose examples were taken out: of the same name, with the most lines in common."""
    name = re.findall(r"^def\s+(\w+)", prompt, re.MULTILINE)[-1]
    lines = set(prompt.splitlines())
    same = [problem for problem in problems if problem.answer.entry_point == name]
    return max(same, key=lambda problem: len(lines & set(problem.answer.opening.splitlines())))


def evalplus(data: str, programs: list[tuple[str, str]], python: str) -> list[dict[str, bool]]:
    """What evalplus says: whether each program passes the base tests, and those and the others."""
    with tempfile.TemporaryDirectory() as folder:
        problems = Path(folder) / "HumanEvalPlus.jsonl"
        problems.write_bytes(gzip.decompress(Path(data, "humaneval/HumanEvalPlus.jsonl.gz").read_bytes()))
        asked = Path(folder) / "samples.jsonl"
        asked.write_text("".join(json.dumps({"task_id": i, "solution": text}) + "\n" for i, text in programs))
        line = [python, "-m", "evalplus.evaluate", "--dataset", "humaneval", "--samples", str(asked), "--parallel", "2"]
        begun = time.perf_counter()
        subprocess.run(
            line,
            check=True,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "HUMANEVAL_OVERRIDE_PATH": str(problems), "PYTHONPATH": ""},
        )
        print(f"evalplus: {time.perf_counter() - begun:.0f} s")
        results = json.loads(Path(folder, "samples_eval_results.json").read_text())["eval"]
    taken: collections.Counter[str] = collections.Counter()
    found = []
    for identity, _ in programs:
        one = results[identity][taken[identity]]
        taken[identity] += 1
        base = one["base_status"] == "pass"
        found.append({"base": base, "plus": base and one["plus_status"] == "pass"})
    return found


COMMANDS: dict[str, Callable[..., None]] = {
    "throughput": throughput,
    "canonical": canonical,
    "hostile": hostile,
    "agreement": agreement,
}

if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in COMMANDS:
        sys.exit(__doc__)
    print(f"time limits are scaled by {measure_slowness():.2f} here")
    COMMANDS[sys.argv[1]](*sys.argv[2:])
