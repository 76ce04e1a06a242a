"""What others are given: model cards that say what is true, folders that load, results in the hub's form."""

import base64
import json
import re
import shutil
import stat
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
import yaml
from huggingface_hub import ModelCard, parse_eval_result_entries
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from scorl.cli import main
from scorl.hub.base import find_base, redact
from scorl.hub.card import describe_checkpoint
from scorl.hub.eval_results import dataset_of, to_entries, to_yaml
from scorl.hub.folder import find_checkpoint
from scorl.hub.weights import cast_file, cast_index
from scorl.model.loading import load_model
from scorl.model.policy import Policy, complete_folder
from scorl.model.template import TEMPLATES
from scorl.recipe.source import load
from scorl.run.directory import RunDirectory

SMALL = [
    *(f"stages.{i}.{key}" for i in (0, 1) for key in ("steps=1", "problems=2", "samples=2")),
    *("evaluation.problems=4", "engine.max_tokens=40"),
]
SHIPPED = Path(__file__).parents[1] / "src" / "scorl" / "models" / "countdown-base"

pytestmark = pytest.mark.skipif(not SHIPPED.is_dir(), reason="the shipped model is not built")


def scorl(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    return ended.value.code


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Two updates, in float32."""
    folder = tmp_path_factory.mktemp("secret-place") / "run"
    assert scorl("train", "countdown", *SMALL, "model.dtype=float32", "--out", folder) == 0
    return folder


@pytest.fixture(scope="module")
def adapted(tmp_path_factory):
    """Two updates of adapters, of a model in a folder with a card, in bfloat16."""
    folder = tmp_path_factory.mktemp("secret-place")
    shutil.copytree(SHIPPED, folder / "my-base")
    (folder / "my-base" / "README.md").write_text("---\nlicense: mit\n---\n")
    settings = [f"model.path={folder / 'my-base'}", "model.lora.r=4", "model.dtype=bfloat16"]
    assert scorl("train", "countdown", *SMALL, *settings, "--out", folder / "run") == 0
    return folder / "run"


def logits(folder: Path, **options) -> torch.Tensor:
    model = AutoModelForCausalLM.from_pretrained(folder, **options)
    with torch.no_grad():
        return model(torch.arange(4, 24)[None]).logits


def push(*arguments: str, out: Path) -> Path:
    assert scorl("push", *arguments, "--dry-run", out) == 0
    return out


def test_a_checkpoint_carries_a_card_that_the_hub_reads(run):
    folder = run / "checkpoints" / "step-2"
    card = ModelCard.load(folder / "README.md")
    assert (card.data.library_name, card.data.pipeline_tag, card.data.license) == (
        "transformers",
        "text-generation",
        "apache-2.0",
    )
    latest = json.loads((run / "evaluation.json").read_text())["test"]
    assert latest["step"] == 2
    told = {result.metric_name: result.metric_value for result in card.data.eval_results}
    assert told == {
        m: pytest.approx(100 * latest["metrics"][m]["value"]) for m in ("accuracy_t1", "accuracy_t2", "delta")
    }
    value = latest["metrics"]["accuracy_t2"]
    cell = f"{100 * value['value']:.1f} [{100 * value['low']:.1f}, {100 * value['high']:.1f}]"
    assert re.search(rf"^\| accuracy@t2 +\|.*\| +{re.escape(cell)} \|", card.text, re.MULTILINE)
    assert "The last evaluation was made after 2 updates." in card.text
    assert (
        load("countdown")["task"].get("correction", "There might be an error in the solution above.")[:40] in card.text
    )
    assert re.search(r"Versions: scorl \S+, torch ", card.text)


def test_no_place_of_this_machine_is_in_a_card(run, adapted):
    for folder in (run, adapted):
        text = (folder / "checkpoints" / "step-2" / "README.md").read_text()
        assert "secret-place" not in text
        assert str(Path.home()) + "/" not in text
    assert "# my-base, trained" in text
    assert "\nlicense: mit\n" in text


def snippet(folder: Path) -> str:
    return re.search(r"^```python\n(.*?)^```$", (folder / "README.md").read_text(), re.MULTILINE | re.DOTALL)[1]


def test_the_code_in_a_card_asks_as_the_run_did(run, monkeypatch, capsys):
    monkeypatch.chdir(run / "checkpoints" / "step-2")
    exec(compile(snippet(Path()), "README.md", "exec"), {"__name__": "card"})
    attempts = [line["text"] for line in RunDirectory(run).attempts([2], held_out=True)][:2]
    assert capsys.readouterr().out == "".join(f"{text}\n" for text in attempts)


@pytest.mark.parametrize(("turns", "limits"), [("correction", "[12, 40]"), ("self_refine", "[12, 40, 40]")])
def test_the_code_in_a_card_gives_each_attempt_its_own_limit(run, tmp_path, turns, limits):
    copy = tmp_path / "run"
    shutil.copytree(run, copy, symlinks=True)
    evaluations = json.loads((copy / "evaluation.json").read_text())
    settings = {"correction": "Again.", "turns": {"name": turns}}
    for one in (evaluations["test"], *evaluations["test"]["history"]):
        one |= {"max_tokens": [12, 40], "task_settings": settings, "messages": ["Again."]}
    (copy / "evaluation.json").write_text(json.dumps(evaluations))
    text = describe_checkpoint(RunDirectory(copy), copy / "checkpoints" / "step-2", 2)
    assert f"max_new_tokens={limits}[(len(messages) - 1) // 2]" in text
    assert "at most 12, then 40 tokens an attempt" in text


def test_a_card_of_a_run_with_a_limit_for_each_attempt_asks_as_it_did(tmp_path, monkeypatch, capsys):
    run = tmp_path / "run"
    more = ("engine.max_tokens=[9,40]", "task.system_prompt=Be brief.", "model.dtype=float32")
    assert scorl("train", "countdown", *SMALL, *more, "--out", run) == 0
    capsys.readouterr()
    monkeypatch.chdir(run / "checkpoints" / "step-2")
    exec(compile(snippet(Path()), "README.md", "exec"), {"__name__": "card"})
    attempts = [line["text"] for line in RunDirectory(run).attempts([2], held_out=True)][:2]
    assert capsys.readouterr().out == "".join(f"{text}\n" for text in attempts)


def test_a_pushed_folder_is_the_checkpoint_and_never_the_trainers(run, tmp_path, capsys):
    out = push(run, "me/mine", out=tmp_path / "out")
    said = capsys.readouterr().out
    files = {path.relative_to(out).as_posix(): path.stat().st_size for path in out.rglob("*") if path.is_file()}
    assert f"{sum(files.values()):,}  bytes in all, of step-2" in said
    assert {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "README.md",
        "chat_template.jinja",
    } <= files.keys()
    assert not any("trainer" in name for name in files)
    assert torch.equal(logits(out), logits(run / "checkpoints" / "step-2"))
    assert AutoTokenizer.from_pretrained(out).chat_template == AutoTokenizer.from_pretrained(SHIPPED).chat_template
    assert 'name = "me/mine"' in snippet(out)
    assert scorl("push", run, "me/mine", "--dry-run", out) == 2
    assert "is not empty" in capsys.readouterr().err


def test_weights_are_pushed_in_the_type_that_was_computed_in(adapted, run, tmp_path):
    kept = adapted / "checkpoints" / "step-2"
    saved = tmp_path / "float32"
    push(adapted, "me/mine", "--dtype", "float32", out=saved)
    out = push(adapted, "me/mine", out=tmp_path / "auto")
    assert json.loads((out / "config.json").read_text())["dtype"] == "bfloat16"
    assert 2 * (out / "model.safetensors").stat().st_size < 1.1 * (saved / "model.safetensors").stat().st_size
    assert torch.equal(logits(out), logits(kept, dtype=torch.bfloat16))
    half = push(run, "me/mine", "--dtype", "float16", out=tmp_path / "half")
    assert torch.equal(logits(half), logits(run / "checkpoints" / "step-2", dtype=torch.float16))


def test_adapters_by_themselves(adapted, run, tmp_path, capsys):
    peft = pytest.importorskip("peft")
    out = push(adapted, "me/mine", "--adapter", out=tmp_path / "out")
    assert not list(out.glob("model*"))
    assert json.loads((out / "adapter_config.json").read_text())["base_model_name_or_path"] == "my-base"
    base = AutoModelForCausalLM.from_pretrained(SHIPPED)
    merged = peft.PeftModel.from_pretrained(base, out).merge_and_unload()
    with torch.no_grad():
        own = merged(torch.arange(4, 24)[None]).logits
    assert torch.allclose(own, logits(adapted / "checkpoints" / "step-2", dtype=torch.float32), atol=0.1)
    assert not torch.equal(own, logits(SHIPPED))
    assert ModelCard.load(out / "README.md").data.library_name == "peft"
    assert scorl("push", run, "me/mine", "--adapter", "--dry-run", tmp_path / "none") == 2
    assert "has no adapters by themselves" in capsys.readouterr().err


def test_a_card_may_be_edited_and_is_pushed_as_it_is(run, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(run, copy, symlinks=True)
    card = copy / "checkpoints" / "step-2" / "README.md"
    card.write_text("---\nlicense: other\n---\n\n# Mine\n")
    load_model(str(copy), torch.float32)
    assert (push(copy, "me/mine", out=tmp_path / "out") / "README.md").read_text() == card.read_text()
    card.unlink()
    made = (push(copy, "me/mine", out=tmp_path / "made") / "README.md").read_text()
    assert made == (run / "checkpoints" / "step-2" / "README.md").read_text().replace('"."  # this folder', '"me/mine"')


def test_a_checkpoint_alone_is_pushed_by_its_own_card(run, tmp_path, capsys):
    shutil.copytree(run / "checkpoints" / "step-2", tmp_path / "alone")
    push(tmp_path / "alone", "me/mine", out=tmp_path / "out")
    (tmp_path / "alone" / "README.md").unlink()
    assert scorl("push", tmp_path / "alone", "me/mine", "--dry-run", tmp_path / "none") == 2
    assert "has no README.md" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["RUN", "not a name"], "OWNER/NAME would be right"),
        (["nothing/there/at/all", "me/mine"], "no such model folder"),
        (["scorl:countdown-base", "me/mine"], "no run directory and no checkpoint"),
        (["RUN", "me/mine", "--dataset", "a b"], "OWNER/NAME would be right"),
        (["RUN", "me/mine", "--adapter", "--dtype", "bfloat16"], "--dtype is of merged weights"),
    ],
)
def test_what_cannot_be_pushed_is_a_sentence(run, arguments, word, capsys):
    assert scorl("push", *(str(run) if a == "RUN" else a for a in arguments)) == 2
    assert word in capsys.readouterr().err


def test_a_damaged_checkpoint_and_a_secret_are_not_pushed(run, tmp_path, capsys):
    copy = tmp_path / "run"
    shutil.copytree(run, copy, symlinks=True)
    (copy / "checkpoints" / "step-2" / "notes.txt").write_text("HF_TOKEN=hf_" + "a1B2" * 9)
    assert scorl("push", copy, "me/mine", "--dry-run", tmp_path / "out") == 2
    assert "notes.txt: holds what looks like a key" in capsys.readouterr().err
    with (copy / "checkpoints" / "step-2" / "model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"x")
    assert scorl("push", copy, "me/mine", "--dry-run", tmp_path / "out") == 2
    assert "damaged" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_weights_can_be_read_by_whoever_reads_the_rest(run):
    folder = run / "checkpoints" / "step-2"
    modes = {stat.S_IMODE(path.stat().st_mode) for path in folder.glob("*") if path.is_file()}
    assert len(modes) == 1


def test_others_learn_where_responses_end(tmp_path):
    policy = Policy("scorl:countdown-base")
    policy.save(tmp_path / "model")
    before = (tmp_path / "model" / "generation_config.json").read_text()
    assert (
        before == (SHIPPED / "generation_config.json").read_text()
        or GenerationConfig.from_pretrained(tmp_path / "model").eos_token_id == 2
    )
    complete_folder(tmp_path / "model", [7, 2])
    assert GenerationConfig.from_pretrained(tmp_path / "model").eos_token_id == [2, 7]


def test_weights_in_several_files_keep_their_index(tmp_path):
    model = AutoModelForCausalLM.from_pretrained(SHIPPED)
    model.save_pretrained(tmp_path, max_shard_size="400KB")
    shards = sorted(tmp_path.glob("model-*.safetensors"))
    assert len(shards) > 1
    (tmp_path / "cast").mkdir()
    cast = {path.name: cast_file(path, "bfloat16", tmp_path / "cast" / path.name) for path in shards}
    index = json.loads(cast_index((tmp_path / "model.safetensors.index.json").read_bytes(), cast))
    before = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert 2 * index["metadata"]["total_size"] == before["metadata"]["total_size"]
    assert index["weight_map"] == before["weight_map"]


def test_behind_a_run_stands_the_model_that_it_started_from(run, tmp_path):
    second = tmp_path / "second"
    second.mkdir()
    (second / "recipe.yaml").write_text(yaml.safe_dump(load(run) | {"model": {"path": str(run)}}))
    assert find_base(str(second)).name == "scorl:countdown-base"
    assert find_base("someone/some-model") == replace(find_base("someone/some-model"), repo_id="someone/some-model")
    assert redact({"path": "~/data/x.jsonl", "prompt": "1/2 of it"}) == {"path": "x.jsonl", "prompt": "1/2 of it"}


def test_a_card_that_cannot_be_written_ends_no_run(tmp_path, monkeypatch, recwarn):
    def fail(*given):
        raise KeyError("anything")

    monkeypatch.setattr("scorl.hub.card.describe_checkpoint", fail)
    assert scorl("train", "countdown", *SMALL, "--out", tmp_path / "run") == 0
    assert any("README.md is not written: KeyError" in str(warning.message) for warning in recwarn)
    assert not (tmp_path / "run" / "checkpoints" / "step-2" / "README.md").exists()


def test_a_base_whose_card_is_broken_has_no_licence(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "README.md").write_text("---\nlicense: [mit\n---\n")
    assert find_base(str(tmp_path)).licence == {}


def test_hostile_wording_stays_inside_its_block(run, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(run, copy, symlinks=True)
    wording = 'Wrong?\n```\n# {{ 7 * 7 }} <script>alert(1)</script>"""'
    evaluations = json.loads((copy / "evaluation.json").read_text())
    for entry in (evaluations["test"], *evaluations["test"]["history"]):
        entry["task_settings"]["turns"] = {"name": "correction", "correction": wording}
    (copy / "evaluation.json").write_text(json.dumps(evaluations))
    text = describe_checkpoint(RunDirectory(copy), copy / "checkpoints" / "step-2", 2)
    assert f"````text\n{wording}\n````" in text
    code = re.search(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)[1]
    assert json.dumps(wording) in code
    compile(code, "card", "exec")


def test_an_exported_evaluation_is_what_the_hub_reads(run, tmp_path, capsys):
    assert (
        scorl("export-eval", run, "--dataset", "me/countdown", "--date", "2026-01-02", "--out", tmp_path / "x.yaml")
        == 0
    )
    entries = parse_eval_result_entries(yaml.safe_load((tmp_path / "x.yaml").read_text()))
    metrics = json.loads((run / "evaluation.json").read_text())["test"]["metrics"]
    assert [entry.task_id for entry in entries] == ["accuracy_t1", "accuracy_t2", "delta"]
    for entry in entries:
        assert entry.value == pytest.approx(100 * metrics[entry.task_id]["value"], abs=0.01)
        assert (entry.dataset_id, entry.date) == ("me/countdown", "2026-01-02")
        assert "the user says: There might be an error in the solution above." in entry.notes
    assert scorl("export-eval", run) == 2
    assert "--dataset OWNER/NAME" in capsys.readouterr().err
    assert scorl("export-eval", run, "--dataset", "me/countdown", "--wording", "again") == 2
    assert "holds an evaluation in one wording: leave out --wording again" in capsys.readouterr().err


@pytest.mark.parametrize(
    "text",
    [
        *('{"metrics": {}}', "5", "null", "{", '"metrics"', '{"wordings": ["again"]}', '{"wordings": {"again": 5}}'),
        '{"task": "a", "split": "b", "problems": 1, "samples": 1, "temperature": 0, "max_tokens": 1, "metrics": 5}',
    ],
)
def test_what_is_no_evaluation_is_not_exported(text, tmp_path, capsys):
    (tmp_path / "no.json").write_text(text)
    wording = ["--wording", "again"] * text.startswith('{"wordings"')
    assert scorl("export-eval", tmp_path / "no.json", *wording) == 2
    assert "is no evaluation" in capsys.readouterr().err


def test_an_evaluation_of_a_known_data_set_names_it(run):
    latest = json.loads((run / "evaluation.json").read_text())["test"] | {"task": "gsm8k"}
    (first, *_) = parse_eval_result_entries(
        yaml.safe_load(to_yaml(to_entries(latest, "openai/gsm8k", source_url="https://x")))
    )
    assert (first.dataset_id, first.source_url, first.source_name) == ("openai/gsm8k", "https://x", "scorl")


@pytest.mark.parametrize(
    ("task", "path", "dataset"),
    [
        ("gsm8k", None, "openai/gsm8k"),
        ("gsm8k", "data/mine", None),
        ("files", "someone/problems", "someone/problems"),
        ("files", "data/mine.jsonl", None),
        ("countdown", None, None),
    ],
)
def test_a_data_set_is_named_where_it_is_known(task, path, dataset):
    assert dataset_of({"task": task, "task_settings": {"path": path}}) == dataset


def test_results_on_a_split_of_ours_say_so(run):
    latest = json.loads((run / "evaluation.json").read_text())["test"] | {"task": "svamp"}
    assert "(of scorl, not of the data set)" in to_entries(latest, "ChilleD/SVAMP")[0].notes


def test_the_code_of_a_card_ends_responses_where_texts_end_them(run, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(run, copy, symlinks=True)
    folder = copy / "checkpoints" / "step-2"
    (folder / "chat_template.jinja").write_text(TEMPLATES["plain"])
    text = describe_checkpoint(RunDirectory(copy), folder, 2)
    assert r"stop_strings=['\nUser:'], tokenizer=tokenizer)" in text
    assert r"return text.split('\nUser:')[0]" in text


class FakeHub(BaseHTTPRequestHandler):
    """As much of the hub as an upload asks for; keeps what is committed."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        self.server.asked.append(self.path)
        if self.server.refuses:
            return self.answer(401, {"error": "Invalid credentials"})
        if self.path.endswith("/repos/create"):
            self.server.created = json.loads(body)
            return self.answer(200, {"url": f"{self.server.url}/me/mine", "name": "me/mine"})
        if "/preupload/" in self.path:
            names = [file["path"] for file in json.loads(body)["files"]]
            return self.answer(
                200, {"files": [{"path": n, "uploadMode": "regular", "shouldIgnore": False} for n in names]}
            )
        if "/branch/" in self.path:
            return self.answer(200, {})
        if "/commit/" not in self.path:
            return self.answer(200, {"errors": [], "warnings": []})
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                self.server.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
        return self.answer(
            200, {"success": True, "commitOid": "0" * 40, "commitUrl": f"{self.server.url}/me/mine/commit/1"}
        )

    def answer(self, status: int, value: object) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(value).encode())

    def log_message(self, *words):
        pass


@pytest.fixture
def hub(monkeypatch):
    server = ThreadingHTTPServer(("127.0.0.1", 0), FakeHub)
    server.url = f"http://127.0.0.1:{server.server_port}"
    server.files, server.asked, server.refuses = {}, [], False
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    monkeypatch.setattr("huggingface_hub.hf_api.constants.ENDPOINT", server.url)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(
        "scorl.hub.push.HfApi", lambda: __import__("huggingface_hub").HfApi(server.url, token="hf_test")
    )
    monkeypatch.setattr("scorl.hub.push.hub_is_reachable", lambda: True)
    yield server
    server.shutdown()
    server.server_close()


def test_what_is_uploaded_is_what_a_dry_run_writes(run, hub, tmp_path, capsys):
    out = push(run, "me/mine", "--dataset", "me/countdown", out=tmp_path / "out")
    assert scorl("push", run, "me/mine", "--dataset", "me/countdown", "--private", "--revision", "second") == 0
    assert "private" in (hub.created.get("visibility"), *(key for key, on in hub.created.items() if on is True))
    assert any(path.endswith("/branch/second") for path in hub.asked)
    assert any(path.endswith("/commit/second") for path in hub.asked)
    assert hub.files == {p.relative_to(out).as_posix(): p.read_bytes() for p in out.rglob("*") if p.is_file()}
    assert ".eval_results/countdown.yaml" in hub.files
    hub.refuses = True
    assert scorl("push", run, "me/mine") == 2
    assert "the hub refuses me/mine" in capsys.readouterr().err


def test_without_the_hub_it_is_said(run, monkeypatch, capsys):
    monkeypatch.setattr("scorl.hub.push.hub_is_reachable", lambda: False)
    assert scorl("push", run, "me/mine") == 2
    assert "the hub cannot be reached. --dry-run DIR" in capsys.readouterr().err


def test_a_run_knows_its_checkpoint(run):
    assert find_checkpoint(str(run / "checkpoints" / "best")).step in (1, 2)
