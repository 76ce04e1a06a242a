"""The run directory: what it says is there, and that nothing of it is ever half-written."""

import json
import os
import re
import shutil
from pathlib import Path

import pytest

from scorl.errors import UserError
from scorl.run.attempts import read_attempts
from scorl.run.directory import RunDirectory
from scorl.run.files import replacing, to_lines, write_whole
from scorl.run.step_files import StepFiles
from scorl.settings import LoggingSettings


@pytest.fixture
def run(tmp_path):
    return RunDirectory(tmp_path / "run")


def step(number: int) -> dict:
    return {"step": number, "stage": "Stufe \N{LATIN SMALL LETTER U WITH DIAERESIS}"}


def response(number: int) -> dict:
    lone = "a lone surrogate: \ud800"
    return {"step": number, "problem": "a", "sample": 0, "turn": 0, "text": lone, "reward": None, "finish": "stop"}


def written(run: RunDirectory, steps: int) -> RunDirectory:
    """With so many steps, and an evaluation before and after each."""
    with run.lock():
        run.start("seed: 0\n")
        for number in range(steps):
            run.record_evaluation("test", {"step": number, "problems": 3, "metrics": {}})
            run.record_step(step(number), [response(number)])
        run.record_evaluation("test", {"step": steps, "problems": 3, "metrics": {}})
    return run


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_what_is_recorded_is_read_back(run):
    written(run, 3)
    assert run.steps() == [step(0), step(1), step(2)]
    assert run.attempted_steps() == [0, 1, 2]
    assert list(run.attempts([1])) == list(read_attempts(run.path / "attempts", 1)) == [response(1)]
    assert [record["step"] for record in read_attempts(run.path)] == [2, 1, 0]
    with pytest.raises(UserError, match="there is no step 500 with attempts; there are 0 to 2"):
        list(read_attempts(run.path, 500))
    assert run.attempted_steps(held_out=True) == [0, 1, 2, 3]
    latest = run.evaluations()["test"]
    assert (latest["step"], [entry["step"] for entry in latest["history"]]) == (3, [0, 1, 2, 3])
    assert run.evaluated("test", 2)
    assert not run.evaluated("train", 2)
    assert run.recipe_text() == "seed: 0\n"
    assert names(run.path) == {"recipe.yaml", "steps.jsonl", "attempts", "held-out", "evaluation.json", ".lock"}


def test_what_lies_behind_a_checkpoint_is_cut_off_as_if_it_had_never_been(run, tmp_path):
    written(run, 3).cut(1)
    shorter = written(RunDirectory(tmp_path / "shorter"), 1)
    for name in ("steps.jsonl", "evaluation.json", "attempts/step-000000.jsonl"):
        assert (run.path / name).read_bytes() == (shorter.path / name).read_bytes()
    assert (run.attempted_steps(), run.attempted_steps(held_out=True)) == ([0], [0, 1])
    run.cut(0)
    assert [entry["step"] for entry in run.evaluations()["test"]["history"]] == [0]
    assert run.steps() == []


def test_an_empty_folder_has_nothing(run):
    assert (run.steps(), run.evaluations(), run.saved_steps(), run.attempted_steps()) == ([], {}, [], [])
    assert run.recipe_text() == ""
    assert run.collection(0, 0) is None
    assert (run.begun, run.free) == (False, True)


def test_the_line_that_is_being_written_is_left_out(run):
    written(run, 2)
    file = run.path / "steps.jsonl"
    file.write_text(file.read_text() + json.dumps(step(2))[:9])
    assert len(run.steps()) == 2


@pytest.mark.parametrize("name", ["ranks", "attempts", "held-out", "collected", "tensorboard", "recipe.yaml"])
def test_a_start_that_failed_does_not_bar_the_next(run, name):
    with run.lock():
        (run.path / name).touch()
    assert (run.begun, run.free) == (False, True)
    (run.path / "thesis.tex").touch()
    assert not run.free


@pytest.mark.parametrize("name", ["collected", "collected/stage-1"])
def test_a_file_in_the_place_of_what_was_collected_is_named_before_anything_is_collected(run, name):
    file = run.path / name
    file.parent.mkdir(parents=True)
    file.touch()
    with pytest.raises(UserError, match=f"{re.escape(str(file))} is a file, and should be a folder"):
        run.collection(1, 0)


@pytest.mark.parametrize("name", ["steps.jsonl", "evaluation.json", "checkpoints"])
def test_a_run_has_begun_with_its_first_file(run, name):
    run.path.mkdir()
    (run.path / name).touch()
    assert run.begun


def test_the_recipe_stays_once_something_depends_on_it(run):
    written(run, 1).start("seed: 1\n")
    assert run.recipe_text() == "seed: 0\n"


def test_the_run_of_a_model(run, monkeypatch):
    written(run, 1)
    for name in ("step-40", "best"):
        (run.checkpoints / name).mkdir(parents=True)
    for model in (run.path, run.checkpoint(40), run.checkpoints / "best"):
        assert RunDirectory.of_model(str(model)) == run
    monkeypatch.chdir(run.path)
    for model in ("owner/name", "scorl:countdown-base"):  # of the hub, although this folder is a run
        assert RunDirectory.of_model(model) is None


def test_only_one_process_is_at_work(run):
    with run.lock(), pytest.raises(UserError, match="another process is at work there"), run.lock():
        pass
    with run.lock():
        pass


def test_a_file_is_whole_or_as_it_was(tmp_path):
    path = tmp_path / "report.html"
    write_whole(path, "old")

    def fail():
        with replacing(path) as draft:
            draft.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert path.read_text() == "old"
    assert names(tmp_path) == {"report.html"}


def test_attempts_are_compressed_and_only_the_last_kept(run):
    logging = LoggingSettings(compress_attempts=True, attempts_total_limit=2)
    with run.lock():
        for number in range(4):
            run.record_step(step(number), [response(number)] * 50, logging)
        run.record_evaluation("test", {"step": 4, "metrics": {}}, [response(4)], compress=True)
    assert names(run.path / "attempts") == {"step-000002.jsonl.gz", "step-000003.jsonl.gz"}
    assert list(run.attempts()) == [response(2)] * 50 + [response(3)] * 50
    assert list(run.attempts([4], held_out=True)) == [response(4)]
    file = run.attempt_files().path(3)
    assert run.attempt_files().size(3) == len(to_lines([response(3)] * 50).encode(errors="backslashreplace"))
    assert run.attempt_files().size(3) > 10 * file.stat().st_size
    assert list(read_attempts(file)) == [response(3)] * 50
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(UserError, match=r"step-000003\.jsonl\.gz is no whole gzip file"):
        list(run.attempts([3]))
    run.cut(3)
    assert (run.attempted_steps(), run.attempted_steps(held_out=True)) == ([2], [])
    run.record_step(step(3), [response(3)])  # a run may resume with other settings
    assert [record["step"] for record in run.attempts()] == [2] * 50 + [3]


@pytest.fixture
def listed_too_early(run, monkeypatch):
    """A run whose oldest attempts are deleted after they were listed."""
    written(run, 3)
    steps = StepFiles.steps
    monkeypatch.setattr(StepFiles, "steps", lambda self: [*steps(self), 99])
    return run


def test_attempts_that_are_deleted_meanwhile_end_no_checkpoint(listed_too_early):
    listed_too_early.sync_steps()


def test_attempts_that_are_deleted_meanwhile_are_left_out(listed_too_early):
    assert {record["step"] for record in read_attempts(listed_too_early.path)} == {0, 1, 2}


def test_hidden_files_of_others_are_no_drafts(run):
    written(run, 1)
    for name in ("notes", ".drafts", "checkpoints/step-1/trainer"):
        (run.path / name).mkdir(parents=True)
    own = (".draft", ".drafts/x", ".my.draft.md", "attempts/.draft.txt", "notes/.1.draft.md", "notes/.draft-of-mine.md")
    left = (
        ".1.draft.recipe.yaml",
        "checkpoints/step-1/.1.draft.README.md",
        "checkpoints/step-1/trainer/.1.draft.manifest.json",
    )
    for name in (*own, *left):
        (run.path / name).write_text("x")
    run.cut(1)
    assert [name for name in (*own, *left) if (run.path / name).exists()] == list(own)


def test_a_torn_first_line_is_cut_off(run):
    written(run, 0)
    (run.path / "steps.jsonl").write_text('{"step": 0, "sta')
    run.cut(0)
    run.record_step(step(0), [])
    assert run.steps() == [step(0)]


@pytest.mark.parametrize("bytes_left", [0, 3, 17])
def test_attempts_that_a_power_cut_emptied_are_said_to_be_damaged(run, bytes_left):
    written(run, 0)
    run.record_step(step(0), [response(0)], LoggingSettings(compress_attempts=True))
    os.truncate(run.attempt_files().path(0), bytes_left)
    with pytest.raises(UserError, match=r"step-000000\.jsonl\.gz is no whole gzip file: "):
        list(run.attempts([0]))


FILES = ("steps.jsonl", "evaluation.json", "attempts/step-000001.jsonl", "held-out/step-000002.jsonl")
DEVICES = ("steps.jsonl", "evaluation.json", "attempts/step-000001.jsonl", "loggers.json")


def endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


def read_everything(run: RunDirectory) -> None:
    with run.lock():
        list(run.attempts())
        assert run.saved_steps() == []
        assert run.logger_runs() == {}
        run.cut(1)


@pytest.mark.parametrize(
    ("make", "name"),
    [
        *((Path.mkdir, name) for name in (*FILES, ".lock")),
        *((Path.touch, name) for name in ("attempts", "held-out", "checkpoints")),
        *((endless, name) for name in DEVICES),
    ],
)
def test_something_else_in_the_place_of_a_file_or_a_folder_is_named(run, make, name):
    written(run, 2)
    path = run.path / name
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    make(path)
    with pytest.raises(UserError, match=rf"{path.name} is a .*, and should be a .*: move it away$"):
        read_everything(run)


DEEP = "[" * 100_000


@pytest.mark.parametrize(
    ("name", "content"),
    [
        *(("loggers.json", content) for content in (DEEP, "[1]", '{"wandb": 1}')),
        *(("evaluation.json", content) for content in (DEEP, "[1]", '{"test": {"step": 0, "history": [{}]}}')),
        *(("steps.jsonl", content) for content in (DEEP + "\n", "[1]\n", "{}\n", '{"step": "0"}\n')),
    ],
)
def test_a_file_that_holds_something_else_is_named(run, name, content):
    written(run, 0)
    (run.path / name).write_text(content)
    read = {"loggers.json": run.logger_runs, "evaluation.json": run.evaluations, "steps.jsonl": run.steps}
    for what in (read[name],) if name == "loggers.json" else (read[name], lambda: run.cut(1)):
        with pytest.raises(UserError, match=re.escape(name)):
            what()
