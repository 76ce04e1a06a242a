"""No key of the environment stands in anything that a run writes or says."""

import gzip
import json

import pytest
from support.report_runs import attempt_lines, read_page, write_run
from support.tiny_recipe import TINY

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
