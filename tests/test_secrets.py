"""No key of the environment stands in anything that a run writes or says."""

import gzip
import json
from contextlib import contextmanager

import pytest
from support.report_runs import attempt_lines, read_page, write_run
from support.tiny_recipe import TINY

from scorl.hub.base import redact
from scorl.hub.card import describe_checkpoint
from scorl.recipe import SHIPPED_FOLDER, resolve
from scorl.recipe.hidden import HIDDEN
from scorl.recipe.sections import Recipe
from scorl.run.directory import RunDirectory
from scorl.run.loggers import Loggers
from scorl.run.trackers import TRACKERS, Tracker

CANARY = "hf_CanaryOfMine0123456789"
RECIPE = (
    TINY
    + """checkpoint: {save_steps: 1}
logging: {compress_attempts: COMPRESSED}
"""
)


def find_canaries(folder):
    """The files of a folder in which the canary stands, packed or not."""
    texts = {}
    for path in (path for path in folder.rglob("*") if path.is_file()):
        texts[path] = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        if path.suffix == ".html":
            texts[path] += json.dumps(read_page(path), default=str).encode()
    return sorted(path.relative_to(folder).as_posix() for path, text in texts.items() if CANARY.encode() in text)


@pytest.mark.parametrize("compressed", ["true", "false"])
def test_a_run_writes_and_says_no_key(scorl, tmp_path, monkeypatch, compressed):
    for name in ("OPENAI_API_KEY", "HF_TOKEN", "WANDB_API_KEY"):
        monkeypatch.setenv(name, CANARY)
    (tmp_path / "tiny.yaml").write_text(RECIPE.replace("COMPRESSED", compressed))
    run = tmp_path / "run"
    code, *said = scorl("train", tmp_path / "tiny.yaml", "--out", run)
    assert code == 0, said
    for command in (("report", run), ("show", run)):
        said += scorl(*command)[1:]
    assert CANARY not in "".join(said)
    assert find_canaries(tmp_path) == []
    packed = ".gz" if compressed == "true" else ""
    written = {path.relative_to(run).as_posix() for path in run.rglob("*")}
    names = {"recipe.yaml", "steps.jsonl", "evaluation.json", "report.html"}
    names |= {f"attempts/step-000001.jsonl{packed}", f"held-out/step-000002.jsonl{packed}"}
    assert names | {"checkpoints/step-2/README.md", "checkpoints/step-2/trainer/state.json"} <= written


def test_a_key_that_was_written_is_found(scorl, tmp_path):
    (tmp_path / "plain.jsonl").write_text(CANARY)
    (tmp_path / "packed.jsonl.gz").write_bytes(gzip.compress(CANARY.encode()))
    write_run(tmp_path / "run", extra=attempt_lines(0, "p", 0, [CANARY], "1"))
    assert scorl("report", tmp_path / "run")[0] == 0
    assert {"packed.jsonl.gz", "plain.jsonl", "run/report.html"} <= {*find_canaries(tmp_path)}


SECRET = {
    "judge_api_key": "short",
    "apiKey": "x1",
    "judge_key": "sk-short",
    "token": "short",
    "hf_token": "short",
    "password": "short",
    "client_secret": "short",
    "secrets": {"judge": "short", "more": ["short"]},
    "api_keys": ["short", "shorter"],
    "access_tokens": ["short"],
    "headers": {"X-Auth-Token": "short", "Cookie": "short"},
    "pwd": "short",
    "auth": "short",
    "bearer": "short",
    "openai_key": "sk-short-0123456789abcdef",
    "keys": ["sk-short-0123456789abcdef"],
}
PLAIN = {
    "max_tokens": 64,
    "at_tokens": "64",
    "pad_token": "<pad>",
    "eos_token": "</s>",
    "api_key": None,
    "api_key_env": "OPENAI_API_KEY",
    "judge_key_var": "JUDGE_KEY",
    "reserved_token": "<|reserved_special_token_0|>",
    "answer_token": "####",
    "boxed_token": "boxed{",
    "final_token": "Answer:",
    "split_token": "\n\n",
    "eot_token": "<|eot_id|>",
    "answer_key": "answer",
    "gold_key": "extra_info.answer",
    "label_key": "label1",
    "column_key": "Level 5",
    "columns": {"keys": ["a", "b2"]},
    "auth_mode": "none",
    "source": "git+ssh://git@github.com/me/it",
    "keyboard": "short",
    "secretary": "short",
    "tokenizer": "short",
    "judge_url": "http://node7:8000",
}


def test_what_a_recipe_calls_a_secret_is_one():
    shown = redact({"task": {"args": SECRET | PLAIN}})["task"]["args"]
    assert {key: value for key, value in shown.items() if key in PLAIN} == PLAIN
    assert not any(word in json.dumps({key: shown[key] for key in SECRET}) for word in ("short", "x1"))
    assert shown["secrets"] == {"judge": HIDDEN, "more": [HIDDEN]}
    for url in ("https://{}@github.com/me/it", "http://node7/v1?a=1&api_key={}&b=2", "http://node7/?TOKEN={}#top"):
        assert redact({"url": url.format("hunter2")}) == {"url": url.format(HIDDEN)}
    assert redact({"url": "see http://user:hunter2@node7:8000/v1"}) == {"url": f"see http://{HIDDEN}@node7:8000/v1"}


def test_a_secret_in_a_recipe_goes_no_further(scorl, tmp_path):
    (tmp_path / "tiny.yaml").write_text(TINY + "checkpoint: {save_steps: 1}\n")
    run = tmp_path / "run"
    template = (SHIPPED_FOLDER.parent / "models" / "countdown-base" / "chat_template.jinja").read_text()
    (tmp_path / "own.jinja").write_text(template + "{%- if judge_api_key or note %}{% endif %}")
    own = f"model.chat_template={tmp_path / 'own.jinja'}"
    kwargs = "model.chat_template_kwargs={judge_api_key: sk-short, note: kept}"
    code, *said = scorl("train", tmp_path / "tiny.yaml", own, kwargs, "--out", run)
    assert code == 0, said
    assert {path.name for path in run.rglob("*") if path.is_file() and b"sk-short" in path.read_bytes()} <= {
        "recipe.yaml",
        "evaluation.json",
    }
    assert scorl("report", run)[0] == 0
    page = (run / "report.html").read_text() + json.dumps(read_page(run / "report.html"), default=str)
    for shown in (page, describe_checkpoint(RunDirectory(run), run / "checkpoints" / "step-2", 2)):
        assert "sk-short" not in shown
        assert HIDDEN in shown
        assert "kept" in shown


def test_loggers_are_sent_no_secret_of_a_recipe(tmp_path, monkeypatch):
    sent = []

    @contextmanager
    def tracker(run):
        sent.append(run.config)
        yield Tracker(*[lambda *given: None] * 3), "name"

    monkeypatch.setitem(TRACKERS, "wandb", tracker)
    whole = {"task": {"args": SECRET}, "seed": 1}
    monkeypatch.setattr(Recipe, "as_dict", lambda self: whole)
    recipe = resolve("countdown", ["loggers=[wandb]"])
    with Loggers(recipe, RunDirectory(tmp_path), {"scorl": "1"}) as loggers:
        loggers.start(0)
    assert sent[0]["seed"] == 1
    assert "short" not in json.dumps(sent[0])
