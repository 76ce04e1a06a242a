"""What commands say about what they are given: checks without a run, runs without steps, warnings in one line."""

import io
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from rich.console import Console
from support.worlds import save_model
from test_metrics import groups

from scorl.cli.checks import EXTRAS, check_installation
from scorl.errors import MANY, nearest
from scorl.evaluation import Evaluation
from scorl.recipe import resolve
from scorl.recipe.source import shipped_recipes
from scorl.run.progress import ProgressLine
from scorl.settings import EvaluationSettings


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def recipe(tmp_path, model):
    path = tmp_path / "tiny.yaml"
    path.write_text(
        f"model: {{path: {model}}}\ntask: {{name: countdown}}\nengine: {{max_tokens: 2}}\n"
        "stages: [{objective: supervised, steps: 1, problems: 2}]\nevaluation: {problems: 2}\n"
    )
    return path


def test_a_dry_run_prints_the_recipe_as_it_would_run_and_leaves_nothing(scorl, recipe, tmp_path, monkeypatch):
    monkeypatch.setattr("scorl.model.policy.Policy.__init__", None)  # no weights
    code, out, err = scorl("train", recipe, "--dry-run", "--out", tmp_path / "run")
    assert code == 0
    assert f"nothing trained: 1 steps would go to {tmp_path / 'run'}" in err
    assert not (tmp_path / "run").exists()
    printed = tmp_path / "printed.yaml"
    printed.write_text(out)
    assert resolve(printed).model.dtype == "float32"  # auto is decided


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("task.numbers=99", "task"),
        ("model.path=nowhere", "no such model folder"),
        ("model.chat_template=nowhere.jinja", "nowhere.jinja"),
        ("loggers=[mlflow]", "mlflow"),
        ("stages.0.problems=0", "stages.0.problems"),
    ],
)
def test_a_dry_run_finds_what_would_stop_a_run(scorl, recipe, tmp_path, monkeypatch, fault, said):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    code, _, err = scorl("train", recipe, "--dry-run", fault, "--out", tmp_path / "run")
    assert code == 2
    assert said in err


def test_a_shipped_recipe_is_printed_as_it_is(scorl):
    assert scorl("recipes", "countdown")[:2] == (0, shipped_recipes()["countdown"].read_text())
    code, _, err = scorl("recipes", "countdwn")
    assert code == 2
    assert "did you mean 'countdown'?" in err


def test_the_nearest_of_many_words_stands_alone():
    names = [f"name{n}" for n in range(MANY)]
    assert nearest("name3x", [*names, "other"]) == "did you mean 'name3'?"
    assert nearest("name3x", names).startswith("did you mean 'name3'? Allowed: name0, ")
    assert nearest("x", [*names, "other"]).startswith("Allowed: name0, ")


def test_two_things_to_do_in_place_of_training_are_one_too_many(scorl, recipe):
    code, out, error = scorl("train", recipe, "--dry-run", "--show-prompts")
    assert (code, out) == (2, "")
    assert "--dry-run and --show-prompts" in error


def test_a_context_that_is_too_long_is_said_once(recipe, tmp_path):
    folder = save_model(tmp_path / "long")
    config = Path(folder, "tokenizer_config.json")
    config.write_text(json.dumps({**json.loads(config.read_text()), "model_max_length": 128}))
    recipe.write_text(re.sub(r"model: .*", f"model: {{path: {folder}}}", recipe.read_text()))
    command = [sys.executable, "-m", "scorl", "train", str(recipe), "task.few_shot=8", "--dry-run"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "no problem fits into the model's context" in done.stderr
    assert "Token indices sequence length" not in done.stderr


def test_doctor_names_no_device_that_nothing_runs_on(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: True)
    assert dict(check_installation())["device"].startswith("cpu (")


def test_doctor_looks_for_every_extra():
    groups = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    assert set(EXTRAS) == set(groups["optional-dependencies"]) - {"dev", "docs", "bench"}


def test_a_run_without_stages_is_evaluated_as_the_model_that_it_starts_from(scorl, recipe, tmp_path):
    run = tmp_path / "run"
    assert scorl("train", recipe, "stages=[]", "--out", run)[0] == 0
    code, out, err = scorl("evaluate", run, "--limit", 2, "--max-tokens", 2)
    assert code == 0, err
    assert f"{run} on countdown (test): 2 problems" in out
    assert scorl("train", run, "stages=[{objective: supervised, steps: 1, problems: 2}]", "--resume")[0] == 0
    assert len((run / "steps.jsonl").read_text().splitlines()) == 1


@pytest.mark.parametrize("few_shot", [(), ("few_shot=0",)])
def test_the_measured_split_is_not_a_setting_of_the_task(scorl, recipe, model, few_shot):
    code, _, error = scorl("evaluate", model, "--task", "countdown", "split=train", *few_shot)
    assert (code, "the split that is measured is given as --split train" in error) == (2, True), error
    shown = ("task.split=train", "few_shot=1", "--limit", "1", "--max-tokens", "2", "--attempts", "1")
    code, _, error = scorl("evaluate", model, "--task", "word-problems", *shown)
    assert "--split" not in error


def test_a_run_that_has_saved_nothing_yet_says_so(scorl, recipe, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "recipe.yaml").write_text(recipe.read_text())
    code, _, err = scorl("evaluate", tmp_path / "run")
    assert code == 2
    assert f"has saved no checkpoint yet: scorl train {tmp_path / 'run'} --resume" in err


def test_a_run_that_is_not_there_is_not_looked_for_on_the_hub(scorl):
    code, _, err = scorl("evaluate", "runs/smollm2-svamp-warm-up", "--task", "countdown")
    assert code == 2
    assert "there is no such run; if a recipe makes it: scorl train smollm2-svamp-warm-up" in err


def test_doctor_names_what_is_installed_and_cannot_be_imported(scorl, model, monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", None)
    monkeypatch.setattr("scorl.cli.checks.check_rates", lambda: ())
    monkeypatch.setattr("scorl.cli.checks.check_sandbox", lambda: ())
    _, out, _ = scorl("doctor", model)
    (line,) = (line for line in out.splitlines() if line.startswith("extra 'gguf'"))
    assert "gguf CANNOT BE IMPORTED: ModuleNotFoundError" in line
    assert "pip install 'scorl[gguf]'" in line
    assert "learning          as prefix trees" in out


def test_warnings_are_one_line_each_once():
    code = (
        "import warnings\nfrom scorl.cli.output import speak_plainly\nspeak_plainly()\n"
        "for line in ('one\\n  line', 'one line', 'another'):\n"
        "    with warnings.catch_warnings():\n        pass\n"
        "    warnings.warn(line)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "warning: one line\nwarning: another\n"


def test_no_terminal_obeys_a_log_or_a_traceback():
    code = (
        "import logging\nfrom scorl.cli.output import speak_plainly\nspeak_plainly()\n"
        "bad = 'x\\x1b]0;owned\\x07\\u202e\\x9b2J'\n"
        "logging.getLogger('transformers.some').warning('got %s', bad)\n"
        "try:\n    raise ValueError('caught ' + bad)\n"
        "except ValueError:\n    logging.exception('said')\n"
        "logging.getLogger('ray').warning('\\x1b[1mits own\\x1b[22m')\n"
        "raise AttributeError('ours ' + bad)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    seen = "x\ufffd]0;owned\ufffd\ufffd\ufffd2J"
    assert done.returncode == 1
    assert done.stderr.startswith(f"got {seen}\n")
    assert f"ValueError: caught {seen}\n" in done.stderr
    assert done.stderr.endswith(f"\nAttributeError: ours {seen}\n")
    assert not set("\x07\u202e\x9b") & set(done.stderr)
    assert done.stderr.count("\x1b") == 2  # Ray colours its words


def test_log_records_of_somebody_else_keep_what_they_have():
    code = (
        "import logging\nfrom scorl.cli.output import quiet, speak_plainly\n"
        "def mine(*given):\n    record = logging.LogRecord(*given)\n    record.asked = 'r1'\n    return record\n"
        "logging.setLogRecordFactory(mine)\nquiet()\n"
        "assert logging.getLogRecordFactory() is mine\n"  # what a library calls replaces nothing
        "speak_plainly()\nonce = logging.getLogRecordFactory()\nspeak_plainly()\n"
        "assert logging.getLogRecordFactory() is once\n"
        "logging.basicConfig(format='%(asked)s %(message)s')\nlogging.warning('x\\x9b2J')\n"
        "assert logging.makeLogRecord({'msg': 'odd'}).getMessage() == 'odd'\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "r1 x\ufffd2J\n")


def test_a_pipe_gets_lines_and_no_bars(recipe, tmp_path):
    arguments = [sys.executable, "-m", "scorl", "train", str(recipe), "--out", str(tmp_path / "run")]
    done = subprocess.run(arguments, capture_output=True, check=True)
    assert b"\r" not in done.stdout + done.stderr


def written(path, *rights, **changed):
    groups_of = Evaluation("tiny", "countdown", EvaluationSettings(), 2, 64, 0, tuple(groups(*rights)))
    path.write_text(json.dumps(groups_of.summary() | changed))
    return path


def test_two_evaluations_are_compared_by_problem(scorl, tmp_path):
    before, after = written(tmp_path / "a.json", *["10"] * 30), written(tmp_path / "b.json", *["11"] * 30)
    code, out, err = scorl("diff", before, after)
    assert (code, err) == (0, "")
    assert f"before: {before}, tiny\nafter:  {after}, tiny\n" in out
    (row,) = (line for line in out.splitlines() if "accuracy@t2" in line)
    assert "+100.0 [" in row
    assert "< 0.001" in row
    assert "paired by problem" in out
    run = tmp_path / "run"
    run.mkdir()
    latest = json.loads(after.read_text()) | {"step": 6, "history": []}
    (run / "evaluation.json").write_text(json.dumps({"test": latest, "dev": latest}))
    out = scorl("diff", before, run, "--split", "test")[1]
    assert "+100.0 [" in out
    assert f"after:  {run}, tiny, after 6 updates\n" in out
    for arguments, said in (((run,), "name one with --split: dev, test"), ((run, "--split", "tset"), "'test'?")):
        code, _, err = scorl("diff", run, *arguments)
        assert code == 2
        assert said in err


def test_what_two_evaluations_have_not_in_common_is_said_or_refused(scorl, tmp_path):
    before = written(tmp_path / "a.json", "10", "01")
    other = written(tmp_path / "b.json", "10", "01", max_tokens=80)
    assert "not alike: max_tokens: 64 before, 80 after" in scorl("diff", before, other)[2]
    old, new = (written(tmp_path / f"{n}.json", "10", task_settings={"verifier": v}) for n, v in enumerate("ab"))
    longer = written(tmp_path / "d.json", "10", "01", max_tokens=[64, 512], wording="verify_first", messages=["Look."])
    err = scorl("diff", written(tmp_path / "e.json", "10", "01", max_tokens=[64, 256]), longer)[2]
    for said in (
        "max_tokens: [64, 256] before, [64, 512] after",
        "wording: None before, 'verify_first' after",
        "messages: ",
    ):
        assert f"not alike: {said}" in err
    assert "not alike: task.verifier: 'a' before, 'b' after" in scorl("diff", old, new)[2]
    settings = ({"judge_api_key": f"mine{n}", "answer_token": mark} for n, mark in enumerate(("####", "Answer:")))
    err = scorl("diff", *(written(tmp_path / f"s{n}.json", "10", task_settings=s) for n, s in enumerate(settings)))[2]
    assert "not alike: task.judge_api_key: (hidden) differs" in err
    assert "not alike: task.answer_token: '####' before, 'Answer:' after" in err
    assert "mine" not in err
    for file, said in (
        (written(tmp_path / "c.json", "10", task="math"), "on countdown with one on math"),
        (tmp_path / "no.json", "is no JSON"),
        (tmp_path / "list.json", "holds no evaluation"),
        (tmp_path / "other.json", "holds no evaluation"),
        (tmp_path / "splits.json", "holds no evaluation"),
    ):
        if not file.exists():
            texts = {"list": "[]", "other": '{"metrics": 1}', "splits": '{"test": {"metrics": {"a": 1}}}'}
            file.write_text(texts.get(file.stem, "{"))
        code, _, err = scorl("diff", before, file)
        assert code == 2
        assert said in err


OWNED = "x\x1b]0;owned\x07\u202e\x9b2J"
OBEYED = set("\x1b\x07\u202e\x9b")


def test_no_terminal_obeys_the_name_of_a_stage(scorl, recipe):
    text = recipe.read_text().replace("steps: 1", f"name: {json.dumps(OWNED)}, steps: 1")
    recipe.write_text(text.replace("supervised", "score_stage_one, beta_2: 0.1"))
    arm = f"score:stages.0.name={json.dumps(OWNED)}"
    compared = ("compare", "countdown", "--methods", arm, "--dry-run", "--seeds", 1, "--out", recipe.parent / "all")
    for arguments in (("plan", recipe, "--gpu", "h100"), compared, ("train", recipe, "--dry-run")):
        code, *said = scorl(*arguments)
        assert code in (0, 1), said
        assert "owned" in "".join(said)
        assert not OBEYED & set("".join(said))
    assert yaml.safe_load(said[0])["stages"][0]["name"] == OWNED


def test_no_terminal_obeys_the_progress_of_a_stage():
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    with ProgressLine(3, console) as progress:
        progress({"step": 0, "stage": OWNED, "seconds": {"learn": 1.0}})
        progress.between(OWNED, 1, 2)
    assert "owned" in console.file.getvalue()
    assert not set("\x07\u202e\x9b") & set(console.file.getvalue())  # the escapes are rich's


def test_no_terminal_obeys_an_evaluation_of_others(scorl, tmp_path):
    both = (written(tmp_path / name, *["10"] * 30, model=OWNED, task=OWNED) for name in ("a.json", "b.json"))
    code, out, err = scorl("diff", *both)
    assert (code, err) == (0, "")
    assert out.count("owned") >= 2
    assert not OBEYED & set(out)


def test_an_evaluation_says_that_the_context_was_used_up(scorl, model):
    few, many = (scorl("evaluate", model, "--task", "countdown", "--limit", 2, "--max-tokens", n)[2] for n in (2, 500))
    assert "alarm" not in few
    assert re.search(r"alarm: \d+% of the attempts found the model's context used up\. To try: ", many)
    assert "take a smaller --max-tokens" in many
