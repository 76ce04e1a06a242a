"""`scorl watch` reads the files of a run, whole or growing, and touches nothing."""

import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from rich.console import Console

from scorl.cli import main
from scorl.cli.watch import _follow_live
from scorl.report.live import draw
from scorl.report.watch import Tail, WatchedRun, sparkline
from scorl.run.directory import RunDirectory

STAGES = "stages: [{objective: reinforce, steps: 2}, {objective: star, steps: 2}]"
RECIPE = f"model: {{path: x}}\ntask: {{name: countdown}}\n{STAGES}\n"


def step(number: int, **figures) -> dict:
    seconds = {"sample": 1.0, "judge": 0.5, "learn": 0.5}
    rates = {"accuracy_t1": 0.25, "accuracy_t2": 0.5, "delta": 0.25, "incorrect_to_correct": 0.3, "loss": 0.125}
    rates |= {"answer_changed": 0.5}
    return {
        "step": number,
        "stage": "one",
        **rates,
        "tokens": 1200 + number,
        "seconds": seconds,
        "alarms": [],
        **figures,
    }


def evaluation(updates: int, value: float) -> dict:
    return {"step": updates, "metrics": {"accuracy_t1": {"value": value, "low": value - 0.1, "high": value + 0.1}}}


def write_evaluations(folder: Path, *entries: dict) -> None:
    (folder / "evaluation.json").write_text(json.dumps({"test": {**entries[-1], "history": list(entries)}}))


def write_attempts(folder: Path, number: int, *trajectories: tuple[float, float]) -> None:
    lines = [
        {
            "step": number,
            "problem": f"p{k}",
            "sample": 0,
            "turn": turn,
            "text": f"\x1b[2Jtext {turn} [red]",
            "reward": reward,
        }
        | {"verdict": "correct" if reward else "incorrect", "question": "What?", "gold": "4", "finish": "stop"}
        for k, pair in enumerate(trajectories)
        for turn, reward in enumerate(pair)
    ]
    (folder / "attempts").mkdir(exist_ok=True)
    (folder / "attempts" / f"step-{number:06d}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def add_steps(folder: Path, *records: dict) -> None:
    with (folder / "steps.jsonl").open("a") as file:
        file.writelines(json.dumps(record) + "\n" for record in records)


@pytest.fixture
def recorded(tmp_path):
    """A run after three of four steps."""
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "recipe.yaml").write_text(RECIPE)
    add_steps(folder, step(0), step(1, loss=None), step(2, alarms=[{"kind": "no_reward", "statistic": "all are 0"}]))
    write_evaluations(folder, evaluation(0, 0.2), evaluation(2, 0.4))
    write_attempts(folder, 2, (1.0, 0.0), (0.0, 1.0))
    return folder


def scorl(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    return ended.value.code


def drawn(folder: Path) -> str:
    console = Console(file=io.StringIO(), width=100, force_terminal=True, color_system=None)
    run = WatchedRun(RunDirectory(folder))
    run.refresh()
    console.print(draw(run))
    return console.file.getvalue()


def test_a_recorded_run_as_a_terminal_shows_it(recorded):
    page = drawn(recorded)
    assert re.search(r"one 3/4  2\.00 s/step  0:02 left", page)
    assert re.search(r"training +now +last 10", page)
    assert re.search(r"Delta +\+25\.0 +\+25\.0 +▁▁▁", page)
    assert re.search(r"tokens +1,202 +1,201 +▁[▄▅]█", page)
    assert re.search(r"@t1 +20\.0 +40\.0 \[30\.0, 50\.0\] +▁█", page)
    assert "problem p1, sample 0: wrong, then right" in page
    assert "attempt 2: correct" in page
    assert "[red]" in page
    assert "\x1b[2J" not in page
    assert "ALARM" in page


def test_once_in_a_pipe_is_plain_lines(recorded, capsys):
    before = {path: path.stat().st_mtime_ns for path in recorded.rglob("*")}
    assert scorl("watch", recorded, "--once") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("one 3/4  2.00 s/step  0:02 left")
    assert "ALARM no reward" in lines[2] + lines[1]
    assert any(line.startswith("held-out after 2 updates:  @t1 40.0 [30.0, 50.0]") for line in lines)
    assert {path: path.stat().st_mtime_ns for path in recorded.rglob("*")} == before


def test_a_run_that_has_not_begun_and_one_that_has_ended(recorded, tmp_path, capsys):
    assert scorl("watch", tmp_path / "nothing", "--once") == 0
    assert "waiting: nothing of a run is in" in capsys.readouterr().out
    assert not (tmp_path / "nothing").exists()
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "recipe.yaml").write_text(RECIPE)
    assert "0/4  the first evaluation is under way" in drawn(bare)
    add_steps(recorded, step(3))
    write_evaluations(recorded, evaluation(0, 0.2), evaluation(4, 0.4))
    assert scorl("watch", recorded) == 0  # by itself
    out = capsys.readouterr().out
    assert out.count(" s/step") == 4
    assert out.index("held-out after 0") < out.index("one 1/4") < out.index("held-out after 4")
    assert "one 4/4  2.00 s/step  done" in drawn(recorded)


@pytest.mark.parametrize(
    "stages", ["", "stages: 3", "stages: [1]", "stages: [{steps: x}]", "stages: [{steps: .inf}]", "evaluation: 3"]
)
def test_a_recipe_that_does_not_say_how_many_steps_there_are(recorded, capsys, stages):
    (recorded / "recipe.yaml").write_text(RECIPE.replace(STAGES, stages))
    assert scorl("watch", recorded, "--once") == 0
    assert capsys.readouterr().out.startswith("one 3/?  2.00 s/step")
    assert "one 3/?" in drawn(recorded)


def test_silence_is_said(recorded):
    run = WatchedRun(RunDirectory(recorded), clock=lambda: time.time() + 600)
    run.refresh()
    console = Console(file=io.StringIO(), width=150)
    console.print(draw(run))
    assert re.search(r"nothing was written for 10:0\d: an evaluation, or it has stopped", console.file.getvalue())


def test_a_torn_line_waits_and_a_cut_file_is_read_anew(tmp_path):
    tail = Tail(tmp_path / "steps.jsonl")
    assert tail.refresh() == 0
    add_steps(tmp_path, step(0), step(1))
    text = json.dumps(step(2))
    with tail.path.open("a") as file:
        file.write(text[:20])
    assert tail.refresh() == 2
    assert tail.refresh() == 0
    with tail.path.open("a") as file:
        file.write(text[20:] + "\nno json\n[1]\n")
    assert tail.refresh() == 1
    assert [record["step"] for record in tail.records] == [0, 1, 2]
    (tmp_path / "new").write_text(json.dumps(step(0)) + "\n")
    os.replace(tmp_path / "new", tail.path)  # as a resumed run does
    assert tail.refresh() == 1
    assert [record["step"] for record in tail.records] == [0]


def test_half_an_evaluation_is_left_for_the_next_look(recorded):
    run = WatchedRun(RunDirectory(recorded))
    run.refresh()
    (recorded / "evaluation.json").write_text('{"test": {"hist')
    (recorded / "attempts" / "step-000003.jsonl").write_text("no json\n")
    add_steps(recorded, step(3))
    assert run.refresh() == 1
    assert [entry["step"] for entry in run.history] == [0, 2]
    assert run.attempt is not None


def grow(folder: Path) -> None:
    for number in range(4):
        time.sleep(0.1)
        write_attempts(folder, number, (0.0, 1.0))
        add_steps(folder, step(number))
    time.sleep(0.1)
    write_evaluations(folder, evaluation(0, 0.2), evaluation(4, 0.6))


@pytest.mark.parametrize("terminal", [True, False])
def test_a_growing_run_is_followed_to_its_end(tmp_path, terminal, capsys):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "recipe.yaml").write_text(RECIPE)
    writer = threading.Thread(target=grow, args=[folder])
    writer.start()
    if terminal:
        console = Console(file=io.StringIO(), width=100, height=80, force_terminal=True)
        _follow_live(console, [WatchedRun(RunDirectory(folder))], 0.05)
        out = console.file.getvalue()
        assert "one 4/4  2.00 s/step  done" in out
    else:
        assert scorl("watch", folder, "--interval", "0.05") == 0
        out = capsys.readouterr().out
        assert [int(n) for n in re.findall(r"^one (\d)/4", out, re.MULTILINE)] == [1, 2, 3, 4]
        assert out.splitlines()[-1].startswith("held-out after 4 updates:  @t1 60.0")
    writer.join()


def test_several_runs_say_whose_line_it_is(recorded, tmp_path, capsys):
    (tmp_path / "other").mkdir()
    assert scorl("watch", recorded, tmp_path / "other", "--once") == 0
    out = capsys.readouterr().out
    assert out.startswith("mine: one 3/4")
    assert "other: waiting" in out


def test_ctrl_c_ends_it(recorded):
    command = [sys.executable, "-m", "scorl", "watch", str(recorded)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in error


def test_a_sparkline_is_the_mean_of_its_parts():
    assert sparkline([0.0, 0.5, None, 1.0]) == "▁▅ █"
    assert sparkline([0, 0, 1, 1], width=2) == "▁█"
    assert sparkline([0.5, 0.5]) == "▁▁"
    assert sparkline([None]) == ""
