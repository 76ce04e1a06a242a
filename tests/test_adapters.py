"""Adapters: where they go, what they amount to, where they come from."""

import json
import shutil
import warnings
from dataclasses import replace

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from support.families import save_family
from support.worlds import save_model
from transformers import AutoModelForCausalLM

from scorl.cli.sampling import resolve_sampler
from scorl.errors import UserError
from scorl.model.adapters import adapters_are_plain
from scorl.model.loading import resolve_model
from scorl.model.policy import Policy
from scorl.model.reference import Reference
from scorl.settings import LoraSettings

IDS = torch.tensor([[4, 5, 6, 7, 8, 2, 3]])


@torch.no_grad()
def logits(policy):
    return policy.decoder(input_ids=IDS, use_cache=False).logits


def train(policy):
    """Weights as training leaves them."""
    torch.manual_seed(3)
    for parameter in policy.parameters.values():
        parameter.data += 0.2 * torch.randn_like(parameter)


def targets(policy):
    return {name.split(".")[-4 if "default" in name else -2] for name in policy.parameters if "lora_A" in name}


EXPERTS = ("experts.gate_up_proj", "experts.down_proj")


@pytest.mark.parametrize("family", ["qwen3-moe", "gpt-oss", "llama4", "granite"])
@pytest.mark.parametrize("on", [True, False], ids=["on", "off"])
def test_what_is_saved_is_what_was_computed(tmp_path, family, on):
    parts = () if family == "granite" else EXPERTS
    lora = LoraSettings(r=2, target_parameters=parts, modules_to_save=("input_layernorm",))
    policy = Policy(save_family(family, tmp_path / "base"), lora=lora)
    before = logits(policy)
    train(policy)
    assert not torch.allclose(logits(policy), before, atol=1e-3)
    if on:
        policy.save(tmp_path / "saved")
        expected = logits(policy)
    else:
        with Reference(policy).in_place():
            policy.save(tmp_path / "saved")
        expected = before
    torch.testing.assert_close(logits(Policy(str(tmp_path / "saved"))), expected, atol=1e-4, rtol=1e-4)


def test_the_weights_that_are_sent_have_plain_names(tmp_path):
    lora = LoraSettings(r=2, target_parameters=EXPERTS, modules_to_save=("input_layernorm",))
    policy = Policy(save_family("qwen3-moe", tmp_path), lora=lora)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path).named_parameters()
    assert {name for name, _ in policy.weights()} == {name for name, _ in plain}


@pytest.mark.parametrize("family", ["llama4", "mamba2", "nemotron-h", "falcon-h1"])
def test_all_linear_leaves_out_routers_and_what_fused_kernels_read(tmp_path, family):
    policy = Policy(save_family(family, tmp_path), lora=LoraSettings(r=2))
    assert targets(policy)
    assert not targets(policy) & {"router", "gate", "out_proj", "lm_head"}


def test_experts_that_stay_as_they_are_are_said(tmp_path):
    with pytest.warns(UserWarning, match=r"experts, \d+% of the weights, .*feed_forward.experts.gate_up_proj"):
        Policy(save_family("llama4", tmp_path / "llama4"), lora=LoraSettings(r=2))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        policy = Policy(save_family("qwen3-moe", tmp_path / "qwen3-moe"), lora=LoraSettings(r=2))
    assert any("experts" in name for name in policy.parameters)


@pytest.mark.parametrize("wanted", ["q_proj", "q_proj, v_proj", ("q_proj",), r".*self_attn\.q_proj"])
def test_targets_are_names_or_a_pattern(tmp_path, wanted):
    policy = Policy(save_model(tmp_path), lora=LoraSettings(r=2, target_modules=wanted))
    assert targets(policy) == ({"q_proj", "v_proj"} if "v_proj" in wanted else {"q_proj"})


@pytest.mark.parametrize(
    "lora", [LoraSettings(target_modules=("lm_head",)), LoraSettings(modules_to_save=("lm_head",))]
)
def test_the_output_head_takes_no_adapter(tmp_path, lora):
    with pytest.raises(UserError, match="reach the output head"):
        Policy(save_family("llama", tmp_path), lora=lora)


@pytest.fixture
def written(tmp_path):
    """A model, adapters of it as peft writes them, and both merged."""
    save_model(tmp_path / "base")
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    adapted = get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
    adapted.save_pretrained(tmp_path / "adapters")
    shutil.copytree(tmp_path / "base", tmp_path / "merged")
    adapted.merge_and_unload().save_pretrained(tmp_path / "merged")
    return tmp_path


def test_a_folder_of_adapters_is_its_base_model_with_them(written):
    alone, merged = Policy(str(written / "adapters")), Policy(str(written / "merged"))
    torch.testing.assert_close(logits(alone), logits(merged))
    assert not resolve_model(str(written / "adapters")).are_plain


def test_a_run_goes_on_from_adapters(written):
    lora = LoraSettings(adapter=str(written / "adapters"))
    policy = Policy(str(written / "base"), lora=lora)
    torch.testing.assert_close(logits(policy), logits(Policy(str(written / "merged"))), atol=1e-5, rtol=1e-5)
    assert targets(policy) == {"q_proj"}
    assert Reference(policy).follows_trained_adapters()
    policy.save_adapters(written / "again")
    saved = load_file(written / "again" / "adapter_model.safetensors")
    for name, weight in load_file(written / "adapters" / "adapter_model.safetensors").items():
        assert torch.equal(saved[name], weight)


def test_a_run_without_stages_is_sampled_with_its_template_and_adapters(written, monkeypatch):
    """A checkpoint has both in its files; the model that such a run starts from has not."""
    base, adapters = str(written / "base"), str(written / "adapters")
    model = f"{{path: {base}, chat_template: plain, lora: {{adapter: {adapters}}}}}"
    (written / "recipe.yaml").write_text(f"model: {model}\ntask: {{name: countdown}}\nstages: []\n")
    sampler = resolve_sampler(str(written), "vllm", [])
    assert (sampler.model.path, sampler.model.chat_template, sampler.model.lora.adapter) == (base, "plain", adapters)
    assert resolve_sampler(str(written), "torch", ["model.lora=null"]).model.lora is None
    monkeypatch.setattr("scorl.engines.vllm.engine.VllmEngine", lambda model, settings: model)
    monkeypatch.setattr("scorl.engines.vllm.shared.share_engine", lambda engine, ranks: engine)
    expected = logits(Policy(str(written / "merged")))
    torch.testing.assert_close(logits(sampler.build()), expected, atol=1e-5, rtol=1e-5)


def test_merged_weights_beside_their_adapters_are_refused(written):
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copy(written / "adapters" / name, written / "merged")
    with pytest.raises(UserError, match=r"a second time: move adapter_config.json"):
        Policy(str(written / "merged"))


@pytest.mark.parametrize(
    ("base", "why"),
    [(None, "do not name their base model"), ("./gone", "is not found"), ([], "do not name their base model")],
)
def test_adapters_without_their_base_model_are_refused(written, base, why):
    file = written / "adapters" / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"base_model_name_or_path": base}))
    with pytest.raises(UserError, match=f"adapters alone.*{why}.*model.lora.adapter="):
        Policy(str(written / "adapters"))


def test_a_folder_that_holds_no_adapters_is_none(written):
    with pytest.raises(UserError, match=r"model.lora.adapter: .* has no adapter_config.json"):
        Policy(str(written / "base"), lora=LoraSettings(adapter=str(written / "base")))


@pytest.mark.parametrize("kind", [{"use_dora": True}, {"lora_bias": True}, {"bias": "lora_only"}])
def test_adapters_that_could_not_be_saved_merged_are_not_trained_on(written, kind):
    base = AutoModelForCausalLM.from_pretrained(written / "base")
    get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj"], **kind)).save_pretrained(written / "odd")
    with pytest.raises(UserError, match=r"only plain LoRA is trained on. model.path=.* trains from it merged"):
        Policy(str(written / "base"), lora=LoraSettings(adapter=str(written / "odd")))
    if "use_dora" in kind:
        Policy(str(written / "odd"))


def test_adapters_of_adapters_are_refused(written):
    file = written / "adapters" / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"base_model_name_or_path": str(written / "adapters")}))
    with pytest.raises(UserError, match="that is adapters itself: merge those first"):
        Policy(str(written / "adapters"))


def test_adapters_of_another_model_are_refused(written):
    save_model(written / "wide", width=64)
    for settings in (
        {"path": str(written / "wide"), "lora": LoraSettings(adapter=str(written / "adapters"))},
        {"path": str(written / "wide"), "lora": LoraSettings(target_modules="*_proj")},
    ):
        with pytest.raises(UserError, match=r"model.lora.(adapter|target_modules): "):
            Policy(**settings)


@pytest.mark.parametrize(
    ("lora", "why"),
    [
        (LoraSettings(target_modules=("q_proj", "vproj")), "target_modules: vproj is nowhere .* 'v_proj'"),
        (LoraSettings(target_parameters=("experts.gate_upz",)), "target_parameters: experts.gate_upz is nowhere"),
        (LoraSettings(modules_to_save=("normz",)), "modules_to_save: normz is nowhere"),
        (LoraSettings(adapter="ADAPTERS", target_modules=("q_proj",)), "brings targets of its own"),
    ],
)
def test_names_that_nothing_has_are_refused(written, lora, why):
    if lora.adapter:
        lora = replace(lora, adapter=str(written / "adapters"))
    with pytest.raises(UserError, match=why):
        Policy(str(written / "base"), lora=lora)


def test_modules_that_are_trained_whole_are_in_float32(tmp_path):
    lora = LoraSettings(r=2, modules_to_save=("input_layernorm",))
    policy = Policy(save_family("llama", tmp_path), dtype="bfloat16", lora=lora)
    assert {p.dtype for p in policy.parameters.values()} == {torch.float32}
    with policy.precision():
        assert logits(policy).isfinite().all()


def test_a_run_in_half_precision_goes_on_from_modules_that_were_trained_whole(written):
    lora = LoraSettings(r=2, target_modules=("q_proj",), modules_to_save=("input_layernorm",))
    first = Policy(str(written / "base"), dtype="bfloat16", lora=lora)
    train(first)
    first.save_adapters(written / "whole")
    policy = Policy(str(written / "base"), dtype="bfloat16", lora=LoraSettings(adapter=str(written / "whole")))
    assert {p.dtype for p in policy.parameters.values()} == {torch.float32}
    with first.precision():
        expected = logits(first)
    with policy.precision():
        torch.testing.assert_close(logits(policy), expected, atol=1e-2, rtol=1e-2)  # peft reads them in the base's type


@pytest.mark.parametrize(
    ("lora", "plain"),
    [
        (LoraSettings(r=2, target_modules=("q_proj",)), True),
        (LoraSettings(r=2), False),  # to which peft adds the experts
        (LoraSettings(r=2, target_modules=("q_proj",), modules_to_save=("norm",)), False),
        (None, False),
    ],
)
def test_vllm_takes_adapters_of_linear_layers_alone(tmp_path, lora, plain):
    assert adapters_are_plain(Policy(save_family("qwen3-moe", tmp_path), lora=lora)) == plain


def test_four_bits_want_bitsandbytes(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "bitsandbytes", None)
    with pytest.raises(UserError, match=r"pip install 'scorl\[qlora\]'"):
        Policy(save_model(tmp_path), lora=LoraSettings(load_in_4bit=True))


def test_weights_of_four_bits_are_saved_in_full(tmp_path):
    pytest.importorskip("bitsandbytes")
    policy = Policy(save_family("llama", tmp_path / "base"), lora=LoraSettings(r=2, load_in_4bit=True))
    train(policy)
    policy.save(tmp_path / "saved")
    torch.testing.assert_close(logits(Policy(str(tmp_path / "saved"))), logits(policy), atol=1e-4, rtol=1e-4)
