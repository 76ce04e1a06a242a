"""Tiny models with random weights of the architectures that people bring, by transformers' names for them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from packaging.version import Version
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

from support.worlds import save_tokenizer

__all__ = ["FAMILIES", "Family", "save_family"]


@dataclass(frozen=True)
class Family:
    """An architecture."""

    kind: str
    """Transformers' name of its configuration."""
    known_as: str
    """Models of it that people know."""
    settings: dict[str, Any] = field(default_factory=dict)
    """What differs from `SMALL`; None leaves a setting out."""
    sees: bool = False
    """Whether it is a wrapper that also sees pictures."""
    since: str = "0"
    """The first version of transformers that has it, where the lowest that scorl works with has it not."""


SMALL = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}
FOUR = {"num_hidden_layers": 4}
HEAD = {"head_dim": 16}
WINDOW = {"sliding_window": 16}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
SHARED = EXPERTS | {"shared_expert_intermediate_size": 32}
ROUTED = {"n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1, "moe_intermediate_size": 32}
LOCAL = {"num_local_experts": 4, "num_experts_per_tok": 2}
DELTA = {
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
}
MAMBA = {"mamba_n_heads": 8, "mamba_d_head": 16, "mamba_d_state": 16, "mamba_chunk_size": 16}
"""A scan fills its last chunk up, and those of 256 take most of the time."""
CONV = {"layer_types": ["conv", "full_attention"] * 2}
PIXTRAL = {
    "model_type": "pixtral",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 8,
}

FAMILIES = {
    "llama": Family("llama", "Llama 3, SmolLM2, DeepSeek distillations"),
    "qwen2": Family("qwen2", "Qwen2.5, Qwen2.5-Coder, Qwen2.5-Math"),
    "qwen3": Family("qwen3", "Qwen3", HEAD),
    "qwen3-moe": Family("qwen3_moe", "Qwen3-30B-A3B, Qwen3-Coder", HEAD | EXPERTS),
    "qwen3-next": Family("qwen3_next", "Qwen3-Next", HEAD | FOUR | SHARED | DELTA),
    "qwen3.5": Family("qwen3_5_text", "Qwen3.5, Qwen3.6", HEAD | FOUR | DELTA),
    "qwen3.5-moe": Family("qwen3_5_moe_text", "Qwen3.5 and 3.6 with experts", HEAD | FOUR | SHARED | DELTA),
    "mistral": Family("mistral", "Mistral 7B", WINDOW),
    "ministral3": Family("ministral3", "Ministral 3", HEAD),
    "mistral3": Family("mistral3", "Mistral Small 3, which also sees", HEAD | {"vision_config": PIXTRAL}, sees=True),
    "mixtral": Family("mixtral", "Mixtral", LOCAL),
    "gemma2": Family("gemma2", "Gemma 2", HEAD | WINDOW),
    "gemma3": Family("gemma3_text", "Gemma 3", HEAD | WINDOW | {"num_hidden_layers": 6}),
    "gemma3n": Family("gemma3n_text", "Gemma 3n", HEAD | WINDOW | FOUR | {
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "num_kv_shared_layers": 2,
        "intermediate_size": [128] * 4,
        "hidden_size_per_layer_input": 16,
        "laurel_rank": 8,
        "activation_sparsity_pattern": [0.0] * 4,
    }),
    "gemma4": Family("gemma4_text", "Gemma 4", HEAD | WINDOW | {
        "global_head_dim": 16,
        "num_hidden_layers": 6,
        "vocab_size_per_layer_input": 64,
        "hidden_size_per_layer_input": 16,
    }),
    "phi3": Family("phi3", "Phi-3, Phi-4", {"sliding_window": 64}),
    "gpt2": Family("gpt2", "GPT-2"),
    "pythia": Family("gpt_neox", "Pythia"),
    "opt": Family("opt", "OPT", {"ffn_dim": 128, "word_embed_proj_dim": 64}),
    "olmo2": Family("olmo2", "OLMo 2"),
    "olmo3": Family("olmo3", "OLMo 3", FOUR | WINDOW),
    "olmo-hybrid": Family("olmo_hybrid", "OLMo Hybrid", FOUR),
    "granite": Family("granite", "Granite 3, Granite 4 dense", {
        "logits_scaling": 8.0,
        "embedding_multiplier": 12.0,
        "attention_multiplier": 0.015625,
        "residual_multiplier": 0.22,
    }),
    "granite-hybrid": Family("granitemoehybrid", "Granite 4", FOUR | LOCAL | MAMBA | {
        "shared_intermediate_size": 64,
        "mamba_expand": 2,
        "layer_types": ["mamba", "mamba", "attention", "mamba"],
    }),
    "smollm3": Family("smollm3", "SmolLM3", FOUR),
    "gpt-oss": Family("gpt_oss", "gpt-oss", HEAD | LOCAL | WINDOW),
    "lfm2": Family("lfm2", "LFM2, LFM2.5", FOUR | CONV),
    "lfm2-moe": Family("lfm2_moe", "LFM2-8B-A1B", FOUR | EXPERTS | CONV | {"num_dense_layers": 1}),
    "falcon-h1": Family("falcon_h1", "Falcon-H1", MAMBA | {"mamba_d_ssm": 128, "lm_head_multiplier": 0.5}),
    "mamba2": Family("mamba2", "Mamba 2, Codestral Mamba", {
        "num_heads": 8,
        "head_dim": 16,
        "state_size": 16,
        "expand": 2,
        "n_groups": 1,
        "chunk_size": 16,
    }),
    "jamba": Family("jamba", "Jamba", FOUR | {
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "num_experts": 2,
        "use_mamba_kernels": False,
        "mamba_d_state": 16,
    }),
    "nemotron-h": Family("nemotron_h", "Nemotron-H, Nemotron Nano 2 and 3", {
        "num_hidden_layers": None,
        "layers_block_type": ["mamba", "attention", "mlp", "mamba"],
        "mamba_num_heads": 8,
        "mamba_head_dim": 16,
        "ssm_state_size": 16,
        "n_groups": 1,
        "chunk_size": 16,
    }),
    "kimi-linear": Family("kimi_linear", "Kimi-Linear", FOUR | {
        "layer_types": ["linear_attention"] * 3 + ["full_attention"],
        "num_experts": 4,
        "num_experts_per_token": 2,
        "moe_intermediate_size": 32,
        "linear_head_dim": 16,
        "linear_num_heads": 2,
        "num_key_value_heads": 4,
        "kv_lora_rank": 16,
        "qk_nope_head_dim": 8,
        "qk_rope_head_dim": 8,
        "v_head_dim": 16,
    }, since="5.17.0"),
    "deepseek-v3": Family("deepseek_v3", "DeepSeek-V3, R1, Kimi K2", ROUTED | {
        "num_key_value_heads": 4,
        "q_lora_rank": 16,
        "kv_lora_rank": 16,
        "qk_rope_head_dim": 8,
        "qk_nope_head_dim": 8,
        "v_head_dim": 16,
        "first_k_dense_replace": 1,
        "n_shared_experts": 1,
    }),
    "glm4": Family("glm4", "GLM-4", HEAD),
    "glm4-moe": Family("glm4_moe", "GLM-4.5, GLM-4.6", HEAD | ROUTED | {"first_k_dense_replace": 1}),
    "llama4": Family("llama4_text", "Llama 4", HEAD | FOUR | {
        "num_local_experts": 2,
        "intermediate_size_mlp": 128,
        "attention_chunk_size": 64,
    }),
    "cohere2": Family("cohere2", "Command R7B, Aya", FOUR | WINDOW),
    "bloom": Family("bloom", "BLOOM"),
    "falcon": Family("falcon", "Falcon", {"alibi": False}),
    "stablelm": Family("stablelm", "StableLM 2"),
    "exaone4": Family("exaone4", "EXAONE 4", FOUR | WINDOW),
    "seed-oss": Family("seed_oss", "Seed-OSS", HEAD),
    "ernie4.5": Family("ernie4_5", "ERNIE 4.5", HEAD),
    "minimax-m2": Family("minimax_m2", "MiniMax-M2", HEAD | LOCAL),
    "rwkv": Family("rwkv", "RWKV 4", {"attention_hidden_size": 64, "num_attention_heads": None}),
    "xlstm": Family("xlstm", "xLSTM", {"num_heads": 4, "qk_dim_factor": 0.5, "v_dim_factor": 1.0}),
    "deepseek-v3.2": Family("deepseek_v32", "DeepSeek-V3.2", {}),
}  # fmt: skip


def save_family(name: str, folder: Path, **more: Any) -> str:
    """Write a tiny model of a family, with more settings, with a tokenizer and a chat template; the folder's path."""
    family = FAMILIES[name]
    if Version(transformers.__version__) < Version(family.since):
        pytest.skip(f"{family.kind} wants transformers {family.since} or newer")
    words = save_tokenizer(folder)
    ids = {"vocab_size": len(words), "bos_token_id": None, "eos_token_id": 1, "pad_token_id": 0}
    settings = {key: value for key, value in (SMALL | ids | family.settings | more).items() if value is not None}
    if family.sees:
        vision = settings.pop("vision_config")
        settings = {"text_config": settings | {"model_type": "mistral"}, "vision_config": vision}
    config = AutoConfig.for_model(family.kind, **settings)
    torch.manual_seed(0)
    model = (AutoModelForImageTextToText if family.sees else AutoModelForCausalLM).from_config(config)
    for parameter in model.parameters():  # far from uniform, so that a wrong state or position shows
        parameter.data += 0.1 * torch.randn_like(parameter)
    model.generation_config.eos_token_id = 1
    model.save_pretrained(folder)
    return str(folder)
