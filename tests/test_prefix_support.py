"""The trial of whether samples may share their prompt, in every type; the type of cached keys and values."""

import warnings

import pytest
import torch
from support.worlds import save_model
from transformers import AttentionInterface, AutoConfig, AutoModelForCausalLM
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from scorl.engines import Request, shared_prefix
from scorl.engines.kv_cache import CachedRows
from scorl.engines.prefix_support import try_shared_prefix
from scorl.engines.reference import ReferenceEngine
from scorl.engines.torch import TorchEngine
from scorl.model.policy import Policy
from scorl.model.reference import Reference
from scorl.settings import LoraSettings

HALF = ["bfloat16", "float16"]
WAYS = [("float32", None), *[(dtype, lora) for dtype in HALF for lora in (None, LoraSettings(r=2))]]


def policy_of(folder, dtype, lora=None, kind="llama"):
    """A model of several layers, whose queries share key heads."""
    save_model(folder)
    torch.manual_seed(0)
    sizes = {"vocab_size": 13, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4, "head_dim": 16}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.15}
    AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **sizes, **heads, eos_token_id=1)).save_pretrained(
        folder
    )
    return Policy(str(folder), dtype=dtype, device="cpu", lora=lora)


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize(("dtype", "lora"), WAYS)
def test_samples_share_their_prompt_in_every_type(tmp_path, dtype, lora, kind):
    assert try_shared_prefix(policy_of(tmp_path, dtype, lora, kind)) is None


def ignore_prefix(module, query, key, value, mask, *, shared_prefix=None, **more):
    mask = mask if mask is None else mask[..., -key.shape[2] :]
    return sdpa_attention_forward(module, query, key, value, mask, **more)


def lose_token(module, query, key, value, mask, **more):
    if more.get("shared_prefix") is not None:
        mask = mask.clone()
        mask[..., 0] = -torch.inf
    return ATTEND(module, query, key, value, mask, **more)


def scale_otherwise(module, *states, shared_prefix=None, scaling=None, **more):
    if shared_prefix is not None:
        scaling *= 1.02
    return ATTEND(module, *states, shared_prefix=shared_prefix, scaling=scaling, **more)


ATTEND = shared_prefix._attend


@pytest.mark.parametrize("attend", [ignore_prefix, lose_token])
@pytest.mark.parametrize(("dtype", "lora"), WAYS)
def test_a_model_that_attends_otherwise_is_refused_in_every_type(tmp_path, monkeypatch, dtype, lora, attend):
    policy = policy_of(tmp_path, dtype, lora)
    monkeypatch.setitem(AttentionInterface._global_mapping, shared_prefix._NAME, attend)
    assert "attends to them otherwise" in try_shared_prefix(policy)


@pytest.mark.parametrize("dtype", ["float32", *HALF])
def test_a_fault_that_rounding_hides_is_found_in_the_float32_of_the_weights(tmp_path, monkeypatch, dtype):
    policy = policy_of(tmp_path, dtype)
    monkeypatch.setitem(AttentionInterface._global_mapping, shared_prefix._NAME, scale_otherwise)
    assert "attends to them otherwise" in try_shared_prefix(policy)


@pytest.mark.parametrize(("dtype", "lora"), WAYS)
def test_keys_and_values_are_cached_in_the_type_that_is_computed_in(tmp_path, dtype, lora):
    policy = policy_of(tmp_path, dtype, lora)
    prompt = torch.tensor([[4, 5, 6]])
    with torch.inference_mode(), policy.precision():
        rows = CachedRows.empty(policy.decoder, prompt[:, :0])
        rows.extend(policy.decoder, prompt)
        rows.extend(policy.decoder, prompt[:, :1])
    for layer in rows.cache.layers:
        assert {x.dtype for x in (layer.keys, layer.values, *layer._buffers)} == {policy.dtype}
    numbers = 4 * 2 * 4 * 16  # layers, key heads, tokens, size of a head
    assert rows.column_bytes * 4 == 2 * numbers * policy.dtype.itemsize


@pytest.mark.parametrize(("dtype", "lora"), WAYS[1:])
def test_an_engine_in_half_precision_forks_a_prompt_without_a_warning(tmp_path, monkeypatch, dtype, lora):
    policy, forked = policy_of(tmp_path, dtype, lora), []
    fork = CachedRows.fork
    monkeypatch.setattr(CachedRows, "fork", lambda rows, parents: forked.append(len(parents)) or fork(rows, parents))
    prompt = tuple(4 + i % 8 for i in range(40))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        TorchEngine(policy).sample([Request(prompt, seed) for seed in range(6)], temperature=1.0, max_tokens=3)
    assert forked[-1] == 6  # behind the trial's
    assert set(forked[:-1]) == {2}


@pytest.mark.parametrize("dtype", HALF)
def test_the_reference_may_sample_first(tmp_path, monkeypatch, dtype):
    policy = policy_of(tmp_path, dtype)
    engine, prompt = TorchEngine(policy), Request(tuple(4 + i % 8 for i in range(40)), 0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ReferenceEngine(engine, Reference(policy)).sample([prompt], temperature=1.0, max_tokens=3)
    monkeypatch.setitem(AttentionInterface._global_mapping, shared_prefix._NAME, scale_otherwise)
    with pytest.warns(UserWarning, match="attends to them otherwise"):  # in float32, where the policy's own is tried
        engine.sample([prompt], temperature=1.0, max_tokens=3)
