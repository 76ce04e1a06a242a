"""The command line: what it prints, what it writes, and how it ends."""

import io
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console
from support.worlds import save_model

from scorl.cli import commands, main
from scorl.cli.output import open_output
from scorl.cli.train import default_folder
from scorl.errors import UserError
from scorl.model.loading import count_parameters
from scorl.model.rates import CpuRates
from scorl.recipe import differences, resolve
from scorl.run.progress import ProgressLine, describe_step
from scorl.version import __version__

LINE = {
    "step": 11,
    "stage": "score_stage_one",
    "objective": "score_stage_one",
    "accuracy_t1": 0.25,
    "accuracy_t2": 0.5,
    "delta": 0.25,
    "incorrect_to_correct": 0.375,
    "correct_to_incorrect": 0.125,
    "answer_changed": 0.75,
    "kl_t1": 0.01,
    "kl_t2": 0.2,
    "loss": -1.5,
    "grad_norm": 0.3,
    "truncated": 0.0,
    "tokens": 900,
    "seconds": {"sample": 1.0, "judge": 0.5, "learn": 0.5},
}


EVALUATE = ["evaluate", "scorl:countdown-base", "--task", "countdown"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def recipe(tmp_path, model):
    """Two supervised steps of a random model: nothing is learned, all of a run is there."""
    path = tmp_path / "tiny.yaml"
    path.write_text(
        f"model: {{path: {model}}}\n"
        "task: {name: countdown}\n"
        "engine: {max_tokens: 4}\n"
        "stages: [{objective: supervised, steps: 2, problems: 2}]\n"
        "evaluation: {problems: 3}\n"
        "checkpoint: {save_steps: 1}\n"
    )
    return path


def test_help_does_not_wait_for_torch():
    code = """
import sys
from scorl.cli import main
try:
    main(["--help"])
finally:
    print("torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "Usage: scorl" in done.stdout
    assert done.stdout.endswith("False\n")


def test_python_m_scorl_is_the_command():
    done = subprocess.run([sys.executable, "-m", "scorl", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"scorl, version {__version__}\n"


@pytest.mark.parametrize("name", commands.commands)
def test_every_command_explains_itself(scorl, name):
    code, out, _ = scorl(name, "--help")
    assert code == 0
    assert out.startswith(f"Usage: scorl {name}")
    assert commands.commands[name].help


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "countdow"], "did you mean 'countdown'?"),
        (["train", "countdown", "stages.1.alpah=5"], "stages.1.alpah"),
        (["train", "countdown", "--resume", "yess"], "--resume takes nothing or auto"),
        (["train", "countdown", "--out", "nowhere", "--resume"], "no run to resume"),
        (["evaluate", "scorl:countdown-base"], "--task is missing"),
        (["evaluate", "scorl:countdown-base", "--task", "countdwn"], "did you mean 'countdown'?"),
        (
            ["evaluate", "scorl:countdown-base", "--task", "countdown", "--split", "tset"],
            "did you mean 'test'?",
        ),
        (["evaluate", "scorl:countdwn-base", "--task", "countdown"], "did you mean 'countdown-base'?"),
        (
            ["evaluate", "x/y", "--task", "countdown", "--out", "no/folder/a.json"],
            "there is no folder no/folder",
        ),
        ([*EVALUATE, "--engine", "vllm", "engine.enable_sleep=true"], "did you mean 'enable_sleep_mode'?"),
        ([*EVALUATE, "--engine", "vllm", "engine.python=/bin/false"], "engine.python: /bin/false has no vllm"),
        ([*EVALUATE, "--engine", "scripted"], "engine.answers: is missing"),
        ([*EVALUATE, "engine.temperature=1"], "engine.temperature: there is no such key"),
        ([*EVALUATE, "--max-tokens", "64,x"], "'64,x' is no whole number from 1, and no list of them as in 64,256"),
        ([*EVALUATE, "--max-tokens", "64,"], "'64,' is no whole number"),
        ([*EVALUATE, "--max-tokens", "64,0"], "'64,0' is no whole number"),
        ([*EVALUATE, "--max-tokens", "0"], "'0' is no whole number"),
        ([*EVALUATE, "--max-tokens", "6,7,8"], "--max-tokens: 3 limits, and --attempts 2; 6,7 would be right"),
        (["collect-repairs", "x/y", "--max-tokens", "64,256", "--out", "a.jsonl"], "'64,256' is not a valid integer"),
        ([*EVALUATE, "model.dtype=float8"], "model.dtype: 'float8' is not among its values"),
        (["judge", "nowhere.jsonl", "--verifier", "math"], "nowhere.jsonl"),
        (["show", "nowhere"], "nowhere"),
        (["trian"], "trian"),
    ],
)
def test_a_users_mistake_ends_with_2_and_a_message(scorl, arguments, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = scorl(*arguments)
    assert code == 2
    assert words in err
    assert "Traceback" not in err
    assert out == ""
    assert list(tmp_path.iterdir()) == []


def test_our_own_mistake_keeps_its_traceback(monkeypatch):
    def broken():
        raise RuntimeError("ours")

    monkeypatch.setattr("scorl.cli.checks.check_installation", broken)
    with pytest.raises(RuntimeError, match="ours"):
        main(["doctor"])


def test_a_file_that_ends_too_soon_is_no_interruption(monkeypatch):
    def read():
        raise EOFError("Ran out of input")

    monkeypatch.setattr("scorl.cli.checks.check_installation", read)
    with pytest.raises(EOFError, match="Ran out of input"):
        main(["doctor"])


def test_ctrl_c_ends_with_130(scorl, monkeypatch):
    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr("scorl.cli.checks.check_installation", interrupted)
    code, _, err = scorl("doctor")
    assert code == 130
    assert "interrupted" in err


def test_train_then_resume_then_show_report_and_evaluate(scorl, recipe, tmp_path):
    run = tmp_path / "run"
    code, out, err = scorl("train", recipe, "--out", run)
    assert code == 0, err
    assert "| metric" in out
    assert "supervised 2/2" in err
    assert {"recipe.yaml", "steps.jsonl", "attempts", "checkpoints", "evaluation.json"} <= names(run)
    assert differences(resolve(run), resolve(recipe)) == []
    started = resolve(run)
    assert "auto" not in (started.model.dtype, started.engine.name)
    assert started.model.onednn is not None
    assert "model.dtype" not in err  # nothing was measured for so small a model

    assert scorl("train", recipe, "--out", run)[0] == 2  # never over an existing run by accident
    assert scorl("train", run)[0] == 2
    code, _, err = scorl("train", recipe, "seed=1", "--out", run, "--resume", "auto")
    assert code == 2
    assert "seed: 0 against 1" in err
    assert scorl("train", recipe, "--out", run, "--resume", "auto")[0] == 0
    assert scorl("train", run, "--resume")[0] == 0
    assert len((run / "steps.jsonl").read_text().splitlines()) == 2

    code, out, _ = scorl("show", run, "--limit", 1)
    assert code == 0
    assert "step 1" in out  # the newest first
    assert "gold answer: {'numbers'" in out
    assert "step 2" in scorl("show", run, "--held-out", "--limit", 1)[1]
    code, _, err = scorl("show", run, "--step", 500)
    assert (code, "there is no step 500 with attempts; there are 0 to 1" in err) == (2, True)
    assert scorl("report", run)[1] == f"{run / 'report.html'}\n"

    code, out, err = scorl("evaluate", run, "--limit", 2, "--out", run / "e.json", "--attempts-out", run / "a.jsonl")
    assert code == 0
    assert "accuracy@t1" in out
    summary = json.loads((run / "e.json").read_text())
    assert (summary["model"], summary["task"], summary["problems"], summary["max_tokens"]) == (
        str(run),
        "countdown",
        2,
        4,
    )
    assert [json.loads(line)["turn"] for line in (run / "a.jsonl").read_text().splitlines()] == [0, 1, 0, 1]


def test_a_run_and_its_evaluations_limit_each_attempt(scorl, recipe, tmp_path):
    run, out = tmp_path / "run", tmp_path / "e.json"
    code, _, err = scorl("train", recipe, "engine.max_tokens=[2,4]", "--out", run)
    assert code == 0, err
    assert "max_tokens:\n  - 2\n  - 4\n" in (run / "recipe.yaml").read_text()
    assert json.loads((run / "evaluation.json").read_text())["test"]["max_tokens"] == [2, 4]
    assert scorl("train", recipe, "engine.max_tokens=[2,4]", "--out", run, "--resume", "auto")[0] == 0
    assert scorl("train", run, "--resume")[0] == 0
    code, _, err = scorl("train", recipe, "engine.max_tokens=4", "--out", run, "--resume", "auto")
    assert (code, "engine.max_tokens" in err) == (2, True)
    for asked, written in (((), [2, 4]), (("--max-tokens", "3,5"), [3, 5]), (("--max-tokens", 3), 3)):
        assert scorl("evaluate", run, "--limit", 9, *asked, "--out", out, "--attempts-out", run / "a.jsonl")[0] == 0
        assert json.loads(out.read_text())["max_tokens"] == written
        lines = [json.loads(line) for line in (run / "a.jsonl").read_text().splitlines()]
        longest = [max(line["tokens"] for line in lines if line["turn"] == turn) for turn in (0, 1)]
        assert longest == (written if isinstance(written, list) else [3, 3])
    assert scorl("evaluate", run, "--limit", 2, "--attempts", 1)[0] == 0  # the run's own list, of which one is read


def test_a_run_begins_with_the_type_that_was_measured_to_be_fast(scorl, recipe, tmp_path, monkeypatch):
    monkeypatch.setattr("scorl.model.dtype.LARGE", 1)
    monkeypatch.setattr("scorl.model.rates.cpu_rates", lambda: CpuRates(90e9, 99e9, 190e9))
    run = tmp_path / "run"
    said = "model.dtype: bfloat16, since this CPU reaches 90 GFLOP/s in float32, 99 by oneDNN, 190 in bfloat16\n"
    assert scorl("train", recipe, "--out", run)[2].count(said) == 1
    assert (resolve(run).model.dtype, resolve(run).model.onednn) == ("bfloat16", False)
    monkeypatch.setattr("scorl.model.rates.cpu_rates", lambda: CpuRates(90e9, 99e9, 99e9))
    code, _, err = scorl("train", recipe, "--out", run, "--resume")
    assert code == 0
    assert "model.dtype" not in err


def test_the_reason_for_a_type_counts_what_the_choice_counted(scorl, recipe, model, tmp_path, monkeypatch):
    """A model that adapters alone make large was not measured."""
    monkeypatch.setattr("scorl.model.dtype.LARGE", count_parameters(model) + 1)
    code, _, err = scorl("train", recipe, "model.lora.r=4", "evaluation.problems=1", "--out", tmp_path / "run")
    assert code == 0
    assert "model.dtype" not in err


def test_any_engine_is_evaluated_with_settings_of_its_own(scorl, tmp_path, monkeypatch):
    """Without weights where the engine needs none; the task's settings stand among the others."""
    monkeypatch.setattr("scorl.model.policy.Policy.__init__", None)
    (tmp_path / "answers.jsonl").write_text('{"prompt_contains": "", "response": "1 + 1"}\n')
    settings = [f"engine.answers={tmp_path / 'answers.jsonl'}", "numbers=4"]
    code, out, err = scorl(
        *EVALUATE, *settings, "--engine", "scripted", "--limit", 2, "--attempts-out", tmp_path / "attempts.jsonl"
    )
    assert code == 0, err
    assert "scorl:countdown-base on countdown (test): 2 problems" in out
    lines = [json.loads(line) for line in (tmp_path / "attempts.jsonl").read_text().splitlines()]
    assert {line["text"] for line in lines} == {"1 + 1"}
    assert all(re.match(r"Reach \d+ with the numbers( \d+){4}\.", line["question"]) for line in lines)


def test_an_interrupted_run_is_saved_and_goes_on(recipe, tmp_path):
    run = tmp_path / "run"
    arguments = [sys.executable, "-m", "scorl", "train", recipe, "stages.0.steps=2000", "--out", run]
    process = subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True)
    assert process.stderr
    for line in process.stderr:
        if line.startswith("supervised"):
            process.send_signal(2)
            break
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert f"resume with: scorl train {run} --resume" in err
    assert names(run / "checkpoints")


def test_train_does_not_start_in_a_folder_with_other_things(scorl, recipe, tmp_path):
    code, _, err = scorl("train", recipe, "--out", tmp_path)
    assert code == 2
    assert "not empty" in err


def test_a_run_is_called_after_its_recipe():
    assert default_folder("math-qwen2.5-1.5b") == Path("runs/math-qwen2.5-1.5b")
    assert default_folder("my/own.yaml") == Path("runs/own")


def test_judge_writes_what_it_would_print(scorl, tmp_path):
    answers = tmp_path / "answers.jsonl"
    rows = [
        {"id": "a", "response": "7*3=21 21-5=16", "numbers": [7, 3, 5], "target": 16},
        {"id": "b", "response": "7*3=22", "numbers": [7, 3, 5], "target": 16},
        {"id": "c", "response": None, "numbers": [7, 3, 5], "target": 16},
    ]
    answers.write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, printed, err = scorl("judge", answers, "--verifier", "countdown")
    assert code == 0
    judged = [json.loads(line) for line in printed.splitlines()]
    assert [(line["id"], line["reward"]) for line in judged] == [("a", 1.0), ("b", 0.0), ("c", 0.0)]
    assert set(judged[0]) == {"id", "reward", "verdict", "reason"}
    assert "3 judged, 1 right" in err
    assert scorl("judge", answers, "--verifier", "countdown", "--out", tmp_path / "out")[1] == ""
    assert (tmp_path / "out").read_text() == printed


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "out.json"
    path.write_text("old")

    def fail():
        with open_output(path) as handle:
            handle.write("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert path.read_text() == "old"
    assert names(tmp_path) == {"out.json"}
    with open_output(path) as handle:
        handle.write("new")
    assert path.read_text() == "new"
    with pytest.raises(UserError, match="it is a folder"), open_output(tmp_path):
        pass


def test_what_a_link_points_at_is_replaced_and_the_link_stays(tmp_path):
    (tmp_path / "there").mkdir()
    target, link = tmp_path / "there" / "out.json", tmp_path / "link.json"
    link.symlink_to("there/out.json")
    for text in ("first", "second"):  # the target is not there yet, and is
        with open_output(link) as handle:
            handle.write(text)
        assert (link.is_symlink(), target.read_text()) == (True, text)
    assert (names(tmp_path), names(tmp_path / "there")) == ({"there", "link.json"}, {"out.json"})


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_a_link_to_an_open_file_is_written_into(tmp_path):
    link, out = tmp_path / "stdout", tmp_path / "out.txt"
    link.symlink_to("/proc/self/fd/1")
    code = (
        "import sys; from pathlib import Path; from scorl.cli.output import open_output; print('before')\n"
        "with open_output(Path(sys.argv[1])) as handle: handle.write('within\\n')\n"
        "print('after')"
    )
    with out.open("w") as stdout:
        subprocess.run([sys.executable, "-c", code, str(link)], stdout=stdout, check=True)
    assert out.read_text() == "before\nwithin\nafter\n"
    assert link.is_symlink()
    other = tmp_path / "other.txt"
    with other.open("w") as handle, open_output(Path(f"/proc/self/fd/{handle.fileno()}")) as into:
        into.write("into")
    assert other.read_text() == "into"
    assert names(tmp_path) == {"stdout", "out.txt", "other.txt"}


def test_doctor_says_what_is_there_and_what_a_model_does(scorl, model):
    code, out, _ = scorl("doctor", model)
    assert code == 0
    found = {line.split()[0] for line in out.splitlines()}
    assert {
        "python",
        "torch",
        "device",
        "threads",
        "matrices",
        "matmuls",
        "large",
        "smaller",
        "bandwidth",
        "extra",
        "model",
        "end",
        "template",
        "generation",
    } <= found


def test_recipes_lists_what_ships_and_schema_is_json(scorl):
    assert "countdown\n  SCoRe on countdown" in scorl("recipes")[1]
    assert json.loads(scorl("schema")[1])["properties"]["stages"]


def test_progress_says_the_rates_of_both_turns():
    assert describe_step(LINE, 240, 2.0) == (
        "score_stage_one 12/240  2.00 s/step  7:36 left  @t1 25.0  @t2 50.0  Delta +25.0"
        "  i->c 37.5  c->i 12.5  changed 75.0  KL 0.010 0.200  loss -1.500"
    )


def test_progress_says_what_a_verification_is_worth():
    verified = LINE | {"accuracy_selective": 0.6, "accuracy_v1": 0.9}
    assert "changed 75.0  selective 60.0  verifier 90.0  KL" in describe_step(verified, 240, 2.0)


def test_progress_leaves_out_what_is_undefined():
    blank = {key: None for key in LINE if key.startswith(("acc", "delta", "inc", "cor", "ans", "kl"))}
    assert describe_step(LINE | blank | {"stage": "supervised", "step": 0}, 3601, 1.0) == (
        "supervised 1/3601  1.00 s/step  1:00:00 left  loss -1.500"
    )


def test_plain_progress_is_sparing_but_shows_the_end_of_each_stage(capsys):
    with ProgressLine(6, pause=1000) as progress:
        for step, stage in enumerate(["one", "one", "one", "two", "two", "two"]):
            progress(LINE | {"step": step, "stage": stage})
    shown = [" ".join(line.split()[:2]) for line in capsys.readouterr().err.splitlines()]
    assert shown == ["one 1/6", "one 3/6", "two 6/6"]


def test_progress_in_a_terminal_is_one_line_that_renews_itself():
    console = Console(file=io.StringIO(), force_terminal=True, width=60)
    with ProgressLine(20, console) as progress:
        for step in range(12):
            progress(LINE | {"step": step})
    shown = console.file.getvalue()
    assert "score_stage_one 12/20  2.00 s/step" in shown
    assert shown.count("12/20") == 1
    assert shown.rstrip().endswith("…") or "…" in shown


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_the_home_folder_is_meant_where_no_shell_has_said_so(scorl, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    run = tmp_path / "home" / "run"
    run.mkdir(parents=True)
    (run / "recipe.yaml").write_text("extends: countdown\n")
    code, _, err = scorl("train", "~/run", "--dry-run")
    assert (code, "resume it with --resume" in err) == (2, True)
    code, _, err = scorl("train", "~/run", "--resume", "auto", "--dry-run")
    assert (code, f"would go to {run}\n" in err) == (0, True), err
    (run / "answers.jsonl").write_text("no answers\n")
    code, _, err = scorl("evaluate", "~/run/answers.jsonl", "--task", "countdown")
    assert (code, f"{run}/answers.jsonl" in err) == (2, True), err
    code, _, err = scorl("evaluate", "scorl:countdown-base", "--task", "countdown", "--wordings=~/w.yaml")
    assert (code, f"{tmp_path}/home/w.yaml: there is no such file" in err) == (2, True), err
    code, _, err = scorl("train", "countdown", "--out=~/new", "--dry-run")
    assert (code, f"would go to {tmp_path}/home/new\n" in err) == (0, True), err
    (run / "answers.jsonl").write_text('{"id": 1, "response": "7", "answer": "7"}\n')
    judge = ("judge", "~/run/answers.jsonl", "--verifier", "exact")
    assert scorl(*judge, "--out=~/judged.jsonl")[0] == 0
    assert (tmp_path / "home" / "judged.jsonl").is_file()
    assert not list((tmp_path / "here").iterdir())
    code, _, err = scorl(*judge, "--out=~no-such-user/judged.jsonl")
    assert (code, "cannot be a path" in err) == (2, True), err


def test_prompts_are_shown_whole(scorl):
    words = "10 " * 500
    code, out, _ = scorl("train", "countdown", "--show-prompts", f"task.prompt={words}{{numbers}} {{target}}")
    assert code == 0
    assert words in out


def test_a_dry_run_shows_the_prompts_as_the_rollout_makes_them(scorl, tmp_path, monkeypatch):
    from scorl.engines.scripted import ScriptedEngine
    from scorl.model.chat import Chat
    from scorl.rollout import Draws, converse

    monkeypatch.chdir(tmp_path)
    code, out, _ = scorl("train", "countdown", "--show-prompts")
    assert (code, list(tmp_path.iterdir())) == (0, [])
    shown = [
        tuple(int(number) for number in re.findall(r"(?:^| )(\d+):['\"]", line))
        for line in out.splitlines()
        if re.match(r"  \d+:", line)
    ]
    task, chat = resolve("countdown").build_task(), Chat.load("scorl:countdown-base")
    problems = task.split("train").draw(2, 0, 0)
    groups = converse(ScriptedEngine(chat, ["..."]), problems, task.turns(2), Draws(lambda *of: 0))
    assert shown == [response.prompt_ids for (t,) in groups for response in t.responses]
    assert all(f"problem {problem.id}, gold answer {problem.answer!r}" in out for problem in problems)
