"""Disks that are full or read-only, and files that vanish: a sentence, before the work where that can be, and nothing
good is lost."""

import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors import SafetensorError
from support.tiny_recipe import TINY

from scorl.cli import commands, main

RECIPE = TINY + "checkpoint: {save_steps: 1, async_save: LATER}\n"


@pytest.fixture
def recipe(tmp_path):
    (tmp_path / "tiny.yaml").write_text(RECIPE.replace("LATER", "false"))
    return tmp_path / "tiny.yaml"


@pytest.fixture
def limit_files():
    """Lets no file grow beyond so many bytes, as a full disk lets none grow."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size=before[0]: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("later", ["false", "true"], ids=["at once", "async"])
def test_weights_that_do_not_fit_on_the_disk_end_a_run_in_a_sentence(scorl, recipe, tmp_path, limit_files, later):
    """What safetensors says of the disk is no error of the system for Python."""
    recipe.write_text(RECIPE.replace("LATER", later))
    run = tmp_path / "run"
    limit_files(100_000)
    code, _, err = scorl("train", recipe, "--out", run)
    assert (code, err.count("Traceback")) == (2, 0)
    assert "scorl: cannot write: File too large. A run resumes with --resume when there is room" in err
    assert not list((run / "checkpoints").glob("step-*"))
    limit_files()
    assert scorl("train", run, "--resume")[0] == 0
    assert (run / "checkpoints" / "step-2").is_dir()


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (PermissionError(13, "no", "a.txt"), "scorl: a.txt: Permission denied\n"),
        (OSError(28, "no", "a.txt"), "scorl: cannot write a.txt: No space left on device. A run"),
        (OSError(28, "no"), "scorl: cannot write: No space left on device. A run"),
        (
            SafetensorError('I/O error: Permission denied (os error 13) at path "/a/b"'),
            "scorl: /a/b: Permission denied\n",
        ),
        (Exception("No space left on device (os error 28)"), "scorl: cannot write: No space left on device. A run"),
        (PermissionError(1, "Operation not permitted"), None),  # of a signal, say
        (ValueError("bad (os error 13)"), None),
        (Exception("bad (os error 13)"), None),
    ],
)
def test_what_is_certainly_the_disk_is_a_sentence_and_names_the_file(scorl, monkeypatch, error, said):
    def fail(*arguments, **named):
        raise error

    monkeypatch.setattr(commands, "main", fail)
    if said is None:
        with pytest.raises(type(error)):
            main([])
    else:
        code, _, err = scorl("doctor")
        assert (code, err[: len(said)]) == (2, said)


@pytest.fixture
def places(tmp_path, monkeypatch):
    """Where nothing can be written: in a file, in a folder that is read-only, for root too, and in the system's own."""
    (tmp_path / "file").touch()
    (tmp_path / "read-only").mkdir()
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: "read-only" not in str(path) and access(path, mode))
    return {"system": Path("/proc/x"), **{name: tmp_path / name for name in ("file", "read-only")}}


@pytest.mark.parametrize("place", ["file", "read-only", "system"])
@pytest.mark.parametrize(
    "command",
    [
        "train RECIPE --out PLACE/run",
        "train RECIPE --out PLACE/run --dry-run",
        "compare RECIPE --out PLACE/compared",
        "evaluate NOWHERE --task countdown --out PLACE/e.json",
        "evaluate NOWHERE --task countdown --attempts-out PLACE/a.jsonl",
        "collect-repairs NOWHERE --out PLACE/r.jsonl",
        "judge ANSWERS --verifier exact --out PLACE/v.jsonl",
        "export-eval ANSWERS --out PLACE/e.yaml",
        "report RUN --out PLACE/page.html",
        "report RUN --figures PLACE/figures",
    ],
)
def test_what_cannot_be_written_is_said_before_the_work(scorl, recipe, places, tmp_path, command, place):
    """Neither the model nor the answers nor the run are there, which would be said next."""
    answers = tmp_path / "answers.jsonl"
    answers.write_text("no answers\n")
    (tmp_path / "empty").mkdir()
    names = {"RECIPE": recipe, "PLACE": places[place], "ANSWERS": answers, "NOWHERE": tmp_path / "no"}
    names["RUN"] = tmp_path / "empty"
    recipe.write_text(recipe.read_text().replace("scorl:countdown-base", str(tmp_path / "no")))
    for name, path in names.items():
        command = command.replace(name, str(path))
    code, _, err = scorl(*command.split())
    assert (code, err.count("Traceback")) == (2, 0)
    assert f"cannot write {places[place]}" in err
    assert str(tmp_path / "no") not in err


@pytest.mark.parametrize(
    "command",
    [
        "judge answers.jsonl --verifier exact --out",
        "export-eval e.json --dataset me/x --date 2026-01-02 --out",
        "report run --out",
    ],
)
def test_a_device_is_written_into_and_stays(scorl, tmp_path, monkeypatch, command):
    """A file is replaced when it is whole; as root one could replace /dev/null so. A link stays one too."""
    monkeypatch.chdir(tmp_path)
    Path("answers.jsonl").write_text('{"id": 1, "response": "7", "answer": "7"}\n')
    figures = {"problems": 2, "samples": 1, "temperature": 0.0, "max_tokens": 8}
    evaluation = {"model": "m", "task": "x", "split": "test", **figures, "metrics": {}}
    Path("e.json").write_text(json.dumps(evaluation))
    Path("run").mkdir()
    Path("run/scale.json").write_text(json.dumps({"arms": {"parallel": {"1": {"value": 0.5}}}}))
    Path("null").symlink_to(os.devnull)
    assert scorl(*command.split(), "null")[0] == 0
    assert Path("null").readlink() == Path(os.devnull)
    Path("link").symlink_to("target")
    assert scorl(*command.split(), "link")[0] == 0
    assert Path("link").readlink() == Path("target")
    assert Path("target").stat().st_size


def test_a_report_goes_to_stdout_alone(scorl, tmp_path):
    (tmp_path / "scale.json").write_text(json.dumps({"arms": {"parallel": {"1": {"value": 0.5}}}}))
    run = [sys.executable, "-m", "scorl", "report", tmp_path, "--out", "/dev/stdout"]
    page = subprocess.run(run, capture_output=True, text=True, check=True).stdout
    assert page.lower().startswith("<!doctype html>")
    assert page.rstrip().endswith("</html>")


def test_data_that_vanished_since_the_start_is_named_and_the_run_stays(scorl, tmp_path):
    data, run = tmp_path / "data.jsonl", tmp_path / "run"
    data.write_text('{"problem": "1 + 1", "answer": "2"}\n{"problem": "1 + 2", "answer": "3"}\n')
    files = f"{{name: files, path: {data}, test_path: {data}, verifier: exact}}"
    (tmp_path / "own.yaml").write_text(RECIPE.replace("LATER", "false").replace("{name: countdown}", files))
    assert scorl("train", tmp_path / "own.yaml", "--out", run)[0] == 0
    shutil.rmtree(run / "checkpoints" / "step-2")
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    data.rename(tmp_path / "elsewhere")
    code, _, err = scorl("train", run, "--resume")
    assert (code, err.count("Traceback")) == (2, 0)
    assert str(data) in err
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
