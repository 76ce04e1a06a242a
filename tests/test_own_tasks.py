"""Tasks of the user's own: ten lines in a file, checked settings, and what is wrong there in a sentence."""

import json
import pickle
import re
import shutil
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
from support.worlds import save_model

from scorl import tasks
from scorl.errors import UserError
from scorl.recipe import TaskChoice, json_schema, resolve, resolve_task
from scorl.tasks.own import RESERVED
from scorl.trajectory import Problem, user

SAY = """
from dataclasses import dataclass

@dataclass(frozen=True)
class Say:
    letters: str = "abcdef"
    {fields}

    def problems(self):
        {problems}

    def reward(self, completions, answer):
        {reward}
"""
PROBLEMS = 'return [{"problem": f"say {one} {two}", "answer": one} for one in self.letters for two in self.letters]'
REWARD = "return [float(gold in text.split()) for text, gold in zip(completions, answer)]"
RECIPE = """
model: {{path: "{model}"}}
task: {{name: countdown, numbers: 4, split: train}}
engine: {{max_tokens: 4}}
stages: [{{objective: score_stage_one, steps: 2, problems: 4, samples: 2, attempts: 2}}]
evaluation: {{problems: 4, eval_steps: 2}}
checkpoint: {{save_steps: 1}}
"""
SAY_TASK = "task=say.py:Say"


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Writes say.py in the current folder."""
    monkeypatch.chdir(tmp_path)

    def say(fields="", problems=PROBLEMS, reward=REWARD):
        Path("say.py").write_text(SAY.format(fields=fields, problems=problems, reward=reward), encoding="utf-8")

    say()
    return say


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def recipe(write, model):
    Path("r.yaml").write_text(RECIPE.format(model=model), encoding="utf-8")
    return "r.yaml"


def test_rows_become_problems_and_a_tenth_is_held_out(write):
    task = tasks.load("say.py:Say", letters="abcd")
    parts = {name: task.split(name).take(None) for name in ("train", "test", "all")}
    assert [len(part) for part in parts.values()] == [14, 2, 16]
    assert not {p.id for p in parts["train"]} & {p.id for p in parts["test"]}
    problem = parts["all"][1]
    assert (problem.prompt, problem.answer) == ((user("say a b"),), "a")
    verdicts = task.judge([(problem, "a b"), (problem, "b")])
    assert [(v.reward, v.outcome) for v in verdicts] == [(1, "correct"), (0, "incorrect")]


def test_without_a_reward_answers_are_mathematics_and_the_wording_is_a_field(write):
    Path("sums.py").write_text(
        "from dataclasses import dataclass\n\n@dataclass\nclass Sums:\n"
        "    prompt: str = 'What is {question}?'\n    correction: str = 'Again.'\n"
        "    def problems(self):\n"
        "        return ({'question': f'{n} / 2', 'answer': n / 2, 'solution': f'It is {n}/2.'} for n in range(20))\n"
        "    def test_problems(self):\n        return [{'question': '30 / 2', 'answer': 15}]\n"
    )
    task = tasks.load("sums.py:Sums")
    (problem,) = task.split("test").take(None)
    assert problem.prompt == (user("What is 30 / 2?"),)
    assert [task.judge([(problem, text)])[0].reward for text in (r"\boxed{\frac{60}{4}}", "14")] == [1, 0]
    assert (len(task.split("train").take(None)), task.correction) == (20, "Again.")
    assert task.split("train").take(2)[1].solution == "It is 1/2."
    assert tasks.load("sums.py:Sums", prompt="{question} = ?").split("test").take(1)[0].prompt == (user("30 / 2 = ?"),)


def test_a_reward_gets_chat_messages_where_the_rows_have_them(write):
    write(
        problems="return [{'prompt': [{'role': 'user', 'content': f'say {n}'}], 'answer': n} for n in range(9)]",
        reward="said = [(p[-1]['content'], c[0]['content']) for p, c in zip(prompts, completions)]\n"
        "        return [float(one == ('say 3', '3')) for one in said]",
    )
    Path("say.py").write_text(Path("say.py").read_text().replace("completions, answer)", "prompts, completions)"))
    task = tasks.load("say.py:Say")
    assert task.judge([(task.split("all").take(4)[3], "3")])[0].reward == 1


def test_test_problems_that_are_trained_on_are_counted(write):
    write(problems=f"{PROBLEMS}\n\n    def test_problems(self):\n        return self.problems()[:3]")
    with pytest.warns(UserWarning, match=r"^task 'say.py:Say': 3 of 3 test problems are trained on as well"):
        tasks.load("say.py:Say")


def test_problems_may_be_problems_and_build_may_return_a_task(write):
    write(problems="from scorl.trajectory import Problem, user\n"
                   "        return [Problem(f'{n}', (user(f'say {n}'),), n) for n in range(10)]",
          reward="return [float(text == str(gold)) for text, gold in zip(completions, answer)]")  # fmt: skip
    task = tasks.load("say.py:Say")
    assert task.judge([(task.split("all").take(4)[3], "3")])[0].reward == 1
    Path("whole.py").write_text(
        "from dataclasses import dataclass\nimport scorl\n\n@dataclass\nclass Whole:\n    largest: int = 9\n"
        "    def build(self):\n        return scorl.tasks.load('countdown', largest=self.largest)\n"
    )
    whole = tasks.load("whole.py:Whole", largest=5)
    assert whole.name == "whole.py:Whole"
    assert max(max(p.answer["numbers"]) for p in whole.split("train").draw(9, 0, 0)) == 5


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("say.py:Sy", r"say\.py has no class 'Sy': did you mean 'Say'\? Allowed: Say$"),
        ("sy.py:Say", "no such file: sy.py"),
        ("say.py", "not of the form module:class or file.py:class"),
        ("nowhere.at:All", "no such module"),
        ("json:loads", "loads is no dataclass: write @dataclass above `class loads:`"),
        ("json:JSONDecoder", "JSONDecoder is no dataclass"),
        ("scorl.settings:Sampling", "Sampling needs a method problems"),
        ("cuntdown", "did you mean 'countdown'.*file.py:Class"),
    ],
)
def test_a_name_that_leads_to_no_task_is_told(write, name, said):
    with pytest.raises(UserError, match=f"(?s){re.escape(name)}.*{said}"):
        tasks.load(name)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ({"fields": "split: str = 'x'"}, "every task has a key 'split' of its own"),
        ({"fields": "rng: 'Nothing' = None"}, "a field's type is none that a recipe can have .*Nothing"),
        ({"fields": "import threading; lock: threading.Lock = None"}, "a field's type is none that a recipe can have"),
        ({"fields": "x: int = 1/0"}, r"say\.py raised ZeroDivisionError: division by zero .*say\.py, line 7"),
        ({"fields": "x: int ="}, r"say\.py is no Python: .*line 7"),
        ({"problems": "return 1 / 0"}, r"problems raised ZeroDivisionError.*say\.py, line 10"),
        ({"problems": "return []"}, r"problems returned \[\], not problems"),
        ({"problems": "return 'abc'"}, "problems returned 'abc', not problems"),
        ({"problems": "return None"}, "problems returned None, not problems"),
        (
            {"problems": "import random; return [{'problem': str(random.random()), 'answer': 1} for _ in range(9)]"},
            "problems returns other problems each time; take random numbers from a seed",
        ),
        ({"problems": "return [{'answer': 1}] * 9"}, "problems, entry 1: no column problem, prompt"),
        ({"problems": "return ['say a'] * 9"}, r"problems, entry 1: should be like \{\"problem\".*not 'say a'"),
        ({"problems": "return [{'problem': 'x'}] * 9"}, "verifier 'say.py:Say.reward' wants answer"),
        ({"fields": "build: int = 3"}, "'int' object is not callable"),
    ],
)
def test_a_class_that_does_not_fit_is_told_with_its_place(write, source, said):
    write(**source)
    with pytest.raises(UserError, match=f"(?s)task 'say.py:Say'.*{said}|{said}"):
        tasks.load("say.py:Say")


def test_settings_are_checked_as_any_tasks_are(recipe):
    for override, said in {
        "task.letters=3": "task.letters: should be text, not 3",
        "task.leters=ab": r"task.leters: there is no such key: did you mean 'letters'\? Allowed: few_shot",
        "task.numbers=4": "task.numbers: there is no such key",
    }.items():
        with pytest.raises(UserError, match=said):
            resolve(recipe, [SAY_TASK, override])
    with pytest.raises(UserError, match=r"letters: should be text, not 3"):
        resolve_task("say.py:Say", ["letters=3"])


def test_what_a_class_says_of_its_own_settings_is_told(write, recipe):
    for raised, said in {"ValueError('no letters')": "no letters", "KeyError('x')": "KeyError: 'x'"}.items():
        write(fields=f"def __post_init__(self):\n        if not self.letters: raise {raised}")
        with pytest.raises(UserError, match=rf"name 'say.py:Say' raised .*{said} \(.*say.py, line 8\)"):
            resolve(recipe, [SAY_TASK, 'task.letters=""'])


def test_another_task_takes_the_place_of_an_own_one_and_the_split_stays(write, recipe):
    Path("own.yaml").write_text("extends: r.yaml\ntask: {name: 'say.py:Say', letters: abc, split: all}\n")
    assert resolve("own.yaml").task.settings.letters == "abc"
    back = resolve("own.yaml", ["task=word-problems"]).task
    assert (back.name, back.split) == ("word-problems", "all")
    again = resolve("own.yaml").as_dict()["task"]
    assert (again["name"], again["letters"], again["split"]) == ("say.py:Say", "abc", "all")


def test_a_class_that_was_made_without_source_text_is_a_task(write):
    Path("made.py").write_text(
        "from dataclasses import make_dataclass\n"
        "Made = make_dataclass('Made', [('n', int, 3)], namespace={'problems': lambda self: "
        "[{'problem': f'1 + {i}', 'answer': i + 1} for i in range(10 * self.n)]}, frozen=True)\n"
        "Made.__module__ = __name__\n"
    )
    assert len(resolve_task("made.py:Made", ["n=2"]).build().split("all").take(None)) == 20


def test_keys_that_every_task_has_are_reserved_and_the_schema_takes_own_names():
    assert set(RESERVED) == {field.name for field in fields(TaskChoice)} - {"settings"}
    assert json_schema()["properties"]["task"]["properties"]["name"]["if"] == {"pattern": ":"}


def test_commands_take_an_own_task(recipe, model, scorl, tmp_path, monkeypatch):
    code, out, _ = scorl("train", recipe, SAY_TASK, "--show-prompts")
    assert (code, "| <user> say" in out) == (0, True), out
    assert scorl("train", recipe, SAY_TASK, "task.letters=abcd", "--out", "run")[0] == 0
    code, out, error = scorl("evaluate", "run", "--limit", "2")
    assert code == 0, error
    with monkeypatch.context() as elsewhere:
        elsewhere.chdir(tmp_path.parent)
        code, out, error = scorl("evaluate", tmp_path / "run", "--task", "countdown", "--limit", "2")
        assert code == 0, error
        code, out, error = scorl("evaluate", tmp_path / "run", "--limit", "2")
        assert (code, f"no such file: say.py in {tmp_path.parent};" in error) == (2, True), error
    code, out, error = scorl("evaluate", model, "--task", "say.py:Say", "letters=abcd", "--max-tokens", "4")
    assert code == 0, error
    two = [f"{{objective: score_stage_{name}, steps: 1, problems: 2}}" for name in ("one", "two")]
    compared = [f"stages=[{', '.join(two)}]", "task.few_shot=[{problem: say a, answer: a}]"]
    few = ["--methods", "base,score", "--seeds", "1", "--out", "all"]
    code, out, error = scorl("compare", recipe, SAY_TASK, *compared, *few)
    assert code == 0, error
    code, out, error = scorl("plan", recipe, SAY_TASK)
    assert code == 0, error


def test_an_own_task_resumes_to_the_same_bits_and_a_changed_one_is_told(write, recipe, scorl):
    long = [recipe, SAY_TASK, "stages.0.steps=2"]
    assert scorl("train", *long, "--out", "whole")[0] == 0
    assert scorl("train", *long, "--out", "parts")[0] == 0
    steps = [Path(run, "checkpoints/step-2/model.safetensors").read_bytes() for run in ("whole", "parts")]
    assert steps[0] == steps[1]
    Path("say.py").write_text(Path("say.py").read_text() + "\n# changed\n")
    shutil.rmtree("parts/checkpoints/step-2")
    code, _, error = scorl("train", "parts", "--resume")
    assert (code, "the run was started with say.py" in error) == (0, True)
    assert Path("parts/checkpoints/step-2/model.safetensors").read_bytes() == steps[0]
    lines = [Path(run, "steps.jsonl").read_text().splitlines() for run in ("whole", "parts")]
    assert [json.loads(line)["accuracy_t1"] for line in lines[0]] == [json.loads(x)["accuracy_t1"] for x in lines[1]]


def test_a_recipe_with_an_own_task_crosses_to_a_process_that_has_not_imported_it(recipe):
    Path("recipe.pickle").write_bytes(pickle.dumps(resolve(recipe, [SAY_TASK, "task.letters=abc"])))
    code = (
        "import pickle; recipe = pickle.load(open('recipe.pickle', 'rb')); "
        "print(len(recipe.build_task().split('all').take(None)), recipe.as_dict()['task']['letters'])"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert said.stdout.split() == ["9", "abc"], said.stderr


def test_two_files_of_one_name_are_two_tasks(write):
    for folder, letters in (("one", "ab"), ("two", "abc")):
        Path(folder).mkdir()
        source = f"from __future__ import annotations\n{SAY.format(fields='', problems=PROBLEMS, reward=REWARD)}"
        Path(folder, "say.py").write_text(source.replace("abcdef", letters))
    sizes = [len(tasks.load(f"{name}/say.py:Say").split("all").take(None)) for name in ("one", "two", "one")]
    assert sizes == [4, 9, 4]


def test_few_shot_examples_stand_before_an_own_task(write):
    examples = json.dumps([{"problem": "say f f", "answer": "f"}])
    task = resolve_task("say.py:Say", [f"few_shot={examples}"]).build()
    problem = task.split("train").draw(1, 0, 0)[0]
    assert isinstance(problem, Problem)
    assert [m["content"] for m in problem.prompt[:2]] == ["say f f", "f"]
