"""Liger's kernels in the layers: what is asked of it, and what cannot work is refused."""

import sys
import types

import pytest
import torch
from support.worlds import tiny_policy
from transformers import AutoConfig

from scorl.errors import UserError
from scorl.learner import Learner
from scorl.model.liger import choose_liger, use_liger_kernel
from scorl.recipe import decide, resolve
from scorl.settings import LearnerSettings


def test_liger_is_refused_on_a_cpu(tmp_path):
    with pytest.raises(UserError, match="on a CPU set it to false"):
        Learner(tiny_policy(tmp_path), LearnerSettings(use_liger_kernel=True), total=1)


class TestLiger:
    """Of Liger itself nothing runs without a GPU: what it is asked for."""

    @pytest.fixture
    def policy(self, tmp_path):
        policy = tiny_policy(tmp_path)
        policy.device = torch.device("cuda")
        return policy

    def install(self, monkeypatch, patches):
        patch = types.ModuleType("monkey_patch")
        patch.MODEL_TYPE_TO_APPLY_LIGER_FN = patches
        for name in ("liger_kernel", "liger_kernel.transformers"):
            monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
        monkeypatch.setitem(sys.modules, "liger_kernel.transformers.monkey_patch", patch)

    def test_layers_are_exchanged_and_losses_stay(self, policy, monkeypatch):
        asked = []

        def patch(rope=True, cross_entropy=True, fused_linear_cross_entropy=True, model=None):
            asked.append((rope, cross_entropy, fused_linear_cross_entropy, model))

        self.install(monkeypatch, {policy.decoder.config.model_type: patch})
        use_liger_kernel(policy)
        assert asked == [(True, False, False, policy.decoder)]

    def test_a_model_without_kernels_is_refused(self, policy, monkeypatch):
        self.install(monkeypatch, {})
        with pytest.raises(UserError, match="none for models of the type"):
            use_liger_kernel(policy)

    def test_auto_is_where_it_pays_is_installed_and_knows_the_layers(self, monkeypatch):
        gpu, cpu = torch.device("cuda"), torch.device("cpu")
        monkeypatch.setitem(sys.modules, "liger_kernel", None)
        assert not choose_liger("auto", gpu, "vllm", lambda: "qwen2")
        self.install(monkeypatch, {"qwen2": print})
        assert choose_liger("auto", gpu, "vllm", lambda: "qwen2")
        assert not choose_liger("auto", gpu, "vllm", lambda: "gpt2")
        assert not choose_liger("auto", gpu, "torch", lambda: "qwen2")
        assert not choose_liger("auto", cpu, "vllm", lambda: "qwen2")
        assert choose_liger(True, cpu, "torch", lambda: "gpt2")  # whoever asks for it hears why not
        assert not choose_liger(False, gpu, "vllm", lambda: "qwen2")

    def test_a_liger_that_cannot_be_imported_is_not_taken_and_named_where_it_is_asked_for(self, policy, monkeypatch):
        def broken(name):
            raise RuntimeError("0 active drivers")

        monkeypatch.setattr("scorl.model.liger.importlib.import_module", broken)
        assert not choose_liger("auto", policy.device, "vllm", lambda: "qwen2")
        with pytest.raises(UserError, match=r"use_liger_kernel.*RuntimeError: 0 active drivers"):
            use_liger_kernel(policy)

    def test_it_is_decided_by_the_type_of_the_decoder_that_is_loaded(self, monkeypatch):
        """A configuration of many parts has another: `llama4`, where its decoder is a `llama4_text`."""
        self.install(monkeypatch, {"llama4_text": print})
        recipe = resolve("countdown", ["model.path=some/model"])
        whole = AutoConfig.for_model("llama4")
        monkeypatch.setattr("scorl.model.loading.load_pretrained", lambda kind, name: whole)
        assert decide(recipe, torch.device("cuda"), vllm=True).learner.use_liger_kernel

    def test_it_must_be_installed(self, policy, monkeypatch):
        monkeypatch.setitem(sys.modules, "liger_kernel", None)
        with pytest.raises(UserError, match=r"scorl\[liger\]"):
            use_liger_kernel(policy)
