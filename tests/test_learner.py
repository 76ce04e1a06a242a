"""The learner: its gradient does not depend on how a step is cut; its guards stop a run that trains on nonsense."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from support.engine_contract import shaken
from support.lessons import gradient, make_examples
from support.plain import kl_of_rows
from support.worlds import save_model, tiny_policy
from transformers import AutoConfig, AutoModelForCausalLM, Cohere2Config, GraniteConfig, LlamaForCausalLM

from scorl.errors import UserError
from scorl.learner import GuardError, Learner
from scorl.learner.batch import micro_batches
from scorl.learner.head_block import BLOCK_BYTES
from scorl.learner.loss import importance, kl_to_go, loss
from scorl.learner.schedule import learning_rate
from scorl.learner.state import read_state, write_state
from scorl.model.logprobs import log_probabilities
from scorl.model.policy import Policy
from scorl.settings import KL_IN, LearnerSettings, LoraSettings
from scorl.trajectory import Credit, TrainingExample


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return tiny_policy(tmp_path_factory.mktemp("model"))


SIZES = {
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
    "max_position_embeddings", "eos_token_id", "pad_token_id", "bos_token_id",
}  # fmt: skip


@pytest.fixture(scope="module")
def examples(policy):
    return make_examples(policy)


def close(one, other):
    for name in one:
        torch.testing.assert_close(one[name], other[name], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("kl", "kl_in"), [(kl, place) for kl, places in KL_IN.items() for place in places])
def test_the_gradient_does_not_depend_on_micro_batches_padding_or_order(policy, examples, kl, kl_in):
    settings = LearnerSettings(kl=kl, kl_in=kl_in)
    whole, statistics = gradient(policy, examples, settings)
    single, single_statistics = gradient(policy, examples, replace(settings, tokens_per_microbatch=1))
    shuffled, _ = gradient(policy, examples[::-1], replace(settings, tokens_per_microbatch=100))
    close(whole, single)
    close(whole, shuffled)
    assert statistics.loss == pytest.approx(single_statistics.loss, abs=1e-5)
    assert statistics.kl == pytest.approx(single_statistics.kl, abs=1e-5)
    assert statistics.gap < 1e-4


@pytest.mark.parametrize("packing", ["prefix_tree", "packed", "padded"])
def test_one_two_and_four_micro_batches_have_one_gradient(policy, examples, packing):
    """But for the order of float32's sums: three millionths of each tensor's largest element."""
    found = {}
    for tokens in (10_000, *range(200, 20, -1)):
        count = len(micro_batches(examples, tokens, packing))
        if count in (1, 2, 4) and count not in found:
            settings = LearnerSettings(packing=packing, tokens_per_microbatch=tokens)
            found[count], _ = gradient(policy, examples, settings)
    assert found.keys() == {1, 2, 4}
    for name, whole in found[1].items():
        for count in (2, 4):
            assert (found[count][name] - whole).abs().max() < 3e-6 * whole.abs().max()


def test_the_gradient_does_not_depend_on_the_chunks_of_the_head(policy, examples, monkeypatch):
    whole, _ = gradient(policy, examples, LearnerSettings())
    monkeypatch.setitem(BLOCK_BYTES, "cpu", 4 * 70)
    chunked, _ = gradient(policy, examples, LearnerSettings())
    close(whole, chunked)


def test_the_loss_is_what_its_formula_says(policy, examples):
    """Everything again in the plainest way, row by row and attempt by attempt."""
    settings = LearnerSettings()
    _, statistics = gradient(policy, examples, settings)
    learner = Learner(policy, settings, total=1)
    torch.manual_seed(0)
    for parameter in learner.reference.head.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    total = 0.0
    for example in examples:
        for attempt, credit in zip(example.trajectory.attempts, example.credits, strict=True):
            ids = torch.tensor([attempt.prompt_ids + attempt.ids])
            span = slice(len(attempt.prompt_ids) - 1, -1)
            with torch.no_grad():
                pi = log_probabilities(policy.model(ids).logits[0, span], 1.0)
                ref = log_probabilities(learner.reference.head(ids).logits[0, span], 1.0)
            kl = (pi.exp() * (pi - ref)).sum(-1)
            logp = pi[range(len(attempt.ids)), list(attempt.ids)]
            to_go = kl.sum() - kl.cumsum(0)
            total += float(
                (credit.beta * kl - (credit.advantage - credit.beta * to_go + credit.imitation) * logp).sum()
            )
    assert statistics.loss == pytest.approx(total / len(examples), abs=1e-4)


@pytest.mark.parametrize(
    "config", [GraniteConfig(logits_scaling=8.0), Cohere2Config(logit_scale=0.25)], ids=["granite", "cohere2"]
)
def test_a_head_that_scales_its_logits(tmp_path, config):
    """Sampled, learned from and scored as the model's own forward has it."""
    base = save_model(tmp_path)
    for name, value in AutoConfig.from_pretrained(base).to_dict().items():
        if name in SIZES:
            setattr(config, name, value)
    config.layer_types = ["full_attention"] * 2
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(base)
    policy = shaken(Policy(base, device="cpu"))
    rows = make_examples(policy)
    _, statistics = gradient(policy, rows, LearnerSettings())
    assert statistics.gap < 1e-4
    test_the_loss_is_what_its_formula_says(policy, rows)


def test_kl_to_go_by_hand(examples):
    (batch,) = micro_batches(examples[:2], 10_000, "prefix_tree")
    kl = torch.arange(1.0, len(batch.prediction) + 1)
    after, from_here = kl_to_go(kl, batch, inclusive=False), kl_to_go(kl, batch, inclusive=True)
    first = int(batch.length[0])
    assert from_here[:first].tolist() == [sum(range(i, first + 1)) for i in range(1, first + 1)]
    assert torch.equal(from_here - after, kl)


def test_estimators_by_hand():
    policy, reference = torch.tensor([[0.5, 0.25, 0.25]]).log(), torch.tensor([[0.25, 0.5, 0.25]]).log()
    target, ln2 = torch.tensor([0]), math.log(2)
    assert kl_of_rows("exact", policy, reference, target).item() == pytest.approx(0.25 * ln2)
    assert kl_of_rows("k1", policy, reference, target).item() == pytest.approx(ln2)
    assert kl_of_rows("k2", policy, reference, target).item() == pytest.approx(ln2**2 / 2)
    assert kl_of_rows("k3", policy, reference, target).item() == pytest.approx(0.5 - 1 + ln2)


def test_importance_weights_by_hand(examples):
    pi, mu = torch.tensor([0.5, 0.2, 0.9]).log(), torch.tensor([0.25, 0.4, 0.001]).log()
    assert importance(pi, mu, 2.5).tolist() == pytest.approx([2.0, 0.5, 2.5])
    (batch,) = micro_batches(examples[:2], 10_000, "prefix_tree")
    logprobs = (batch.sampled + math.log(1.5)).requires_grad_()
    advantage, imitation = batch.advantage[batch.response], batch.imitation[batch.response]
    for cap, weight in ((None, 1.0), (2.0, 1.5), (1.2, 1.2)):
        value = loss(batch, logprobs, None, 2, LearnerSettings(importance_sampling_cap=cap))
        (gradient,) = torch.autograd.grad(value, logprobs)
        torch.testing.assert_close(gradient, -(weight * advantage + imitation) / 2)


def test_importance_weights_leave_what_the_policy_itself_sampled(policy, examples):
    plain, _ = gradient(policy, examples, LearnerSettings())
    weighed, _ = gradient(policy, examples, LearnerSettings(importance_sampling_cap=2.0))
    close(plain, weighed)


@pytest.mark.parametrize("lora", [None, LoraSettings(r=4)], ids=["full", "lora"])
def test_the_reference_is_the_start_until_it_is_reset(examples, tmp_path, lora):
    policy = tiny_policy(tmp_path, lora=lora)
    learner = Learner(policy, LearnerSettings(learning_rate=1e-2, max_logprob_gap=9.0), total=4)
    assert learner.update(examples).kl == pytest.approx({0: 0.0, 1: 0.0}, abs=1e-5)
    moved = learner.update(examples).kl
    assert moved[0] > 1e-4
    learner.reset_reference()
    assert learner.update(examples).kl == pytest.approx({0: 0.0, 1: 0.0}, abs=1e-5)
    assert learner.update(examples).kl[0] > 1e-4


def test_lora_trains_adapters_alone_and_saves_a_whole_model(examples, tmp_path):
    policy = tiny_policy(tmp_path / "base", lora=LoraSettings(r=4))
    before = {n: p.clone() for n, p in policy.model.named_parameters() if not p.requires_grad}
    learner = Learner(policy, LearnerSettings(learning_rate=1e-2), total=1)
    learner.update(examples)
    assert all(torch.equal(before[n], p) for n, p in policy.model.named_parameters() if not p.requires_grad)
    policy.save(tmp_path / "saved")
    policy.save(tmp_path / "half", torch.bfloat16)
    from transformers import AutoModelForCausalLM

    merged = copy.deepcopy(policy.model).merge_and_unload().state_dict()
    saved, half = (load_file(tmp_path / name / "model.safetensors") for name in ("saved", "half"))
    assert all(torch.equal(merged[name], weight) for name, weight in saved.items())
    assert all(torch.equal(merged[name].bfloat16(), weight) for name, weight in half.items())

    again = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    ids = torch.tensor([[2, 4, 3]])
    torch.testing.assert_close(again(ids).logits, policy.model(ids).logits, atol=1e-5, rtol=1e-4)


def test_state_goes_on_to_the_bit(examples, tmp_path):
    def learner():
        return Learner(tiny_policy(tmp_path), LearnerSettings(learning_rate=1e-2, max_logprob_gap=9.0), total=4)

    straight, first, second = learner(), learner(), learner()
    for _ in range(4):
        straight.update(examples)
    for _ in range(2):
        first.update(examples)
    write_state(first, tmp_path / "state")
    read_state(second, tmp_path / "state")
    for _ in range(2):
        second.update(examples)
    assert all(torch.equal(p, second.policy.parameters[name]) for name, p in straight.policy.parameters.items())


def test_the_state_holds_what_adapts(tmp_path):
    first, second = (Learner(tiny_policy(tmp_path), LearnerSettings(), total=4) for _ in range(2))
    first.adaptive = {"beta_2": 0.3}
    write_state(first, tmp_path / "state")
    read_state(second, tmp_path / "state")
    assert second.adaptive == first.adaptive


def test_a_state_that_is_not_finite_is_not_written(tmp_path):
    learner = Learner(tiny_policy(tmp_path), LearnerSettings(), total=4)
    next(iter(learner.policy.parameters.values())).data[0] = math.nan
    with pytest.raises(GuardError, match="not finite after 0 updates"):
        write_state(learner, tmp_path)


def test_another_models_state_is_refused_by_name(tmp_path):
    small, large = (Learner(tiny_policy(tmp_path / str(w), width=w), LearnerSettings(), total=4) for w in (32, 64))
    write_state(small, tmp_path)
    with pytest.raises(UserError, match=r"embed_tokens.weight is 13 x 32 there and 13 x 64 in"):
        read_state(large, tmp_path)


def test_schedules_by_hand():
    def rates(**settings):
        return [learning_rate(step, 4, LearnerSettings(learning_rate=1.0, **settings)) for step in range(4)]

    assert rates() == [1, 1, 1, 1]
    assert rates(warmup_steps=2) == [0.5, 1, 1, 1]
    assert rates(lr_scheduler_type="linear") == [1, 0.75, 0.5, 0.25]
    assert rates(lr_scheduler_type="cosine") == pytest.approx([1, 0.8535534, 0.5, 0.1464466])


class TestGuards:
    def test_nothing_trainable(self, tmp_path):
        policy = tiny_policy(tmp_path)
        policy.model.requires_grad_(False)
        with pytest.raises(GuardError, match="no parameter is trainable"):
            Learner(policy, LearnerSettings(), total=1)

    def test_a_reference_that_is_not_the_start(self, examples, tmp_path):
        learner = Learner(tiny_policy(tmp_path), LearnerSettings(), total=1)
        next(iter(learner.policy.parameters.values())).data += 0.05 * torch.randn(13, 32)
        with pytest.raises(GuardError, match=r"should be 0|disagree"):
            learner.update(examples)

    def test_a_sampler_that_disagrees(self, examples, tmp_path):
        learner = Learner(tiny_policy(tmp_path), LearnerSettings(), total=1, temperature=0.6)
        with pytest.raises(GuardError, match="sampler and learner disagree"):
            learner.update(examples)

    def test_weights_that_do_not_move(self, examples, tmp_path):
        learner = Learner(tiny_policy(tmp_path), LearnerSettings(learning_rate=1e-60), total=1)
        with pytest.raises(GuardError, match="weights did not change"):
            learner.update(examples)

    def test_weights_that_are_not_finite_stop_a_run_at_once(self, examples, tmp_path):
        learner = Learner(tiny_policy(tmp_path), LearnerSettings(), total=3)
        next(iter(learner.policy.parameters.values())).data[5] = float("nan")
        with pytest.raises(GuardError, match="not finite: the policy's is nan in problem letters-a"):
            learner.update(examples)

    def test_one_non_finite_step_is_skipped_and_a_second_stops(self, examples, tmp_path):
        learner = Learner(tiny_policy(tmp_path), LearnerSettings(), total=3)
        broken = [TrainingExample(row.trajectory, (Credit(3e38),) * 2) for row in examples]
        before = {name: p.clone() for name, p in learner.policy.parameters.items()}
        assert learner.update(broken).skipped
        assert all(torch.equal(before[name], p) for name, p in learner.policy.parameters.items())
        with pytest.raises(GuardError, match="twice in a row"):
            learner.update(broken)


def test_half_precision_computes_on_float32_weights(examples, tmp_path):
    policy = Policy(save_model(tmp_path), dtype="bfloat16")
    learner = Learner(policy, LearnerSettings(learning_rate=1e-5), total=1)
    before = {name: p.clone() for name, p in policy.parameters.items()}
    assert learner.update(examples).kl == pytest.approx({0: 0.0, 1: 0.0}, abs=1e-5)
    moved = [(before[name] != p).float().mean() for name, p in policy.parameters.items()]
    assert min(moved) > 0.5  # in bfloat16 weights a step of 1e-5 would round away


@pytest.mark.parametrize(("kl", "kl_in"), [("k1", "both"), ("k1", "loss"), ("exact", "reward"), ("k3", "reward")])
def test_estimators_are_refused_where_they_hold_nothing(kl, kl_in):
    with pytest.raises(UserError, match="not the gradient of a KL"):
        LearnerSettings(kl=kl, kl_in=kl_in)


@pytest.mark.parametrize("block", [1 << 30, 200])
def test_a_head_that_the_model_itself_computes_has_the_same_gradient(policy, examples, monkeypatch, block):
    linear, _ = gradient(policy, examples, LearnerSettings())
    monkeypatch.setitem(BLOCK_BYTES, "cpu", block)
    monkeypatch.setattr(policy, "head_kind", "own")
    own, statistics = gradient(policy, examples, LearnerSettings())
    close(own, linear)
    assert statistics.gap < 1e-4


def test_a_model_with_a_head_of_its_own_kind_is_learned(tmp_path, monkeypatch):
    forward = LlamaForCausalLM.forward

    def squash(self, *args, **more):
        output = forward(self, *args, **more)
        output.logits = torch.asinh(3 * output.logits)
        return output

    monkeypatch.setattr(LlamaForCausalLM, "forward", squash)
    policy = shaken(tiny_policy(tmp_path))
    assert policy.head_kind == "own"
    progress = Learner(policy, LearnerSettings(), total=1).update(make_examples(policy))
    assert progress.logprob_gap < 1e-5


def test_a_head_that_mixes_tokens_is_refused(tmp_path, monkeypatch):
    forward = LlamaForCausalLM.forward

    def mix(self, input_ids, **more):
        output = forward(self, input_ids=input_ids, **more)
        output.logits = output.logits + input_ids.float().mean()
        return output

    monkeypatch.setattr(LlamaForCausalLM, "forward", mix)
    with pytest.raises(UserError, match="do not follow from its last hidden states"):
        tiny_policy(tmp_path)


def test_frozen_weights_stay_and_the_rest_learns(tmp_path):
    policy = Policy(save_model(tmp_path), frozen=["mlp", "embed_tokens"])
    before = {name: p.clone() for name, p in policy.model.named_parameters()}
    Learner(policy, LearnerSettings(learning_rate=1e-3), total=1).update(make_examples(policy))
    stayed = {name for name, p in policy.model.named_parameters() if torch.equal(p, before[name])}
    assert stayed == {name for name in before if "mlp" in name or "embed_tokens" in name}


def test_a_reference_beside_frozen_weights_is_reset_saved_and_read(tmp_path):
    def frozen():
        settings = LearnerSettings(learning_rate=1e-2, max_logprob_gap=9.0)
        return Learner(Policy(save_model(tmp_path), frozen=["mlp"]), settings, total=4)

    learner = frozen()
    examples = make_examples(learner.policy)
    learner.update(examples)
    learner.reset_reference()
    assert learner.update(examples).kl == pytest.approx({0: 0.0, 1: 0.0}, abs=1e-5)
    assert learner.reference.state().keys() == learner.policy.parameters.keys()
    write_state(learner, tmp_path / "state")
    read_state(resumed := frozen(), tmp_path / "state")
    assert not resumed.reference.has_moved()
    assert resumed.accumulate_gradients(examples).kl == learner.accumulate_gradients(examples).kl
    own = [p.clone() for p in resumed.policy.model.parameters()]
    with resumed.reference.in_place():
        wrote = resumed.reference.state()
        assert all(torch.equal(p, wrote[name]) for name, p in resumed.policy.parameters.items())
    assert all(map(torch.equal, own, resumed.policy.model.parameters()))


@pytest.mark.parametrize(
    ("frozen", "why"),
    [
        (["experts"], "no weight's name has the part 'experts'; there are .*mlp.up_proj"),
        (
            ["mlp.gate"],
            "no weight's name has the part 'mlp.gate'",
        ),  # which begins the name of a dense layer's gate_proj
        (["model"], "model are all weights"),
    ],
)
def test_frozen_parts_that_cannot_be_meant_are_refused(tmp_path, frozen, why):
    with pytest.raises(UserError, match=f"model.frozen: {why}"):
        Policy(save_model(tmp_path), frozen=frozen)
