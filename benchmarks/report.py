"""How quick the report is with 50,000 attempts, in headless Chromium: PYTHONPATH=src python benchmarks/report.py.

25,000 trajectories of two attempts, 400 characters each on average (a solution of a word problem), 8 samples of each
problem. Times are medians of five, from the event to the second frame after it.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, sync_playwright

from scorl.report import write_report
from scorl.run.directory import RunDirectory

WORDS = "so the number of apples she has left is twice what each box holds then divide by total cost".split()  # noqa: SIM905
SAMPLES, PROBLEMS = 8, 16
REPEATS = 5
MEASURE = """async (act) => {
  const search = (typed) => {
    const field = document.querySelector('[type=search]');
    field.value = typed;
    field.dispatchEvent(new Event('input'));
  };
  const frame = () => new Promise((done) => requestAnimationFrame(done));
  await frame();
  const began = performance.now();
  eval(act);
  await frame(); await frame();
  return performance.now() - began;
}"""
ACTIONS = {
    "search for words": "search('twice WORD')",
    "search for a regular expression": "search('/total \\\\d+ WORD/')",
    "filter by flip class": "document.querySelector('.chip.FLIP').click()",
    "go to the last one": "document.dispatchEvent(new KeyboardEvent('keydown', {key: 'KEY', bubbles: true}))",
}
"""What is timed; capital words change from time to time, so that nothing is there already."""
CHANGES = {"WORD": WORDS, "FLIP": ["fixed", "broken", "right", "wrong", "fixed"], "KEY": ["G", "g", "G", "g", "G"]}


def write_run(folder: Path, trajectories: int) -> None:
    """A run directory with so many trajectories."""
    draw, run = random.Random(0), RunDirectory(folder)
    folder.mkdir(exist_ok=True)
    run.rewrite_recipe("seed: 0\n")
    for step in range(trajectories // (SAMPLES * PROBLEMS) + 1):
        count = min(SAMPLES * PROBLEMS, trajectories - step * SAMPLES * PROBLEMS)
        lines = [line for n in range(count) for line in write_trajectory(draw, step, n)]
        run.record_step({"step": step, "stage": "score", "accuracy_t1": draw.random(), "loss": draw.random()}, lines)


def write_trajectory(draw: random.Random, step: int, n: int) -> list[dict[str, Any]]:
    """The lines of one."""
    problem = step * PROBLEMS + n // SAMPLES
    question = " ".join(random.Random(problem).choices(WORDS, k=30))
    first = write_text(draw)
    texts = [first, " ".join([*first.split()[: draw.randint(5, 80)], write_text(draw)])[:800]]
    return [
        {
            "step": step, "problem": f"p{problem}", "sample": n % SAMPLES, "turn": turn, "place": turn, "text": text,
            "role": "attempt", "branch": 0, "reward": float(draw.random() < 0.5), "verdict": "correct", "reason": "",
            "tokens": len(text) // 4, "prompt_tokens": 60, "finish": "stop", "policy": step,
            "advantage": draw.gauss(0, 1), "beta": 0.01, "imitation": 0.0, "answer": str(draw.randint(0, 500)),
            "question": question, "gold": "17",
        }
        for turn, text in enumerate(texts)
    ]  # fmt: skip


def write_text(draw: random.Random) -> str:
    """Words and numbers, 400 characters on average."""
    return " ".join(str(draw.randint(1, 999)) if draw.random() < 0.2 else draw.choice(WORDS) for _ in range(90))


def time_page(page: Page, report: Path) -> dict[str, float]:
    """Milliseconds of what a reader waits for."""
    began = time.perf_counter()
    page.goto(report.as_uri())
    page.wait_for_selector("body[data-ready]")
    figures = {"open the page": 1000 * (time.perf_counter() - began)}
    began = time.perf_counter()
    page.click("#tabs a[href='#attempts']")
    page.wait_for_selector(".row")
    figures["open the attempts"] = 1000 * (time.perf_counter() - began)
    for name, action in ACTIONS.items():
        times = []
        for k in range(REPEATS):
            code = action
            for word, values in CHANGES.items():
                code = code.replace(word, values[k])
            times.append(page.evaluate(MEASURE, code))
        page.click(".clear")
        figures[name] = statistics.median(times)
    return figures


def main() -> None:
    """Writes the run and its report, and prints sizes and times as JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--trajectories", type=int, default=25_000)
    trajectories = parser.parse_args().trajectories
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as driver:
        write_run(Path(folder), trajectories)
        began = time.perf_counter()
        report = write_report(folder)
        figures = {"attempts": 2 * trajectories, "seconds to write": time.perf_counter() - began}
        figures["MB of attempts files"] = sum(f.stat().st_size for f in Path(folder, "attempts").iterdir()) / 1e6
        figures["MB of the report"] = report.stat().st_size / 1e6
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        # the page's own policy forbids `eval`, by which actions are timed here
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=arguments)
        context = browser.new_context(viewport={"width": 1280, "height": 860}, bypass_csp=True)
        page = context.new_page()
        milliseconds = {f"ms to {name}": value for name, value in time_page(page, report).items()}
        heap = page.evaluate("performance.memory.usedJSHeapSize") / 1e6
        figures |= milliseconds | {"MB of memory in the page": heap}
        print(json.dumps({name: float(f"{value:.3g}") for name, value in figures.items()}, indent=1))
        browser.close()


if __name__ == "__main__":
    main()
