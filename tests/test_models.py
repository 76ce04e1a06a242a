"""The architectures that people bring: each works, or is refused in a sentence before anything is loaded.

`make test` tries some of them, `make test-models` all, and writes the table of docs/models.md.
"""

import json
import os
import re
from pathlib import Path

import pytest
from support.families import FAMILIES, save_family
from transformers import AutoModelForCausalLM

from scorl.cli import main
from scorl.cli.checks import check_model
from scorl.engines.prefix_support import check_cached_rows
from scorl.errors import UserError
from scorl.model.chat import Chat
from scorl.model.policy import Policy
from scorl.settings import LoraSettings, ModelSettings

PAGE = Path(__file__).parents[1] / "docs" / "models.md"
HEADER = (
    "| transformers' type | models | sampled | learned from | all weights | adapters |\n"
    "| -- | -- | -- | -- | -- | -- |\n"
)
ALL = os.environ.get("SCORL_ALL_MODELS")
REFUSED = ["rwkv", "xlstm", "deepseek-v3.2"]
FEW = ["qwen2", "qwen3.5", "gemma3n", "llama4", "mistral3", "granite-hybrid", "nemotron-h", "mamba2", "rwkv"]


@pytest.fixture(scope="module")
def table():
    """The rows by family; written to the page where all families are tried."""
    rows = {}
    yield rows
    if ALL and len(rows) == len(FAMILIES):
        text = PAGE.read_text(encoding="utf-8")
        lines = HEADER + "".join(rows[name] + "\n" for name in FAMILIES)
        head, _, rest = text.partition(HEADER)
        PAGE.write_text(head + lines + re.sub(r"\A(\|.*\n)*", "", rest), encoding="utf-8")


def scorl(*arguments):
    with pytest.raises(SystemExit) as caught:
        main([str(argument) for argument in arguments])
    return caught.value.code


def recipe_of(folder, model, lora):
    path = folder / "recipe.yaml"
    path.write_text(
        f"model: {{path: {model}, dtype: float32, lora: {lora}}}\n"
        "task: {name: countdown}\n"
        "engine: {name: torch, max_tokens: 6}\n"
        "learner: {learning_rate: 1.0e-3}\n"
        "stages: [{objective: reinforce, steps: 2, problems: 2, samples: 2}]\n"
        "evaluation: {problems: 2}\n"
    )
    return path


def trained(folder, model, lora):
    """Whether two steps run to their end, and sampler and learner agree."""
    folder.mkdir()
    assert scorl("train", recipe_of(folder, model, lora), "--out", folder / "run") == 0
    steps = [json.loads(line) for line in (folder / "run" / "steps.jsonl").read_text().splitlines()]
    assert len(steps) == 2
    assert all(step["logprob_gap"] < 1e-4 for step in steps)
    return "yes"


def row_of(name, folder):
    """A family's row of the table."""
    family = FAMILIES[name]
    model = save_family(name, folder / "model")
    try:
        settings = ModelSettings(model, dtype="float32")
        found = dict(check_model(settings, Chat.of_model(settings)))
    except UserError as refusal:
        sentence = str(refusal).removeprefix(f"{model}: ")
        assert "\n" not in sentence
        return f"| `{family.kind}` | {family.known_as} | refused: {sentence} |  |  |  |"
    assert scorl("evaluate", model, "--task", "countdown", "--limit", "2", "--max-tokens", "6") == 0
    cells = [re.sub(r", which is slower: (the model |it )?", ": ", found[key]) for key in ("sampling", "learning")]
    cells = [re.sub(r"raised (\w+): .*", r"raised \1", cell) for cell in cells]
    cells = [cell.replace("each sample copies its prompt", "copied prompts").removeprefix("as ") for cell in cells]
    cells = [re.sub(r"^samples share their prompt.*", "shared prompts", cell).partition(": what")[0] for cell in cells]
    cells += [trained(folder / "full", model, "null"), trained(folder / "lora", model, "{r: 4}")]
    return f"| `{family.kind}` | {family.known_as} | {' | '.join(cells)} |"


@pytest.mark.parametrize("name", FAMILIES if ALL else FEW)
@pytest.mark.filterwarnings("ignore")
def test_it_works_or_is_refused_as_the_page_says(name, tmp_path, table):
    row = row_of(name, tmp_path)
    table[name] = row
    if not ALL:  # else it is written
        assert row in PAGE.read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("lora", [None, LoraSettings(r=2)], ids=["full", "lora"])
@pytest.mark.parametrize("name", [n for n in (FAMILIES if ALL else FEW) if n not in REFUSED])
@pytest.mark.filterwarnings("ignore")
def test_it_is_sampled_in_half_precision_as_it_computes(name, tmp_path, lora):
    check_cached_rows(Policy(save_family(name, tmp_path), dtype="bfloat16", lora=lora))


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_is_not_loaded(name, tmp_path, monkeypatch):
    model = save_family(name, tmp_path)
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", lambda *_, **__: pytest.fail("loaded"))
    assert scorl("doctor", model) == 2
    assert scorl("evaluate", model, "--task", "countdown") == 2
    assert scorl("train", "countdown", "--out", tmp_path / "run", f"model.path={model}") == 2
    assert not (tmp_path / "run").exists()
