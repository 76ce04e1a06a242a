"""Estimates: the meter by hand and against what torch allocates, plans of tiny shapes on pretended devices."""

import importlib.util
import json
import os
from dataclasses import replace
from typing import get_args

import pytest
import torch
from support.families import save_family
from support.ranked import needs_fsdp2

from scorl.cli import main
from scorl.errors import UserError
from scorl.estimate import model, prepare
from scorl.estimate import suggestions as changes
from scorl.estimate.device import DEVICES, GIB, Device
from scorl.estimate.kernels import CountedBlock, keys_of_a_query
from scorl.estimate.ledger import COPIES, Phase
from scorl.estimate.meter import Hollow, Meter
from scorl.estimate.model import config_of
from scorl.estimate.plan import Case, memory_of, problems_of, stage_plans
from scorl.estimate.served import SERVER
from scorl.estimate.suggestions import suggestions
from scorl.estimate.trace import trace_learning
from scorl.estimate.workload import Lengths, lengths_of, workload
from scorl.learner import Learner
from scorl.learner.batch import micro_batches
from scorl.learner.flex import FlexTree
from scorl.learner.head_block import Logits
from scorl.learner.tree import make_blocks, pack_tree
from scorl.model.loading import build_hollow
from scorl.model.policy import Policy
from scorl.recipe import resolve, shipped_recipes
from scorl.settings import Gpu

LENGTHS = Lengths(prompt=20, turn=5, response=12, limit=16)
SMALL = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
         "num_key_value_heads": 2, "vocab_size": 64, "model_type": "qwen2", "tie_word_embeddings": True}  # fmt: skip
DEVICE = Device("pretended", 1e12, half=2.0, single=1.0, attention=4.0, bandwidth=8.0)
STAGES = ["stages.0.problems=4", "stages.0.samples=3", "stages.1.problems=4", "stages.1.samples=3"]


def hollow(*shape, dtype=torch.float32):
    return Hollow(torch.empty(shape, dtype=dtype, device="meta"))


def test_operations_bytes_and_seconds_by_hand():
    meter = Meter(DEVICE)
    x, w = hollow(3, 5), hollow(5, 7)
    half = hollow(1, 2, 3, 8, dtype=torch.bfloat16)
    with meter, meter.phase() as product:
        x @ w
    with meter, meter.phase() as sums:
        x.t()[None] + 1
    with meter, meter.phase() as attention:
        torch.nn.functional.scaled_dot_product_attention(half, half, half)
    assert (product.cost.flops, product.cost.bytes, product.cost.calls) == (2 * 3 * 5 * 7, 4 * (15 + 35 + 21), 1)
    assert product.cost.seconds == max(210 / 1.0, 284 / 8.0)
    assert (sums.cost.flops, sums.cost.bytes, sums.cost.seconds) == (0, 120, 15.0)
    assert attention.cost.flops == 4 * 2 * 3 * 3 * 8


def test_the_height_of_memory_by_hand():
    meter = Meter(DEVICE)
    x = hollow(10)
    with meter, meter.phase() as phase:
        y = x + x
        z = y + y
        del y
        z + z
    assert phase.peak() == {"activations": 120}
    assert phase.cost.calls == 3
    hand = Phase(meter.live.__class__(weights=80), events=[("activations", 5), ("activations", -5), ("gradients", 8)])
    assert hand.peak() == {"weights": 80, "gradients": 8}
    assert hand.peak({"gradients": 0.25}) == {"weights": 80, "activations": 5}


@pytest.mark.parametrize("lora", [False, True], ids=["all weights", "adapters"])
def test_memory_of_a_hollow_update_is_what_torch_allocates(lora):
    recipe = resolve("countdown", [*STAGES, *(["model.lora={}"] if lora else [])])
    config = config_of(recipe.model.path)
    work = workload(recipe, recipe.stages[0], LENGTHS, config.vocab_size)
    learning = trace_learning(recipe, config, work, DEVICE)
    before = learning.memory.live.total()
    settings = replace(recipe.learner, max_logprob_gap=float("inf"))
    learner = Learner(Policy(recipe.model.path, device="cpu", lora=recipe.model.lora, onednn=False), settings, total=9)
    learner.update([])
    learner.update(work.examples)  # moments are there
    models = [learner.policy.model, *([] if lora else [learner.reference.head])]
    weights = sum(p.numel() * p.element_size() for model in models for p in model.parameters())
    moments = sum(2 * 4 * p.numel() for p in learner.policy.parameters.values())
    assert before == pytest.approx(weights + moments, abs=1024)  # buffers
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        learner.update(work.examples)
    live = height = 0
    for event in sorted(profile.profiler.kineto_results.events(), key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            live += event.nbytes()
            height = max(height, live)
    assert sum(learning.memory.peak().values()) - before == pytest.approx(height, rel=0.05)


@needs_fsdp2  # whose torch counts the operations of an attention's backward pass so
def test_operations_of_an_update_by_hand():
    recipe = resolve("countdown", ["stages.0.problems=2", "stages.0.samples=2", "stages.0.attempts=2"])
    config = model.build_config(SMALL, "small")
    work = workload(recipe, recipe.stages[0], LENGTHS, config.vocab_size)
    learning = trace_learning(recipe, config, work, DEVICE)
    (batch,) = micro_batches(work.examples, 10**6, "prefix_tree")
    tokens, predictions = len(batch.layout.ids), len(batch.position)
    body = 2 * (2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 96)
    pairs = sum(block.query.numel() * block.key.shape[1] for block in make_blocks(batch.layout).parts)
    forward = 2 * body * tokens + 2 * 64 * 64 * predictions + 2 * 4 * 64 * pairs
    backward = 2 * (2 * body * tokens + 2 * 64 * 64 * predictions) + 2.5 * 2 * 4 * 64 * pairs
    assert learning.batch.flops == 2 * forward + backward  # the reference's pass is one forward
    assert learning.tokens == tokens


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("meta-llama/Meta-Llama-3-8B-Instruct", 8_030_261_248),
        ("Qwen/Qwen2.5-1.5B-Instruct", 1_543_714_304),
        ("Qwen/Qwen2.5-7B-Instruct", 7_615_616_512),
        ("google/gemma-2-2b-it", 2_614_341_888),
        ("HuggingFaceTB/SmolLM2-135M-Instruct", 134_515_008),
    ],
)
def test_parameters_are_those_of_published_models(name, published):
    made = build_hollow(config_of(name))
    assert sum(p.numel() for p in made.parameters()) == published


def test_every_shipped_recipes_model_is_known_without_the_hub(monkeypatch):
    monkeypatch.setattr(model, "fetch_config", lambda name: (_ for _ in ()).throw(AssertionError(name)))
    for name in shipped_recipes():
        path = resolve(name).model.path
        if not path.startswith(("scorl:", "runs/")):
            assert config_of(path).num_hidden_layers


def case(*overrides, memory=GIB, lengths=LENGTHS):
    recipe = resolve("countdown", [*STAGES, "learner.tokens_per_microbatch=512", "engine.name=torch", *overrides])
    device = replace(DEVICES["h100"], memory=memory, runtime=0.0)
    return Case(recipe, device, model.build_config(SMALL, "small"), lengths)


def test_fsdp2_divides_what_is_always_there():
    one, four = memory_of(case()), memory_of(case("launcher.workers=4", "launcher.parallel=fsdp2"))
    for part in ("weights", "reference", "optimiser"):
        assert four.learning[part] == one.learning[part] / 4
    assert four.learning["gathered weights"] == 4 * case().learning(case().recipe.stages[0]).gathered


def test_autocast_copies_weights_and_fsdp2_gathers_them_instead():
    half = case("model.dtype=bfloat16")
    assert memory_of(half).learning[COPIES] > 0
    shared = replace(half, recipe=case("model.dtype=bfloat16", "launcher.workers=4", "launcher.parallel=fsdp2").recipe)
    assert COPIES not in memory_of(shared).learning


def test_what_a_turn_leaves_to_the_next_is_counted_up_to_its_limit():
    def held(limit):
        one = case(f"engine.prefix_cache_bytes={limit}")
        return [call.memory.live["keys and values"] for call in one.decoding(one.recipe.stages[0])]

    (nothing, last), (some, same) = held(0), held(9000)
    assert (some - nothing, same - last) == (9000, 0)  # no turn follows the last one


def test_vllm_takes_its_share_unless_it_sleeps():
    awake = memory_of(case("engine.name=vllm", "engine.gpu_memory_utilization=0.5", memory=8 * GIB))
    assert awake.sampling["vLLM"] == awake.learning["vLLM"] == 4 * GIB
    asleep = memory_of(
        case("engine.name=vllm", "engine.gpu_memory_utilization=0.5", "engine.enable_sleep_mode=true", memory=8 * GIB)
    )
    assert asleep.sampling["vLLM"] == 4 * GIB > asleep.learning["vLLM"]
    tight = case("engine.name=vllm", "engine.gpu_memory_utilization=0.1", memory=8 * GIB)
    assert any("no room for a row" in problem for problem in problems_of(tight, memory_of(tight)))


def test_weights_are_let_go_before_vllm_wakes_as_a_whole():
    """A share that is hardly more than its weights: their transfer is the height."""
    given = ("engine.name=vllm", "engine.gpu_memory_utilization=0.0001", "model.dtype=bfloat16")
    awake, asleep = (memory_of(case(*given, f"engine.enable_sleep_mode={sleep}")) for sleep in ("false", "true"))
    sent = "weights on their way to vLLM"
    assert awake.sampling["vLLM"] == 0.0001 * GIB < asleep.sampling["vLLM"] == asleep.sampling[sent]
    large = memory_of(case(*given, "engine.gpu_memory_utilization=0.5", "engine.enable_sleep_mode=true"))
    assert (sent in large.sampling, sent in awake.sampling) == (False, True)


def test_vllm_decodes_as_many_rows_as_its_share_holds():
    held = case("engine.name=vllm", "engine.gpu_memory_utilization=0.5", "stages.0.problems=99", memory=8 * GIB)
    (work, served) = held.workload(held.recipe.stages[0]), held.served
    assert served.row(10) == 4 * 2 * 2 * 2 * 16 * 10  # bytes, keys and values, layers, heads, width, tokens
    assert served.rows(work) == (served.share - served.weights - SERVER) / served.row(work.longest)
    few = replace(served, settings=replace(served.settings, batch_size=3))
    asked = round(work.scale * work.calls[0].rows)
    assert few.decoding(work)[0].steps == pytest.approx(asked / 3 * work.calls[0].response)
    assert served.decoding(work)[0].steps == work.calls[0].response * max(1, asked / served.settings.batch_size)


def test_the_first_update_holds_one_tensor_twice_to_see_that_all_move():
    learning = case().learning(case().recipe.stages[0])
    before, after = (phase.peak()["optimiser"] for phase in (learning.first, learning.memory))
    assert after <= before < after + 4 * learning.trained / 2


PAPERS = [name for name in shipped_recipes() if name.startswith(("math", "mbpp"))]
SCORE = [name for name in PAPERS if name.split("-")[1].rstrip(".0123456789") in ("qwen", "llama", "gemma")]
"""Those of SCoRe; later methods' fill the same micro-batches of the same models."""
QUICK = "mbpp-gemma-2-2b"
slow = pytest.mark.skipif("SCORL_SLOW" not in os.environ, reason="a minute; SCORL_SLOW=1 runs it")


@pytest.mark.parametrize("name", [name if name == QUICK else pytest.param(name, marks=slow) for name in SCORE])
def test_the_papers_recipes_fit_the_gpus_that_they_name(name, monkeypatch):
    """With the longest responses that they allow, and a tenth of the card to spare."""
    monkeypatch.setattr(model, "fetch_config", lambda name: (_ for _ in ()).throw(AssertionError(name)))
    recipe = resolve(name)
    device, lengths = DEVICES[recipe.launcher.gpu], lengths_of(recipe)
    # one stage: both lay out the same rows
    planned = Case(replace(recipe, stages=recipe.stages[:1]), device, config_of(recipe.model.path), lengths)
    memory = memory_of(planned)
    assert not problems_of(planned, memory)
    assert memory.peak + device.runtime < 0.9 * device.memory
    assert recipe.launcher.workers == (8 if name.endswith(("7b", "8b")) else 1)


def test_every_recipe_names_its_gpu_or_runs_on_a_cpu():
    assert get_args(Gpu) == tuple(sorted(DEVICES))
    named = {name for name in shipped_recipes() if resolve(name).launcher.gpu}
    assert (
        named
        == {name for name in shipped_recipes() if resolve(name).model.dtype != "auto"}
        == {
            *PAPERS,
            "qwen2.5-coder-0.5b-svamp-gpu",
        }
    )


def test_on_a_gpu_a_plan_is_of_bfloat16_and_vllm_unless_the_recipe_says_otherwise():
    for overrides, decided in (
        ((), ("bfloat16", "vllm", 2.0)),
        (("engine.name=torch", "model.dtype=float32"), ("float32", "torch", None)),
    ):
        recipe = prepare.prepared(resolve("countdown", overrides), "h100", response_tokens=8).case.recipe
        assert (recipe.model.dtype, recipe.engine.name, recipe.learner.importance_sampling_cap) == decided


def test_what_does_not_fit_is_named_with_what_would_make_it_fit():
    large = case()
    needed = memory_of(large)
    small = replace(large, device=replace(large.device, memory=0.9 * needed.at_learning / 0.95))
    (problem,) = problems_of(small, memory_of(small))
    assert problem.startswith("learning needs")
    texts = [suggestion.change for suggestion in suggestions(small)]
    assert "learner.gradient_checkpointing=true" in texts
    assert any(text.startswith("--gpu") for text in texts)
    for text in texts:
        if not text.startswith("--gpu"):
            after = case(*text.split(), memory=small.device.memory)
            assert not problems_of(after, memory_of(after)), text


@pytest.mark.parametrize("override", ["model.frozen=[layers]", "model.device=cuda:1", "seed=1"])
def test_suggestions_leave_out_what_the_recipe_or_this_installation_rules_out(monkeypatch, override):
    if override == "seed=1":
        find = importlib.util.find_spec
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "peft" else find(name))
    ruled_out = changes._shards if "cuda" in override else changes._lora
    monkeypatch.setattr(changes, "ALONE", (ruled_out,))
    monkeypatch.setattr(changes, "OTHER", ((ruled_out,),))
    assert [suggestion.change[:5] for suggestion in suggestions(case(override, memory=1 << 20))] == ["--gpu"]


def test_checkpoints_cost_time_and_save_memory():
    plain, again = case(), case("learner.gradient_checkpointing=true")
    assert memory_of(again).learning["activations"] < memory_of(plain).learning["activations"]
    assert stage_plans(again)[0].flops > stage_plans(plain)[0].flops


def test_a_step_is_shared_out_and_scaled_up():
    whole, shared = case("stages.0.problems=64"), case("stages.0.problems=64", "launcher.workers=4")
    one, four = stage_plans(whole)[0], stage_plans(shared)[0]
    assert four.tokens == pytest.approx(one.tokens / 4, rel=0.05)
    assert (one.exchange, four.exchange > 0) == (0, True)
    every = whole.workload(whole.recipe.stages[0])
    assert every.scale > 1  # some problems stood for all
    exact = sum(
        len(batch.layout.ids)
        for batch in micro_batches(
            workload(whole.recipe, replace(whole.recipe.stages[0], problems=64), LENGTHS, 64).examples,
            512,
            "prefix_tree",
        )
    )
    assert one.tokens == pytest.approx(every.scale * exact, rel=0.05)


def test_lengths_are_rendered_where_the_task_can_be_read_else_assumed():
    countdown = lengths_of(resolve("countdown"), response=12)
    assert (countdown.assumed, countdown.response, countdown.limit) == (False, 12, 80)
    assert lengths_of(resolve("countdown"), prompt=33).prompt == 33
    away = lengths_of(resolve("math-qwen2.5-1.5b", ["task.path=/nowhere"]))
    assert (away.assumed, away.response) == (True, 1024)


def test_each_attempt_is_planned_by_its_own_limit():
    recipe = resolve("countdown", ["engine.max_tokens=[8, 40]", *STAGES])
    lengths = lengths_of(recipe)
    assert (lengths.response, lengths.limit) == (40, (8, 40))
    first, second = workload(recipe, recipe.stages[0], lengths, 64).calls
    assert [(call.response, call.longest) for call in (first, second)] == [(8, 8), (40, 40)]
    shorter = lengths_of(recipe, response=20)
    first, second = workload(recipe, recipe.stages[0], shorter, 64).calls
    assert (first.response, first.longest) == (8, 8)
    assert second.response == pytest.approx(20, rel=0.2)
    assert 20 < second.longest <= 40


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        main(["plan", *arguments])
    return ended.value.code, capsys.readouterr()


def test_a_stage_that_learns_from_solutions_is_planned(capsys):
    stages = "stages=[{objective: supervised, steps: 1, problems: 2}]"
    assert run(capsys, "countdown", stages, "--steps", "0", "--response-tokens", "12")[0] == 0


def test_the_command_plans_without_weights(tmp_path, capsys):
    config = tmp_path / "config.json"
    config.write_text(json.dumps(SMALL))
    given = [
        "countdown",
        *STAGES,
        "engine.name=torch",
        "--config",
        str(config),
        "--response-tokens",
        "8",
        "--gpu",
        "l4",
    ]
    code, told = run(capsys, *given, "--json")
    plan = json.loads(told.out)
    assert (code, plan["fits"], plan["lengths"]["response"]) == (0, True, 8)
    assert plan["seconds"] == pytest.approx(
        sum(stage["seconds"] for stage in plan["stages"])
        + plan["evaluations"]["count"] * plan["evaluations"]["seconds"]
    )
    named = [*given[:-2], "launcher.gpu=l4", "launcher.workers=2", "--json"]
    code, told = run(capsys, *named)
    assert (code, json.loads(told.out)["device"]["name"], json.loads(told.out)["devices"]) == (0, "l4", 2)
    code, told = run(capsys, *named, "engine.name=vllm", "engine.gpu_memory_utilization=0.05")
    assert (code, json.loads(told.out)["fits"]) == (1, False)
    code, told = run(capsys, *given, "engine.name=vllm", "engine.gpu_memory_utilization=0.05")
    assert code == 1
    assert "engine.gpu_memory_utilization=0.1 " in told.out


def test_tiny_models_are_measured_on_this_machine(capsys):
    code, told = run(capsys, "countdown", *STAGES, "evaluation.problems=4")
    assert code == 0
    assert "measured steps" in told.out


def test_what_is_measured_is_the_recipe_with_its_kernels(monkeypatch):
    measured = []

    def measure(recipe, steps):
        measured.append(recipe)
        raise UserError("enough")

    monkeypatch.setattr(prepare, "measure", measure)
    with pytest.raises(UserError, match="enough"):
        prepare.prepared(resolve("countdown", [*STAGES, "learner.use_liger_kernel=true"]))
    assert measured[0].learner.use_liger_kernel is True


def test_a_gpu_is_planned_for_without_the_model(tmp_path, monkeypatch):
    """Even where Liger is there, which wants to know the model's type."""
    config = tmp_path / "config.json"
    config.write_text(json.dumps(SMALL))
    monkeypatch.setattr("scorl.model.liger._load_patches", lambda: {"qwen2": print})
    recipe = resolve("countdown", [*STAGES, "model.path=somebody/something"])
    estimate = prepare.prepared(recipe, gpu="h100", config=config, prompt_tokens=20, response_tokens=8)
    assert estimate.case.recipe.engine.name == "vllm"
    assert estimate.case.recipe.learner.use_liger_kernel is True


def test_the_users_mistakes_are_told(tmp_path, capsys, monkeypatch):
    assert run(capsys, "countdown", "--gpu", "h100", "--config", str(tmp_path / "config.json"))[0] == 2
    code, told = run(capsys, "countdown", "launcher.workers=2")
    assert (code, "--gpu" in told.err) == (2, True)
    code, told = run(capsys, "countdown", "--gpu", "h100", "--steps", "1")
    assert (code, "--steps" in told.err) == (2, True)
    code, told = run(capsys, "countdown", "stages=[]")
    assert (code, "nothing is trained, so there is nothing to plan" in told.err) == (2, True)
    code, told = run(capsys, "countdown", "launcher.gpu=h10")
    assert (code, "launcher.gpu" in told.err, "did you mean 'h100'" in told.err) == (2, True, True)

    def unreachable(kind, name):
        raise UserError(f"cannot load model '{name}': no connection")

    monkeypatch.setattr(model, "load_pretrained", unreachable)
    code, told = run(capsys, "countdown", "model.path=somebody/something", "--gpu", "h100")
    assert (code, "--config FILE" in told.err, "qwen2.5-7b" in told.err) == (2, True, True)
    assert prepare.TINY < 10**8


def test_the_fused_head_by_hand():
    """Each sum of exponentials reads the products once, the KL both, and the gradient reads both and writes one."""
    count, words = 64, 5000
    size = 2 * count * words
    meter = Meter(DEVICE)
    with meter, meter.phase() as phase:
        policy, reference = (
            Logits(Hollow(torch.empty(count, words, dtype=torch.bfloat16, device="meta")), None, 1.0) for _ in range(2)
        )
        scored = CountedBlock.of(policy, reference, torch.zeros(count), True)
        assert phase.cost.bytes == pytest.approx(4 * size, rel=0.01)
        scored.logit_gradient()
        assert phase.cost.bytes == pytest.approx(7 * size, rel=0.01)


def test_keys_of_a_query_by_hand():
    """Of one row in tiles of 128: the first tile's queries see one tile, those of the fourth four."""
    tree, _ = pack_tree([tuple(range(512))])
    mask = FlexTree.fill(tree).mask(None)
    assert keys_of_a_query(mask) == 128 * (1 + 2 + 3 + 4) / 4


@pytest.mark.parametrize(
    ("family", "why"),
    [
        ("gpt2", None),
        ("mistral3", None),
        ("lfm2", None),
        ("mixtral", "mixtures of experts cannot be planned"),
        ("stablelm", None),  # whose attention takes no tree, so that rows are padded
        ("rwkv", "keep their state outside of transformers' cache"),
    ],
)
def test_models_of_other_architectures_are_planned_or_refused(tmp_path, capsys, family, why):
    model = save_family(family, tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(["plan", "countdown", f"model.path={model}", "--gpu", "h100"])
    out, err = capsys.readouterr()
    assert ended.value.code == (2 if why else 0)
    assert (why or "") in err
    assert ("Tokens: prompts" in out) == (why is None)


def test_a_model_that_raises_without_weights_is_refused(monkeypatch):
    def raise_it(case):
        raise TypeError("no numbers")

    monkeypatch.setattr(prepare, "memory_of", raise_it)
    why = "llama models cannot be planned: without weights they raise TypeError: no numbers"
    with pytest.raises(UserError, match=why):
        prepare.prepared(resolve("countdown"), gpu="h100")


def test_what_is_frozen_has_no_moments_and_four_bits_are_not_planned():
    whole, frozen = (
        prepare.prepared(resolve("countdown", more), gpu="h100") for more in ([], ["model.frozen=[layers]"])
    )
    assert (
        frozen.case.learning(frozen.case.recipe.stages[0]).trained
        < whole.case.learning(whole.case.recipe.stages[0]).trained
    )
    with pytest.raises(UserError, match="load_in_4bit: is not planned"):
        prepare.prepared(resolve("countdown", ["model.lora={load_in_4bit: true}"]), gpu="h100")
