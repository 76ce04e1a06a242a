"""Planning by hand-worked numbers, against the code it speaks of, and against steps measured here."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from scorl.cli import main
from scorl.engines import torch as torch_engine
from scorl.errors import UserError
from scorl.learner import forward
from scorl.learner.attention import tree_attention
from scorl.learner.batch import micro_batch
from scorl.model.policy import Policy
from scorl.objectives import StageOne, StageTwo, Star, Supervised
from scorl.planning.advice import fits, remedies
from scorl.planning.check import beside
from scorl.planning.device import DEVICES
from scorl.planning.estimate import estimated
from scorl.planning.memory import CHUNK_NUMBERS, memory
from scorl.planning.seconds import step_time
from scorl.planning.setup import Lengths, Response, Setup
from scorl.planning.shape import ModelShape
from scorl.planning.texts import lengths_in
from scorl.planning.tokens import KEPT_BYTES, lesson, writings
from scorl.planning.work import update_flops
from scorl.recipe import changed, resolve
from scorl.settings import EvaluationSettings, LoraSettings
from scorl.training.stage import Stage
from scorl.trajectory import Credit, Problem, TrainingExample, Trajectory, Verdict
from scorl.trajectory import Response as Written

LLAMA_3_8B = {
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "tie_word_embeddings": False,
}
QWEN_1_5B = {
    "model_type": "qwen2",
    "hidden_size": 1536,
    "intermediate_size": 8960,
    "num_hidden_layers": 28,
    "num_attention_heads": 12,
    "num_key_value_heads": 2,
    "vocab_size": 151936,
    "tie_word_embeddings": True,
    "sliding_window": 32768,
    "use_sliding_window": False,
}
GEMMA_2_2B = {
    "model_type": "gemma2",
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "vocab_size": 256000,
    "sliding_window": 4096,
}
SMOLLM2 = {
    "model_type": "llama",
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "vocab_size": 49152,
    "tie_word_embeddings": True,
}
QWEN_3 = QWEN_1_5B | {"model_type": "qwen3", "head_dim": 128, "attention_bias": False}
TINY = ModelShape(
    layers=2, width=8, heads=4, groups=2, head_size=2, inner=16, vocabulary=10, tied=True, norms=2, small=16,
    positions=None, windowed=False,
)  # fmt: skip
LENGTHS = Lengths((Response(10, 5, 8), Response(3, 4, 6)))


STAGES = (Stage(StageOne(), 2, problems=4, samples=3),)


def setup(shape=TINY, stages=STAGES, **changes):
    return Setup(shape, LENGTHS, stages, DEVICES["h100"], **changes)


@pytest.mark.parametrize(
    ("config", "published"),
    [(LLAMA_3_8B, 8_030_261_248), (QWEN_1_5B, 1_543_714_304), (GEMMA_2_2B, 2_614_341_888), (SMOLLM2, 134_515_008)],
    ids=["Llama-3-8B", "Qwen2.5-1.5B", "Gemma-2-2B", "SmolLM2-135M"],
)
def test_parameters_are_those_of_published_models(config, published):
    assert ModelShape.of(config).parameters == published


@pytest.mark.parametrize("config", [QWEN_3, LLAMA_3_8B | {"attention_bias": True, "mlp_bias": True}, GEMMA_2_2B])
def test_parameters_are_those_that_transformers_makes(config):
    kind = AutoConfig.for_model(**config)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(kind)
    assert ModelShape.of(kind.to_dict()).parameters == sum(p.numel() for p in model.parameters())


def test_a_config_that_is_no_dense_decoder_is_refused():
    with pytest.raises(UserError, match="num_local_experts"):
        ModelShape.of(LLAMA_3_8B | {"num_local_experts": 8})
    with pytest.raises(UserError, match="intermediate_size"):
        ModelShape.of({key: value for key, value in LLAMA_3_8B.items() if key != "intermediate_size"})


def test_adapters_are_as_many_as_peft_makes():
    lora = LoraSettings(r=4)
    policy = Policy("scorl:countdown-base", lora=lora)
    shape = ModelShape.of(policy.decoder.config.to_dict())
    assert shape.adapters(lora) == sum(p.numel() for p in policy.parameters.values())


def test_tokens_of_a_step_by_hand():
    stage = Stage(StageTwo(), 1, problems=4, samples=3, branches=2)
    learned = lesson(setup(), stage)
    assert learned.tokens == 4 * 10 + 12 * 5 + 24 * (3 + 4)
    assert learned.predictions == 12 * 5 + 24 * 4
    assert learned.keys == 4 * 10 + 12 * 15 + 24 * 22
    assert learned.pairs == 4 * 50 + 12 * 5 * 12.5 + 24 * 7 * 18.5
    first, second = writings(setup(), stage)
    assert (first.rows, first.prefilled, first.drawn, first.steps) == (12, 40, 60, 8)
    assert (second.rows, second.prefilled, second.drawn, second.steps) == (24, 24 * 4, 96, 6)
    (alone,) = writings(setup(batch_size=6), replace(stage, attempts=1))
    assert alone.steps == 2 * 5 + 8 - 5


def test_more_attempts_than_are_known_are_refused():
    with pytest.raises(UserError, match="2 attempts, and 3"):
        lesson(setup(), Stage(StageTwo(), 1, attempts=3))


def test_stages_that_imitate_sample_otherwise():
    assert writings(setup(), Stage(Supervised(), 1, problems=4, samples=1, attempts=1)) == []
    star = lesson(setup(), Stage(Star(epochs=2), 1, problems=4, samples=3))
    assert (star.predictions, star.anchored) == (2 * 12 * 4, False)


def test_operations_of_an_update_by_hand():
    body = 2 * (2 * 8 * 8 + 2 * 8 * 4 + 3 * 8 * 16)
    assert body == TINY.body
    attention = 16 * 2 * 8 * 50
    assert update_flops(TINY, 20, 6, 50) == 8 * body * 20 + 8 * 80 * 6 + attention
    assert update_flops(TINY, 20, 6, 50, adapters=100) == 6 * (body + 100) * 20 + 6 * 80 * 6 + attention
    assert update_flops(TINY, 20, 6, 50, anchored=False) == 6 * body * 20 + 6 * 80 * 6 + attention * 3 / 4


def test_weights_gradients_and_moments_by_hand():
    whole, n = memory(setup()), TINY.parameters
    assert (whole.always["weights"], whole.always["reference"], whole.always["optimiser"]) == (4 * n, 4 * n, 8 * n)
    assert whole.learn["gradients"] == 4 * n
    shared = memory(setup(count=4))
    assert (shared.always["weights"], shared.learn["gradients"]) == (n, n)
    assert memory(setup(count=4, parallel="ddp")).always == whole.always
    lora = LoraSettings(r=1)
    adapted = memory(setup(dtype="bfloat16", lora=lora))
    assert adapted.always["weights"] == 2 * n + 4 * TINY.adapters(lora)
    assert (adapted.always["reference"], adapted.always["optimiser"]) == (0, 8 * TINY.adapters(lora))


def test_the_limits_are_those_of_the_code():
    assert (KEPT_BYTES, CHUNK_NUMBERS) == (torch_engine.PREFIX_CACHE_BYTES, forward.LOGITS_PER_CHUNK)


def rows(policy, problems=3, samples=6, prompt=30, response=24):
    """Lessons of two attempts of random tokens, all of one length."""
    draw = torch.Generator().manual_seed(0)

    def tokens(count):
        return tuple(torch.randint(policy.decoder.config.vocab_size, (count,), generator=draw).tolist())

    def attempt(turn, prompt, ids):
        return Written(prompt, ids, (0.0,) * len(ids), "", "stop", Verdict(0.0, ""))

    found = []
    for problem in range(problems):
        asked = tokens(prompt)
        for sample in range(samples):
            first = attempt(0, asked, tokens(response))
            second = attempt(1, asked + first.ids + tokens(8), tokens(response))
            found.append(
                TrainingExample(Trajectory(Problem(str(problem), ()), sample, (first, second)), (Credit(1, 0.1),) * 2)
            )
    return found


@pytest.mark.parametrize("lora", [None, LoraSettings(r=8)], ids=["all weights", "adapters"])
def test_activations_are_what_autograd_keeps(lora):
    policy = Policy("scorl:countdown-base", lora=lora)
    batch = micro_batch(rows(policy), "prefix_tree")
    weights = {p.untyped_storage().data_ptr() for p in policy.model.parameters()}
    kept, held = {}, []

    def keep(tensor):
        storage = tensor.untyped_storage()
        held.append(tensor)
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with tree_attention(policy.decoder), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        forward.hidden_states(policy.decoder, batch.layout)
    shape = ModelShape.of(policy.decoder.config.to_dict())
    lengths = Lengths((Response(30, 24, 24), Response(8, 24, 24)))
    planned = replace(setup(shape, (Stage(StageTwo(), 1, problems=3, samples=6),), lora=lora), lengths=lengths)
    activations = memory(planned).learn["activations"] - 3 * 4 * shape.width * len(batch.layout.ids)
    assert activations == pytest.approx(sum(kept.values()), rel=0.15)


def test_what_does_not_fit_is_told_with_what_would():
    recipe = resolve("math-llama-3-8b")
    small = Setup(ModelShape.of(LLAMA_3_8B), Lengths((Response(120, 400, 1024), Response(60, 400, 1024))),
                  recipe.stages, DEVICES["h100"], dtype="bfloat16", learner=recipe.learner, count=8)  # fmt: skip
    assert not fits(small)
    found = remedies(small)
    assert found
    for remedy in found:
        larger = remedy.change.partition("--gpu ")[2].split()
        assert remedy.bytes <= DEVICES[larger[0] if larger else "h100"].usable()
        keys = [word for word in remedy.change.split() if "=" in word]
        assert changed(recipe, keys, "it").learner.gradient_checkpointing == (
            "learner.gradient_checkpointing=true" in keys
        )
    assert fits(small.with_learner(gradient_checkpointing=True))
    assert estimated(small, EvaluationSettings()).remedies == tuple(found)


def test_seconds_fall_with_devices_and_rise_with_checkpoints():
    whole, stage = setup(ModelShape.of(QWEN_1_5B), dtype="bfloat16"), Stage(StageOne(), 1)
    one, eight = step_time(whole, stage), step_time(replace(whole, count=8), stage)
    assert one.learn / 8 <= eight.learn < one.learn / 4
    assert (one.exchange, eight.exchange > 0) == (0, True)
    assert step_time(whole.with_learner(gradient_checkpointing=True), stage).learn > one.learn
    assert step_time(replace(whole, engine="vllm"), stage).sample < one.sample


def test_lengths_of_attempts_by_hand():
    def line(sample, turn, before, tokens, text):
        return {"step": 0, "problem": "p", "sample": sample, "branch": 0, "turn": turn, "prompt_tokens": before,
                "tokens": tokens, "text": text}  # fmt: skip

    step = [line(0, 0, 10, 2, "ab"), line(0, 1, 15, 4, "abcd"), line(1, 0, 10, 2, "ab"), line(1, 1, 15, 2, "ax")]
    found = lengths_in([step])
    assert found.responses == (Response(10, 2, 2), Response(3, 3, 4))
    assert found.distinct == 1 - len("ab\0a") / len("ab\0abcd\0ab\0ax\0")


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        main(["plan", *arguments])
    return ended.value.code, capsys.readouterr()


def test_the_command_plans_without_a_model_or_a_network(tmp_path, capsys):
    config = tmp_path / "config.json"
    config.write_text(json.dumps(QWEN_1_5B))
    given = ["math-qwen2.5-1.5b", "--config", str(config), "--prompt-tokens", "120", "--price-per-hour", "2", "--json"]
    code, told = run(capsys, *given, "--gpu", "h100", "--gpus", "8", "--parallel", "fsdp2")
    plan = json.loads(told.out)
    assert (code, plan["fits"], plan["model"]["parameters"]) == (0, True, 1_543_714_304)
    assert plan["cost"] == pytest.approx(2 * plan["device_hours"])
    code, told = run(capsys, *given[:5], "--gpu", "4090")
    assert code == 1
    assert "learner.gradient_checkpointing=true" in told.out


def test_the_recipes_launcher_says_how_many_devices_there_are(tmp_path, capsys):
    config = tmp_path / "config.json"
    config.write_text(json.dumps(QWEN_1_5B))
    given = ["math-qwen2.5-1.5b", "--config", str(config), "--prompt-tokens", "120", "--gpu", "h100", "--json"]
    launched = ["launcher.name=ray", "launcher.workers=4", "launcher.parallel=fsdp2"]
    asked = json.loads(run(capsys, *given, "--gpus", "4", "--parallel", "fsdp2")[1].out)
    assert asked["device"]["count"] == 4
    assert json.loads(run(capsys, *given, *launched)[1].out) == asked


def test_the_users_mistakes_are_told(tmp_path, capsys):
    missing = str(tmp_path / "config.json")
    assert run(capsys, "countdown", "--gpu", "h100", "--config", missing)[0] == 2
    code, told = run(capsys, "countdown", "--gpus", "2")
    assert (code, "--gpu" in told.err) == (2, True)
    code, told = run(capsys, "countdown", "--gpu", "h100", "--like", str(tmp_path))
    assert (code, "no attempts" in told.err) == (2, True)


def test_a_plan_without_this_machine_needs_no_torch(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(SMOLLM2))
    code = (
        "import sys; from scorl.planning.estimate import estimated; from scorl.planning.table import grids; "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.skipif(
    "SCORL_SLOW" not in os.environ, reason="times a run, so it wants a quiet machine; SCORL_SLOW=1 runs it"
)
def test_the_plan_is_near_the_run():
    """On one thread, by the process's own clock: time within 25%, memory within 15%."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for _ in range(3):  # what else the machine does reaches even this clock, through its caches
            predicted, measured = beside(resolve("countdown"), 4)
            times = (predicted.sample / measured.sample, predicted.learn / measured.learn)
            if all(0.75 <= ratio <= 1.25 for ratio in times):
                break
    finally:
        torch.set_num_threads(threads)
    assert times == (pytest.approx(1, abs=0.25), pytest.approx(1, abs=0.25))
    assert predicted.bytes == pytest.approx(measured.bytes, rel=0.15)
