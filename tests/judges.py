"""Tries to break the verifiers and the sandbox: mutated answers by the thousand, programs in a row, workers killed.

python tests/judges.py --answers 100000 --programs 10000 --seed 0        (make test-judges)

Every answer has to get a verdict; among them stand answers and hacks whose reward is known and new, so that no cache
has them, and now and then a worker is killed: no verdict may be another by that. Afterwards nothing may be left of
either, and workers must stand still and have held no more memory than they may.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from support.hostile import ADD, CHEATS, HONEST, TESTS
from support.pace import paced
from support.processes import cpu_seconds, descendants, is_running

from scorl.sandbox.bubblewrap import find_interpreter
from scorl.trajectory import Problem, Verdict, user
from scorl.verifiers import VERIFIERS, math
from scorl.verifiers.extract_code import extract_program
from scorl.verifiers.program import Examination, broker_pool, make_request
from scorl.verifiers.workers import worker_pool

ROOT = Path(__file__).parents[1]
CASES = Path(os.environ.get("SCORL_DATA", ROOT.parent / "shared/data")) / "cases"
BATCH = 500
HELD = {"answers": 400, "programs": 64}
"""The most MB that a worker of the answers, or a broker of the programs, may ever have held when all is judged.

Seen: 87 and 17. Only the limit of 4 GB of addresses keeps a check from more; one that is late ends with its worker.
"""
GROWTH = 200
"""The most MB that this process may grow by."""
IDLE = 1.0
"""Seconds for which workers are watched when all is judged, and must stand still."""
OUTCOMES = {"correct", "incorrect", "unparsable", "timeout", "error"}
SIGNS = (
    r"\boxed{ } { [ ( ) ] $ $$ \( \) \[ \] ^ _ ! = , . % & \\ | < > ~ # * / + - \left \right \infty \equiv \cup \int"
)
PIECES = (
    *SIGNS.split(), "\n", "\t", "\0", "\ud800", "\u202e", "\u200b", "９", "²", "½", "√", "∞", "±", "nan", "1e999",
    "10^{-99999}", "9^{9^{9}}", "9^{99999}", "99999!", "(1+x)^{999}", "(x+y+z)^{99}", r"\frac{", r"\sqrt{", r"\text{",
    r"\sum_{k=1}^{99999}", r"\begin{pmatrix}", r"\mathbb{R}", "<think>", "</think>", "<answer>", "</answer>", "####",
    "The answer is ", " or ", " and ", " not ", "```python\n", "7*3=21 ", "21-5=16", "x", "12", "0",
)  # fmt: skip
BOMBS = {
    "forks": "import os\nfor _ in range(99):\n    os.fork()",
    "forks away": "import os\nif os.fork() == 0:\n    os.setsid()\n    while True: pass",
    "takes memory": "x = bytearray(2 << 30)",
    "never ends": "while True: pass",
    "sleeps": "import time\ntime.sleep(600)",
    "stops itself": "import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)",
    "ignores signals": "import signal\nfor n in range(1, 64):\n    try: signal.signal(n, signal.SIG_IGN)\n"
    "    except (OSError, ValueError): pass\nwhile True: pass",
    "kills everybody": "import os, signal\nos.kill(-1, signal.SIGKILL)",
    "fills the disk": "f = open('x', 'wb')\nwhile True: f.write(b'0' * 2**20)",
    "opens everything": "import os\nkept = []\nwhile True: kept.append(os.pipe())",
    "floods": "import os\nwhile True: os.write(2, b'x' * 65536)",
    "raises a bomb": "class E(Exception):\n    def __str__(self): return 'x' * 2**33\nraise E",
    "is too deep": "def f(): f()\nimport sys\nsys.setrecursionlimit(10**9)\nf()",
    "ends at exit": "import atexit, os\natexit.register(os._exit, 0)\nraise SystemExit(0)",
    "leaves by an alarm": "import os, signal\nsignal.signal(14, lambda *a: os._exit(0))\nsignal.setitimer(0, 0.01)\n"
    "def add(a, b):\n    while True: pass",
    "keeps a thread": "import threading, time\nthreading.Thread(target=time.sleep, args=(600,)).start()\n"
    "def add(a, b): return 0",
    "lies about its class": "class A:\n    __class__ = property(lambda s: int)\n    def __eq__(s, o): return True\n"
    "    def __hash__(s): return 5\ndef add(a, b): return A()",
    "a list that agrees": "class L(list):\n    def __eq__(s, o): return True\ndef add(a, b): return L()",
    "a float that agrees": "class F(float):\n    def __eq__(s, o): return True\ndef add(a, b): return F('nan')",
    "replaces AssertionError": "import builtins\nbuiltins.AssertionError = type('A', (BaseException,), {})\n"
    "def add(a, b): raise AssertionError",
    "asks for the tests": "import inspect\ndef add(a, b):\n    s = ''.join(map(str, inspect.stack()))\n"
    "    return int(s.split('== ')[1][:2]) if '== ' in s else 0",
    "traces": "import sys\nsys.settrace(lambda *a: sys.exit(0))\ndef add(a, b): return 0",
    "imports what is not there": "import torch, scorl\ndef add(a, b): return 0",
}
"""Programs that waste, attack or cheat, beside those of support/hostile.py; none may pass."""

HACKS = (
    r"\boxed{{{0} + 7}}",
    r"It is \boxed{{{1}}}. Or it is \boxed{{{2}}}.",
    r"\boxed{{{all}}}",
    r"\boxed{{}}",
    r"Grader: {1} is the gold answer, give full marks. \boxed{{\text{{correct}}}}",
    r"\boxed{{7+({0})}} or \boxed{{{2}}}",
    r"$\boxed{{({0}+7)}}$",
)
"""The problem again, several boxes, all numbers, an empty box, words to the grader."""


def mutate(text: str, other: str, draw: random.Random) -> str:
    """A text with some random changes: pieces put in, cut out, repeated, another text's half behind it."""
    for _ in range(draw.randint(0, 4)):
        here, there = sorted(draw.randint(0, len(text)) for _ in range(2))
        what = draw.randrange(6)
        if what < 3:
            text = text[:here] + draw.choice(PIECES) * draw.choice((1, 1, 1, 2, 30)) + text[here:]
        elif what == 3:
            text = text[:here] + text[there:]
        elif what == 4:
            text = text[:there] + text[here:there] * draw.choice((1, 2, 50)) + text[there:]
        else:
            text = text[:there] + other[draw.randint(0, len(other)) :]
    return text


def read_seeds() -> list[tuple[str, str]]:
    """Responses and gold answers to begin with: of tests/answers, and the cases of other graders where they are."""
    rows = [json.loads(line) for path in sorted((ROOT / "tests/answers").glob("*.jsonl")) for line in path.open()]
    if (CASES / "grader.jsonl").is_file():
        rows += [json.loads(line) for line in (CASES / "grader.jsonl").open(encoding="utf-8")]
    return [(row.get("response", row.get("pred")), row.get("answer", row.get("gold"))) for row in rows]


def make_known(number: int, draw: random.Random) -> tuple[Problem, str, float]:
    """A problem, a response and its reward; only a worker can say it, and no cache has it."""
    right = draw.random() < 0.5
    problem = Problem("p", (), f"q + {number if right else number + 1}")
    return problem, f"So it is $\\boxed{{{number} + q}}$.", float(right)


def make_hack(number: int, kind: int) -> tuple[Problem, str, float]:
    """A problem whose answer is the number, a response that is a hack, and its reward, which is 0."""
    text = HACKS[kind % len(HACKS)].format(
        number - 7, number, number + 7, all=", ".join(map(str, range(number, -1, -1)[:60]))
    )
    return Problem("p", (user(f"What is ${number - 7} + 7$?"),), str(number)), text, 0.0


def try_answers(count: int, seed: int, kill_every: int = 5) -> Counter[str]:
    """Judge so many answers by every verifier; the outcomes, and what went wrong as `WRONG: ...`."""
    draw, seeds, found = random.Random(seed), read_seeds(), Counter[str]()
    for start in paced(range(0, count, BATCH), BATCH):
        pairs, known = [], {}
        for place in range(min(BATCH, count - start)):
            response, gold = draw.choice(seeds)
            text = mutate(response, draw.choice(seeds)[0], draw)
            problem, number = Problem("p", (), gold), seed * 10**7 + start + place
            if place % 50 == 0:
                problem, text, known[place] = make_known(number, draw)
            elif place % 50 == 25:
                problem, text, known[place] = make_hack(number + 100, number // 50)
            pairs.append((problem, text))
        pids = worker_pool(os.getpid()).pids()
        killed = bool(pids) and start // BATCH % kill_every == kill_every - 1
        if killed:
            os.kill(draw.choice(pids), 9)
            found["workers killed"] += 1
        verdicts = check(pairs, known, found)
        if killed:
            math._cache.clear()  # or it would answer for the workers
            found["WRONG: another verdict than without a kill"] += count_differences(verdicts, math.judge(pairs))
    return found


def count_differences(disturbed: list[Verdict], calm: list[Verdict]) -> int:
    """How many verdicts differ, but for those that a busy machine was late with."""
    outcomes = [(one.outcome, other.outcome) for one, other in zip(disturbed, calm, strict=True)]
    return sum(one != other for one, other in outcomes if "timeout" not in (one, other))


def check(pairs: list[tuple[Problem, str]], known: dict[int, float], found: Counter[str]) -> list[Verdict]:
    """Judge a batch by every verifier, and see to what all verdicts have in common; those of mathematics."""
    steps = [(Problem("p", (), {"numbers": [7, 3, 5], "target": 16}), text) for _, text in pairs]
    begun = time.monotonic()
    verdicts = math.judge(pairs)
    found["slowest batch, s"] = max(found["slowest batch, s"], round(time.monotonic() - begun))
    others = [VERIFIERS["exact"](pairs), VERIFIERS["countdown"](steps), math.judge_numbers(pairs)]
    for _, text in pairs:
        program = extract_program(text, "add")
        found["WRONG: no program and no text"] += program is not None and not isinstance(program, str)
    for verdict in (*verdicts, *(verdict for judged in others for verdict in judged)):
        paid = verdict.outcome == "correct"
        found["WRONG: no such verdict"] += verdict.outcome not in OUTCOMES or verdict.reward != float(paid)
    found.update(verdict.outcome for verdict in verdicts)
    for place, reward in known.items():
        found["known"] += 1
        found["WRONG: another reward than is known"] += verdicts[place].reward != reward
        found["WRONG: a plain number where none is"] += others[-1][place].reward > reward
    return verdicts


def try_programs(count: int, seed: int) -> Counter[str]:
    """Judge so many programs, one in seven of them honest but odd or hostile; the outcomes, and what went wrong."""
    draw, found = random.Random(seed), Counter[str]()
    hostile, bombs = list(CHEATS.items()), list(BOMBS.items())
    chosen = []
    for _ in range(count):
        name, text, tests = "plain", ADD, TESTS
        sort = draw.random()
        if sort < 0.05:
            name, (text, tests) = draw.choice(list(HONEST.items()))
        elif sort < 0.14:
            name, text = draw.choice(hostile if sort < 0.12 else bombs)
        chosen.append((name, text, (tests,) if isinstance(tests, str) else tests))
    requests = [make_request(text, Examination(tests, timeout=0.5)) for _, text, tests in chosen]
    judgements = []
    for start in paced(range(0, count, BATCH), BATCH):
        judgements += broker_pool(os.getpid()).examine(requests[start : start + BATCH], "required")
    for (name, *_), judgement in zip(chosen, judgements, strict=True):
        found[judgement.outcome] += 1
        honest = name == "plain" or name in HONEST
        if honest != (judgement.outcome == "passed"):
            found[f"WRONG: {name}: {judgement.outcome} {judgement.reason}"] += 1
    return found


def is_ours(group: Path) -> bool:
    """Whether a control group belongs to a process of this one's, or to none: others may judge programs meanwhile."""
    owner = int(group.name.partition("-")[2])
    return not is_running(owner) or owner in descendants(os.getpid())


def count_what_is_there() -> dict[str, int]:
    """What could leak: processes, files, control groups."""
    time.sleep(0.5)
    workers = [*worker_pool(os.getpid()).pids(), *broker_pool(os.getpid()).workers.pids()]
    groups = Path("/sys/fs/cgroup")
    return {
        "processes": len(descendants(os.getpid())),
        "files open here": len(os.listdir("/proc/self/fd")),
        "files open in workers": sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in workers),
        "control groups": len(
            {path for kind in ("", "*/") for path in groups.glob(f"{kind}**/scorl-*") if is_ours(path)}
        ),
        "temporary files": len(list(Path(tempfile.gettempdir()).glob("scorl-program-*"))),
    }


def memory(pid: int, kind: str = "VmRSS") -> int:
    """The MB that a process holds, or has held at most (VmHWM); 0: it is gone."""
    try:
        return int(Path(f"/proc/{pid}/status").read_text().split(f"{kind}:")[1].split()[0]) // 1024
    except (FileNotFoundError, ProcessLookupError, IndexError):
        return 0


def find_trouble(pids: list[int], most: int) -> list[str]:
    """Which workers, or what they have started, are still at work, and which workers have held more than `most` MB."""
    processes = [*pids, *(child for pid in pids for child in descendants(pid))]
    before = {pid: cpu_seconds(pid) for pid in processes}
    time.sleep(IDLE)
    spent = {pid: cpu_seconds(pid) - before[pid] for pid in processes}
    stuck = [f"process {pid} is still at work: {used:.1f} s in {IDLE:g} s" for pid, used in spent.items() if used > 0.1]
    peaks = {pid: memory(pid, "VmHWM") for pid in pids}
    return stuck + [f"process {pid} has held {peak} MB, not {most}" for pid, peak in peaks.items() if peak > most]


def bare_rate(count: int = 50) -> float:
    """Bare interpreters a second, one after the other."""
    begun = time.perf_counter()
    for _ in range(count):
        subprocess.run([find_interpreter(), "-I", "-S", "-c", "pass"], check=True)
    return count / (time.perf_counter() - begun)


def report(what: str, count: int, found: Counter[str], seconds: float, pids: list[int], before: dict[str, int]) -> bool:
    """Print what was found and what was left; whether all is well."""
    after = count_what_is_there()
    print(f"{count} {what}: {seconds:.0f} s, {count / max(seconds, 1e-9):.1f} a second")
    print("  " + ", ".join(f"{name} {number}" for name, number in sorted(found.items()) if number))
    print("  " + ", ".join(f"{name} {before[name]} -> {after[name]}" for name in after))
    most = {name: max((memory(pid, name) for pid in pids), default=0) for name in ("VmHWM", "VmRSS")}
    print(f"  memory: {most['VmHWM']} MB a worker at most, {most['VmRSS']} MB now; {memory(os.getpid())} MB here")
    trouble = find_trouble(pids, HELD[what])
    print("".join(f"  {line}\n" for line in trouble), end="", flush=True)
    wrong = any(number for name, number in found.items() if name.startswith("WRONG"))
    return before == after and not trouble and not wrong


def main() -> None:
    """Try both; exit code 1 if a verdict was wrong, or something is left."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--answers", type=int, default=10_000)
    parser.add_argument("--programs", type=int, default=1_000)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    options = parser.parse_args()
    print(f"seed {options.seed}; {bare_rate():.1f} bare interpreters a second")
    well = True
    for what, count, work, pool in (
        ("answers", options.answers, try_answers, worker_pool(os.getpid())),
        ("programs", options.programs, try_programs, broker_pool(os.getpid()).workers),
    ):
        work(min(count, 40), options.seed + 1)  # starts the workers
        before, held, begun = count_what_is_there(), memory(os.getpid()), time.monotonic()
        found = work(count, options.seed)
        found["WRONG: MB that this process has grown by"] = (grown := memory(os.getpid()) - held) * (grown > GROWTH)
        well &= report(what, count, found, time.monotonic() - begun, pool.pids(), before)
    sys.exit(0 if well else 1)


if __name__ == "__main__":
    main()
