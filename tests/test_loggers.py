"""Loggers are sent all that a run measures, under names that people expect, and go on where a run resumes."""

import json
import re
import sys
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from support.worlds import letters, letters_recipe, save_model

from scorl.cli import main
from scorl.engines.torch import TorchEngine
from scorl.model.policy import Policy
from scorl.objectives import Reinforce, StageOne
from scorl.recipe import differences
from scorl.run.build import BuiltRecipe, versions
from scorl.run.directory import RunDirectory
from scorl.run.loggers import Loggers, tabulate_attempts
from scorl.run.run import run_recipe
from scorl.run.trackers import TRACKERS, TrackedRun, Tracker, check_trackers
from scorl.settings import CheckpointSettings, EvaluationSettings, LearnerSettings, LoggingSettings
from scorl.training.stage import Stage

LOGGING = LoggingSettings(project="letters", run_name="first", entity="team", group="seeds", tags=("a", "b"))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("model"))


def built(model: str, *loggers: str, logging: LoggingSettings = LOGGING) -> BuiltRecipe:
    """Six steps in two stages, evaluated every second one, saved every third."""
    stages = (Stage(StageOne(), 2, problems=2, samples=2), Stage(Reinforce(), 4, problems=2, samples=2))
    recipe = replace(
        letters_recipe(model, stages, max_tokens=2),
        learner=LearnerSettings(learning_rate=1e-2),
        evaluation=EvaluationSettings(eval_steps=2, problems=3),
        checkpoint=CheckpointSettings(save_steps=3),
        loggers=loggers,
        logging=logging,
    )
    policy = Policy(model)
    return BuiltRecipe(recipe, policy, TorchEngine(policy), letters())


def run(folder: Path, whole: BuiltRecipe, stop_before: int | None = None) -> None:
    """The run, or what a kill leaves of it that comes before the record of a step is sent."""
    directory = RunDirectory(folder)
    with Loggers(whole.recipe, RunDirectory(folder), versions(whole)) as loggers:

        def on_step(record):
            if record["step"] == stop_before:
                raise KeyboardInterrupt
            loggers.step(record)

        run_recipe(whole, directory, on_step, on_start=loggers.start, on_evaluation=loggers.evaluation)


def killed_and_resumed(folder: Path, whole: BuiltRecipe) -> None:
    """Killed in step 5, behind the checkpoint of step 3 and the evaluation of step 4."""
    with pytest.raises(KeyboardInterrupt):
        run(folder, whole, stop_before=5)
    run(folder, whole)


class FakeWandb(ModuleType):
    """Keeps what it is told, in one list for each run."""

    class errors:  # noqa: N801 - as wandb has it
        class Error(Exception): ...

    @staticmethod
    def Table(columns, data):  # noqa: N802
        return columns, data

    def __init__(self, key: bool = True):
        super().__init__("wandb")
        self.key, self.inits, self.rows, self.alerts, self.metrics, self.ends = key, [], [], [], [], []

    def login(self):
        if not self.key:
            raise self.errors.Error("No API key configured.")

    def init(self, **settings):
        self.inits.append(settings)
        return SimpleNamespace(
            log=self.rows.append,
            alert=lambda *words: self.alerts.append(words),
            define_metric=lambda *what, **how: self.metrics.append((*what, how)),
            finish=lambda exit_code: self.ends.append(exit_code),
        )


@pytest.fixture
def wandb(monkeypatch):
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    return fake


def test_wandb_is_sent_steps_evaluations_and_the_recipe(model, wandb, tmp_path):
    run(tmp_path / "run", built(model, "wandb"))
    (init,) = wandb.inits
    assert {key: init[key] for key in ("project", "entity", "group", "tags", "name")} == {
        "project": "letters",
        "entity": "team",
        "group": "seeds",
        "tags": ("a", "b"),
        "name": "first",
    }
    assert init["config"]["stages"][1]["objective"] == "reinforce"
    assert init["config"]["versions"]["torch"]
    steps = [row for row in wandb.rows if "train/loss" in row]
    lines = [json.loads(line) for line in (tmp_path / "run" / "steps.jsonl").read_text().splitlines()]
    assert [row["train/global_step"] for row in steps] == list(range(6))
    assert [row["train/stage"] for row in steps] == [0, 0, 1, 1, 1, 1]
    assert [row["train/reward_t2"] for row in steps] == [line["reward_t2"] for line in lines]
    assert steps[0]["train/seconds/learn"] == lines[0]["seconds"]["learn"]
    held_out = [row for row in wandb.rows if "eval/accuracy_t2" in row]
    history = json.loads((tmp_path / "run" / "evaluation.json").read_text())["test"]["history"]
    assert [row["train/global_step"] for row in held_out] == [0, 2, 4, 6]
    for row, latest in zip(held_out, history, strict=True):
        metric = latest["metrics"]["accuracy_t2"]
        assert row["eval/accuracy_t2"] == metric["value"]
        assert row["eval_interval/accuracy_t2_low"] == metric["low"]
    assert ("*", {"step_metric": "train/global_step", "step_sync": True}) in wandb.metrics
    assert wandb.ends == [0]


def test_each_evaluation_has_a_table_of_the_same_problems(model, wandb, tmp_path):
    run(tmp_path / "run", built(model, "wandb", logging=replace(LOGGING, problems=2)))
    tables = {row["train/global_step"]: row["eval/attempts"] for row in wandb.rows if "eval/attempts" in row}
    assert list(tables) == [0, 2, 4, 6]
    held_out = list(RunDirectory(tmp_path / "run").attempts([6], held_out=True))
    columns, data = tables[6]
    assert columns == ["problem", "question", "gold", "attempt 1", "verdict 1", "attempt 2", "verdict 2"]
    assert [row[:3] for row in data] == [["letters-a", "say a", "a"], ["letters-b", "say b", "b"]]
    assert [text for row in data for text in (row[3], row[5])] == [line["text"] for line in held_out[:4]]
    wandb.rows.clear()
    run(tmp_path / "none", built(model, "wandb", logging=replace(LOGGING, problems=0)))
    assert not any("eval/attempts" in row for row in wandb.rows)


def attempt(problem: str, turn: int, text: str, **others) -> dict:
    line = {
        "problem": problem,
        "sample": 0,
        "turn": turn,
        "text": text,
        "verdict": "incorrect",
        "reason": "",
        "gold": 4,
    }
    return line | {"question": "What?", "role": "attempt", "branch": 0, **others}


def test_a_table_has_first_samples_of_first_problems_in_plain_utf_8():
    lines = [
        attempt("a", 0, "one\0\ud800"),
        attempt("a", 0, "a critique", role="critique"),
        attempt("a", 1, "two", reason="5 is not 4"),
        attempt("a", 0, "another sample", sample=1),
        attempt("b", 0, "three"),
        attempt("c", 0, "four"),
    ]
    first, second = tabulate_attempts(lines, 2)
    assert first == {
        **{"problem": "a", "question": "What?", "gold": "4", "attempt 1": "one\\0\\ud800", "verdict 1": "incorrect"},
        **{"attempt 2": "two", "verdict 2": "incorrect (5 is not 4)"},
    }
    assert second["attempt 1"] == "three"


HOSTILE = "```\n</code></pre><script>alert(1)</script>\n\n# heading\n[x](javascript:alert(1))"


def opened(name: str, model: str, folder: Path):
    folder.mkdir()
    whole = built(model, name)
    return TRACKERS[name](TrackedRun(RunDirectory(folder), whole.recipe, {}, 1, None))


def test_a_resumed_run_goes_on_in_the_same_one(model, wandb, tmp_path):
    killed_and_resumed(tmp_path / "run", built(model, "wandb"))
    assert len({init["id"] for init in wandb.inits}) == 1
    assert {init["resume"] for init in wandb.inits} == {"allow"}
    steps = [row["train/global_step"] for row in wandb.rows if "train/loss" in row]
    assert steps == [0, 1, 2, 3, 4, 3, 4, 5]
    assert wandb.ends == [1, 0]
    run(tmp_path / "other", built(model, "wandb"))
    assert len({init["id"] for init in wandb.inits}) == 2


def test_an_alarm_is_sent_as_a_figure_and_once_in_words(model, wandb, tmp_path):
    whole = built(model, "wandb")
    with Loggers(whole.recipe, RunDirectory(tmp_path), {}) as loggers:
        loggers.start(0)
        for step in range(3):
            alarms = [{"kind": "no_reward", "statistic": "every reward was 0"}] if step else []
            loggers.step({"step": step, "loss": 0.5, "delta": None, "alarms": alarms})
    assert [row.get("alarms/no_reward") for row in wandb.rows] == [None, 1.0, 1.0]
    assert wandb.alerts == [("alarm: no reward", "step 1: every reward was 0")]
    assert "train/delta" not in wandb.rows[0]
    resumed = tmp_path / "resumed"
    resumed.mkdir()
    (resumed / "steps.jsonl").write_text(json.dumps({"step": 0, "stage": "one", "alarms": alarms}) + "\n")
    with Loggers(whole.recipe, RunDirectory(resumed), {}) as loggers:
        loggers.start(1)
        loggers.step({"step": 1, "alarms": alarms})
    assert len(wandb.alerts) == 1


def test_a_tracker_that_goes_away_is_said_once_and_the_run_ends_well(model, wandb, tmp_path, monkeypatch):
    def fail(*what, **how):
        raise ConnectionError("nobody answers")

    def init(**settings):
        return SimpleNamespace(log=fail, alert=fail, define_metric=lambda *what, **how: None, finish=fail)

    @contextmanager
    def keep(run):
        yield Tracker(lambda *what: kept.append(what), lambda *what: None, lambda *what: None), "kept"

    kept = []
    monkeypatch.setattr(wandb, "init", init)
    monkeypatch.setitem(TRACKERS, "mlflow", keep)
    with pytest.warns(UserWarning, match="loggers: ") as said:
        run(tmp_path / "run", built(model, "wandb", "mlflow"))
    failed = [str(warning.message) for warning in said if "nobody answers" in str(warning.message)]
    assert [text.split(" (")[0] for text in failed] == ["loggers: wandb failed", "loggers: a logger failed"]
    assert len(RunDirectory(tmp_path / "run").steps()) == 6
    assert [step for step, figures in kept if "train/loss" in figures] == list(range(6))
    with pytest.warns(UserWarning, match="a logger failed"), pytest.raises(KeyboardInterrupt):  # not hidden by it
        run(tmp_path / "killed", built(model, "wandb"), stop_before=2)


def test_the_environment_says_what_the_recipe_does_not(model, wandb, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    for logging, project, name in ((LoggingSettings(), "mine", "run"), (LOGGING, "letters", "first")):
        whole = built(model, "wandb", logging=logging)
        with Loggers(whole.recipe, RunDirectory(tmp_path / "run"), {}) as loggers:
            (tmp_path / "run").mkdir(exist_ok=True)
            loggers.start(0)
        assert (wandb.inits[-1]["project"], wandb.inits[-1]["name"]) == (project, name)


def test_a_missing_key_is_a_sentence_before_anything_is_loaded(wandb, tmp_path, capsys, monkeypatch):
    wandb.key = False
    with pytest.raises(SystemExit) as caught:
        main(["train", "countdown", "loggers=[wandb]", "--out", str(tmp_path / "run")])
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert "wandb refuses: No API key configured." in error
    assert "WANDB_MODE=offline" in error
    assert not (tmp_path / "run").exists()
    monkeypatch.setenv("WANDB_MODE", "offline")
    check_trackers(["wandb"])


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "trackio", "mlflow"])
def test_a_logger_that_cannot_be_imported_is_refused_before_anything_is_loaded(monkeypatch, name, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard" if name == "tensorboard" else name, None)
    with pytest.raises(SystemExit) as caught:
        main(["train", "countdown", f"loggers=[{name}]", "--out", str(tmp_path / "run")])
    assert caught.value.code == 2
    assert re.search(rf"loggers: {name} cannot be imported .*: pip install '?(scorl|mlflow)", capsys.readouterr().err)
    assert not (tmp_path / "run").exists()


def test_a_run_may_resume_with_other_loggers(model):
    recipe = built(model, "wandb").recipe
    assert differences(recipe, replace(recipe, loggers=(), logging=LoggingSettings())) == []
    assert differences(recipe, replace(recipe, seed=1)) == ["seed: 0 against 1"]


def test_a_start_that_failed_in_a_logger_does_not_bar_the_next(tmp_path):
    run = RunDirectory(tmp_path)
    (tmp_path / "wandb").mkdir()
    run.record_logger_run("wandb", "abc")
    assert run.free
    assert run.logger_runs() == {"wandb": "abc"}


def test_tensorboard_shows_each_step_once_after_a_resume(model, tmp_path):
    pytest.importorskip("tensorboard", reason="TensorBoard is not installed: pip install 'scorl[loggers]'")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    whole = built(model, "tensorboard")
    killed_and_resumed(tmp_path / "run", whole)
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    steps = {tag: [event.step for event in events.Scalars(tag)] for tag in ("train/reward_t2", "eval/accuracy_t2")}
    assert steps == {"train/reward_t2": [0, 1, 2, 3, 4, 5], "eval/accuracy_t2": [0, 2, 4, 6]}
    assert "recipe/text_summary" in events.Tags()["tensors"]
    shown = [event.step for event in events.Tensors("eval/attempts/text_summary")]
    assert sorted(set(shown)) == [0, 2, 4, 6]


def test_tensorboard_shows_what_models_write_as_code(model, tmp_path):
    pytest.importorskip("tensorboard", reason="TensorBoard is not installed: pip install 'scorl[loggers]'")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugin_util import markdown_to_safe_html

    with opened("tensorboard", model, tmp_path / "run") as (tracker, _):
        tracker.tabulate(
            1, "eval/attempts", [{"problem": "a", "attempt 1": HOSTILE}, {"problem": "b", "attempt 1": ""}]
        )
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    (event,) = events.Tensors("eval/attempts/text_summary")
    page = markdown_to_safe_html(event.tensor_proto.string_val[0])
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert not re.search(r"<script|<h1|<a ", page)


def test_wandb_itself_keeps_a_resumed_run_under_one_id(model, tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="wandb is not installed: pip install 'scorl[loggers]'")
    monkeypatch.setenv("WANDB_MODE", "offline")
    check_trackers(["wandb"])
    killed_and_resumed(tmp_path / "run", built(model, "wandb"))
    parts = {path.name.rpartition("-")[2] for path in (tmp_path / "run" / "wandb").glob("offline-run-*")}
    assert parts == {json.loads((tmp_path / "run" / "loggers.json").read_text())["wandb"]}
    tables = list((tmp_path / "run" / "wandb").glob("offline-run-*/files/media/table/eval/attempts_*.table.json"))
    assert len(tables) >= 4
    for table in map(json.loads, (path.read_text() for path in tables)):
        assert table["columns"][:4] == ["problem", "question", "gold", "attempt 1"]
        assert [row[0] for row in table["data"]] == ["letters-a", "letters-b", "letters-c"]


def test_trackio_itself_goes_on_in_the_same_run(model, tmp_path, monkeypatch):
    pytest.importorskip("trackio", reason="trackio is not installed: pip install 'scorl[loggers]'")
    from trackio.sqlite_storage import SQLiteStorage

    monkeypatch.setattr("trackio.utils.TRACKIO_DIR", tmp_path / "trackio")
    monkeypatch.setattr("trackio.sqlite_storage.TRACKIO_DIR", tmp_path / "trackio")
    killed_and_resumed(tmp_path / "run", built(model, "trackio"))
    assert SQLiteStorage.get_runs("letters") == ["first"]
    steps = [row["step"] for row in SQLiteStorage.get_logs("letters", "first") if "train/loss" in row]
    assert sorted(set(steps)) == [0, 1, 2, 3, 4, 5]
    tables = {
        row["step"]: row["eval/attempts"]
        for row in SQLiteStorage.get_logs("letters", "first")
        if "eval/attempts" in row
    }
    assert sorted(tables) == [0, 2, 4, 6]
    assert [row["question"] for row in tables[6]["_value"]] == ["say a", "say b", "say c"]
    assert "&lt;" in tables[6]["_value"][0]["attempt 1"] or "<" not in tables[6]["_value"][0]["attempt 1"]


def test_trackio_gets_no_html_of_models(model, tmp_path, monkeypatch):
    pytest.importorskip("trackio", reason="trackio is not installed: pip install 'scorl[loggers]'")
    from trackio.sqlite_storage import SQLiteStorage

    monkeypatch.setattr("trackio.utils.TRACKIO_DIR", tmp_path / "trackio")
    monkeypatch.setattr("trackio.sqlite_storage.TRACKIO_DIR", tmp_path / "trackio")
    with opened("trackio", model, tmp_path / "run") as (tracker, name):
        tracker.tabulate(1, "eval/attempts", [{"problem": "a", "attempt 1": HOSTILE}])
    (row,) = (row for row in SQLiteStorage.get_logs("letters", name) if "eval/attempts" in row)
    (shown,) = row["eval/attempts"]["_value"]
    assert "&lt;script&gt;" in shown["attempt 1"]
    assert "<" not in shown["attempt 1"]


def test_mlflow_itself_goes_on_in_the_same_run(model, tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed: pip install mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file:{tmp_path / 'mlruns'}")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    killed_and_resumed(tmp_path / "run", built(model, "mlflow"))
    (found,) = mlflow.MlflowClient().search_runs([mlflow.get_experiment_by_name("letters").experiment_id])
    assert found.info.run_id == RunDirectory(tmp_path / "run").logger_runs()["mlflow"]
    assert found.data.params["stages.1.objective"] == "reinforce"
    assert found.data.tags["group"] == "seeds"
    history = mlflow.MlflowClient().get_metric_history(found.info.run_id, "eval/accuracy_t2")
    assert sorted({metric.step for metric in history}) == [0, 2, 4, 6]
