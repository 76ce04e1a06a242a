"""What is looked at before anything is sampled: the room in the model's context, and the chat of whatever is named."""

import json
import warnings
from dataclasses import dataclass, replace
from types import SimpleNamespace

import pytest
from support.families import save_family
from support.templates import chat_of
from support.worlds import letters, save_model

from scorl.errors import UserError
from scorl.model.context import check_context, check_solutions, max_positions, usable_positions
from scorl.model.policy import Policy
from scorl.objectives import Supervised
from scorl.settings import Sampling, ScriptedSettings, TorchSettings, VllmSettings
from scorl.tasks.turns import Correction, SelfRefine
from scorl.training.loop import train
from scorl.training.stage import Stage
from scorl.trajectory import Problem, user

CHAT = chat_of("chatml")
TURNS = Correction()("Again.", 2)


def problem(text, first_attempt=None):
    return Problem(text, (user(text),), first_attempt=first_attempt)


def check(problems, turns, max_tokens, positions):
    return check_context(CHAT, problems, turns, Sampling(max_tokens=max_tokens), positions)


def conversation(text, responses, turns=TURNS):
    """Tokens of a conversation whose responses have so many."""
    ids = CHAT.prompt([user(text)])
    for turn in turns:
        ids = CHAT.follow((*ids, *(9,) * responses), (), turn.message)
    return len(ids) + responses


def test_what_fits_is_passed_over():
    assert check([problem("2 + 2?")], TURNS, 20, conversation("2 + 2?", 20)) is None
    assert check([problem("2 + 2?")], TURNS, 10**6, None) is None
    assert check([], TURNS, 20, 1) is None


def test_what_might_not_fit_is_counted_with_what_would():
    problems = [problem("2 + 2?"), problem("2 + 2? " * 9), problem("2 + 2?"), problem("2 + 2?")]
    most = conversation("2 + 2? " * 9, 20)
    said = check(problems, TURNS, 20, most - 1)
    assert said.startswith(f"context: of 4 problems 1 (25%) might not fit into the model's {most - 1} positions")
    assert f"prompts of {most - 40} tokens and 2 responses of up to 20 are {most};" in said
    assert said.endswith("max_tokens=19 would leave room for all")
    assert "not with a single token" not in said
    least = conversation("2 + 2? " * 9, 1)
    said = check(problems, TURNS, 20, least - 1)
    assert ", 1 of them not with a single token each;" in said
    assert "would leave room" not in said


def test_each_attempt_takes_as_much_room_as_its_own_limit():
    problems = [problem("2 + 2?")]
    room = conversation("2 + 2?", 0) + 10 + 30
    assert check(problems, TURNS, (10, 30), room) is None
    said = check(problems, TURNS, (10, 30), room - 2)
    assert f"2 responses of up to 10 + 30 are {room};" in said
    assert said.endswith("; max_tokens=[9,28] would leave room for all")
    assert check(problems, TURNS, (9, 28), room - 2) is None
    # A critique counts with the attempt that it leads to.
    turns = SelfRefine()("Again.", 2)
    room = conversation("2 + 2?", 0, turns) + 10 + 2 * 30
    assert check(problems, turns, (10, 30), room) is None
    assert "3 responses of up to 10 + 30 + 30 are" in check(problems, turns, (10, 30), room - 1)
    brought = [problem("2 + 2?", first_attempt="5")]
    room = conversation("2 + 2?", 0) + len(CHAT.reply("5")) + 30
    assert check(brought, TURNS, (10, 30), room) is None
    assert "1 responses of up to 30 are" in check(brought, TURNS, (10, 30), room - 1)


def test_nothing_that_fits_is_refused():
    problems = [problem("2 + 2?"), problem("2 + 2? " * 9)]
    least = conversation("2 + 2?", 1)
    assert check(problems, TURNS, 20, least) is not None
    prompts = f"{least - 2} to {conversation('2 + 2? ' * 9, 0)} tokens"
    with pytest.raises(UserError, match=rf"context of {least - 1} positions.*takes {prompts}.*no room for 2 responses"):
        check(problems, TURNS, 20, least - 1)


def test_critiques_and_first_attempts_that_problems_bring_take_room_too():
    turns = SelfRefine()("Again.", 2)
    assert check([problem("2?")], turns, 8, conversation("2?", 8, turns)) is None
    assert check([problem("2?")], turns, 8, conversation("2?", 8, turns) - 1) is not None
    reply = len(CHAT.reply("It is five, of course."))
    room = conversation("2?", 0) + reply + 8
    brought = [problem("2?", first_attempt="It is five, of course.")]
    assert check(brought, TURNS, 8, room) is None
    assert check(brought, TURNS, 8, room - 2) is not None


def test_solutions_beyond_the_positions_are_refused_by_their_problem():
    problems = [replace(problem("2 + 2?"), solution="4"), replace(problem("3 + 3?"), solution="It is six." * 9)]
    room = len(CHAT.prompt(problems[1].prompt)) + len(CHAT.reply(problems[1].solution))
    for positions in (room, None):
        check_solutions(CHAT, problems, positions)
    with pytest.raises(UserError, match=rf"problem 3 \+ 3\?: .* take {room} tokens, and .* has {room - 1} positions"):
        check_solutions(CHAT, problems, room - 1)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_step_does_not_learn_from_what_the_positions_end_before(tmp_path, family):
    policy = Policy(save_family(family, tmp_path))
    text = "say a " * policy.max_positions
    long = replace(problem("say a"), solution=text)
    task = replace(letters(), splits={"train": SimpleNamespace(draw=lambda count, start, seed: [long])})
    with pytest.raises(UserError, match="problem say a: its prompt and its reference solution take"):
        next(train(policy, task, [Stage(Supervised(), 1, problems=1, samples=1, attempts=1)]))


@dataclass
class Config:
    """Of a model, perhaps one that sees."""

    text_config: object = None
    max_position_embeddings: int | None = None

    def get_text_config(self):
        return self.text_config or self


def test_the_limit_is_that_of_the_text():
    assert max_positions(Config(max_position_embeddings=64)) == 64
    assert max_positions(Config(text_config=SimpleNamespace(max_position_embeddings=32))) == 32
    assert max_positions(Config(text_config=SimpleNamespace())) is None
    config = Config(max_position_embeddings=64)
    assert usable_positions(ScriptedSettings("answers.jsonl"), config) is None
    assert usable_positions(VllmSettings(max_model_len=48), config) == 48
    assert [usable_positions(s, config) for s in (VllmSettings(), TorchSettings())] == [64, 64]


# The commands.


@pytest.fixture
def base(tmp_path):
    """A model without a chat template."""
    path = save_model(tmp_path / "base")
    (tmp_path / "base" / "chat_template.jinja").unlink()
    return path


def write_recipe(folder, model, **more):
    path = folder / "own.yaml"
    rows = [{"problem": f"say {word}", "answer": "a"} for word in "abcdef" * 5]
    (folder / "own.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    path.write_text(
        f"model: {json.dumps({'path': model, **more})}\n"
        f"task: {{name: files, path: {folder / 'own.jsonl'}, test_fraction: 0.2, verifier: exact,"
        " prompt: '{question}'}\n"
        "turns: {name: correction, correction: again}\n"
        "engine: {max_tokens: 4}\n"
        "stages: [{objective: reinforce, steps: 1, problems: 2, samples: 2}]\n"
        "evaluation: {problems: 3}\n"
    )
    return path


def limit_positions(model, positions):
    """Another number of positions in a model's configuration."""
    path = f"{model}/config.json"
    with open(path) as file:
        config = json.load(file)
    with open(path, "w") as file:
        json.dump(config | {"max_position_embeddings": positions}, file)


def test_every_command_says_what_to_choose_for_a_base_model(scorl, base, tmp_path):
    recipe = write_recipe(tmp_path, base)
    (tmp_path / "base" / "model.safetensors").write_bytes(b"not read")
    for command in (
        ("train", recipe, "--out", tmp_path / "run"),
        ("train", recipe, "--show-prompts"),
        ("plan", recipe),
        ("evaluate", base, "--task", "countdown"),
        ("doctor", base),
    ):
        code, _, err = scorl(*command)
        assert (code, "set model.chat_template=plain" in err, err.count("\n")) == (2, True, 1), (command, err)


def test_a_base_model_is_trained_and_evaluated_with_a_plain_template(scorl, base, tmp_path):
    run = tmp_path / "run"
    recipe = write_recipe(tmp_path, base, chat_template="plain", stop_strings=["f", "\nUser:"])
    code, _, err = scorl("train", recipe, "--out", run)
    assert code == 0, err
    out = tmp_path / "attempts.jsonl"
    code, _, err = scorl("evaluate", run, "--temperature", 1, "--samples", 8, "--attempts-out", out, "--max-tokens", 30)
    assert code == 0, err
    attempts = [json.loads(line) for line in out.read_text().splitlines()]
    assert not any("f" in attempt["text"] for attempt in attempts)  # the run's stop strings are the model's
    assert any(attempt["finish"] == "stop" for attempt in attempts)
    code, out, err = scorl("doctor", base, "model.chat_template=plain")
    assert code == 0, err
    assert "stop strings      '\\nUser:'" in out


def test_conversations_that_do_not_fit_are_refused_or_counted(scorl, tmp_path):
    model = save_model(tmp_path / "model")
    recipe = write_recipe(tmp_path, model)
    needed = 4 + 4 + 3 + 4  # "<user> say a <assistant>", an answer, "<end> <user> again <assistant>" less the end
    for positions, code, words in ((needed - 7, 2, "no problem fits"), (needed - 2, 0, "(100%) might not fit")):
        limit_positions(model, positions)
        for command in (
            ("train", recipe, "--out", tmp_path / f"run-{positions}"),
            ("plan", recipe, "--steps", 0),
            ("evaluate", model, "--task", "files", f"path={tmp_path / 'own.jsonl'}", "prompt='{question}'",
             "test_fraction=0.2", "verifier=exact", "--max-tokens", 4, "correction=again"),
        ):  # fmt: skip
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always")
                found, _, err = scorl(*command)
            told = err + " ".join(str(warning.message) for warning in said)
            assert (found, words in told) == (code, True), (command, err)


def test_plan_names_a_template_that_is_missing(scorl, tmp_path):
    recipe = write_recipe(tmp_path, save_model(tmp_path / "model"), chat_template="nowhere.jinja")
    code, _, err = scorl("plan", recipe)
    assert code == 2
    assert "nowhere.jinja" in err


def test_a_run_keeps_to_the_day_of_its_start_and_notices_another_template(scorl, tmp_path, monkeypatch):
    model, template = save_model(tmp_path / "model"), tmp_path / "dated.jinja"
    source = (tmp_path / "model" / "chat_template.jinja").read_text()
    template.write_text("{{- strftime_now('%d') | replace('1', 'a ') | replace('2', 'b ') -}}" + source)
    recipe = write_recipe(tmp_path, model, chat_template=str(template))
    days = iter(["2026-01-12", "2026-01-21"])

    class Calendar:
        @staticmethod
        def today():
            return SimpleNamespace(isoformat=lambda: next(days))

    monkeypatch.setattr("scorl.recipe.auto.date", Calendar)
    run = tmp_path / "run"
    assert scorl("train", recipe, "--out", run)[0] == 0
    assert "chat_template_date: '2026-01-12'" in (run / "recipe.yaml").read_text()
    code, out, err = scorl("train", run, "--show-prompts")
    assert "| a b <user>" in out, err
    template.write_text(template.read_text() + " ")
    code, _, err = scorl("train", recipe, "--out", run, "--resume")
    assert (code, f"the run was started with {template}" in err) == (0, True)
    assert "chat_template_date: '2026-01-12'" in (run / "recipe.yaml").read_text()


def test_a_run_that_learns_from_solutions_is_refused_before_it_begins(scorl, tmp_path):
    model = save_model(tmp_path / "model")
    recipe = write_recipe(tmp_path, model)
    rows = [{"problem": f"say {word}", "answer": "a", "solution": "a " * 50} for word in "abcdef"]
    (tmp_path / "own.jsonl").write_text("\n".join(map(json.dumps, rows)))
    limit_positions(model, 30)
    more = ("task.solution=solution", "stages=[{objective: supervised, steps: 1}]")
    code, _, err = scorl("train", recipe, *more, "--out", tmp_path / "run")
    assert (code, "its prompt and its reference solution take 55 tokens" in err) == (2, True), err
    assert not (tmp_path / "run" / "steps.jsonl").exists()
