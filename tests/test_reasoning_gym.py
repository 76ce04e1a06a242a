"""The task reasoning-gym, against the package itself: splits, scores, and answers that are programs."""

import json
import re
import sys
import warnings
from importlib.util import find_spec
from pathlib import Path

import pytest
from support.worlds import save_model

from scorl import tasks
from scorl.cli import main
from scorl.errors import UserError
from scorl.recipe import resolve, resolve_task
from scorl.sandbox.bubblewrap import detect_level

needs_package = pytest.mark.skipif(
    not find_spec("reasoning_gym"), reason="reasoning-gym is not installed: make test-tasks"
)


def load(dataset, **settings):
    return tasks.load("reasoning-gym", dataset=dataset, **settings)


def test_without_the_package_it_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    with pytest.raises(
        UserError, match=r"task 'reasoning-gym' needs the package: pip install 'scorl\[reasoning-gym\]'"
    ):
        load("leg_counting")


@needs_package
def test_problems_are_a_pure_function_of_stream_and_position_and_no_test_problem_is_drawn():
    train, test = (load("gcd", config={"max_value": 9}, test_size=20).split(name) for name in ("train", "test"))
    assert train.draw(6, 498, 1) == train.draw(8, 496, 1)[2:] != train.draw(6, 498, 2)
    held_out = {str(problem.prompt) for problem in test.take(None)}
    drawn = {str(problem.prompt) for problem in train.draw(300, 0, 0)}
    assert 1 < len(held_out) <= 20
    assert not held_out & drawn
    assert len({problem.id for problem in train.take(30)}) == len(train.take(30))


@needs_package
@pytest.mark.parametrize("dataset", ["leg_counting", "spiral_matrix", "word_sorting"])
def test_the_data_sets_own_answer_is_right_however_it_is_marked(dataset):
    task = load(dataset, test_size=5)
    problem = task.split("test").take(1)[0]
    gold = problem.answer.answer
    texts = [
        problem.solution,
        f"<think>\n<answer>no</answer></think> <answer>\n{gold}\n</answer>",
        "<answer>no</answer>",
        "",
    ]
    rewards = [verdict.reward for verdict in task.judge([(problem, text) for text in texts])]
    assert rewards[:2] == [1, 1]
    assert max(rewards[2:]) < 0.5


@needs_package
def test_answers_without_tags_are_read_as_everywhere():
    task = load("leg_counting", test_size=5)
    problem = task.split("test").take(1)[0]
    texts = [f"So the answer is {problem.answer.answer}.", f"\\boxed{{{problem.answer.answer}}}", "I do not know."]
    assert [verdict.reward for verdict in task.judge([(problem, text) for text in texts])] == [1, 1, 0]


@needs_package
def test_an_answer_that_is_a_program_harms_nobody(tmp_path):
    task = load("spiral_matrix", test_size=2)
    problem = task.split("test").take(1)[0]
    written = tmp_path / "written"
    hostile = [
        f"[open({str(written)!r}, 'w')]",
        "[__import__('os')._exit(0)]",
        "[9**9**9**9]",
        "[print(1.0)]",
        "[" * 30_000,
    ]
    texts = [f"<answer>{text}</answer>" for text in hostile] + [problem.solution]
    verdicts = task.judge([(problem, text) for text in texts])
    assert [verdict.reward for verdict in verdicts] == [0, 0, 0, 0, 0, 1]
    assert [verdict.outcome for verdict in verdicts][1:3] == ["error", "timeout"]
    assert not (detect_level().bubblewrap and written.exists())


@needs_package
def test_a_composite_of_data_sets():
    task = load(
        "composite", config={"datasets": [{"name": "gcd", "config": {"max_numbers": 2}}, {"name": "lcm", "weight": 3}]}
    )
    problems = task.split("train").draw(8, 0, 0)
    assert {verdict.reward for verdict in task.judge([(problem, problem.solution) for problem in problems])} == {1}


@needs_package
@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"dataset": "leg_countin"}, "task.dataset: no data set 'leg_countin': did you mean 'leg_counting'"),
        ({"dataset": "gcd", "config": {"max_number": 2}}, "task.config.max_number: .*did you mean 'max_numbers'"),
        ({"dataset": "gcd", "config": {"seed": 2}}, "task.config.seed: 'gcd' has no such setting"),
        ({"dataset": "gcd", "config": {"min_numbers": 0}}, "'gcd' refuses it .*min_numbers must be at least 2"),
        ({"dataset": "gcd", "config": {"max_numbers": "x"}}, r"'gcd' refuses it \(TypeError"),
        ({"dataset": "composite"}, "'composite' refuses it .*at least one dataset"),
        ({"dataset": "gcd", "test_size": 0}, "test_size: should be at least 1"),
        ({}, "dataset: is missing"),
    ],
)  # fmt: skip
def test_wrong_settings_are_named(settings, said):
    with pytest.raises(UserError, match=said):
        tasks.load("reasoning-gym", **settings)


@needs_package
def test_a_data_set_with_nothing_left_to_train_on_is_told():
    task = load("coin_flip", config={"min_trials": 1, "max_trials": 1})
    with pytest.raises(UserError, match="nearly all problems of 'coin_flip' are test problems, of which there are 4"):
        task.split("train").draw(1, 0, 0)


@needs_package
def test_test_problems_that_come_twice_are_counted():
    with pytest.warns(UserWarning, match="4 of the 100 test problems of 'coin_flip' are different, and are taken"):
        task = load("coin_flip", config={"min_trials": 1, "max_trials": 1})
    assert len(task.split("test").take(None)) == 4
    with warnings.catch_warnings(action="error"):
        load("gcd", test_size=4)


@needs_package
def test_the_recipe_of_the_documents_has_problems(tmp_path):
    page = (Path(__file__).parents[1] / "docs" / "tasks.md").read_text()
    (block,) = re.findall(r"^```yaml\n((?:(?!```).)*name: reasoning-gym.*?)^```$", page, re.MULTILINE | re.DOTALL)
    (tmp_path / "doc.yaml").write_text(block)
    recipe = resolve(tmp_path / "doc.yaml")
    task = recipe.build_task()
    assert len(task.split("test").take(None)) == recipe.task.settings.test_size
    (problem,) = task.split("train").draw(1, 0, 0)
    assert task.judge([(problem, problem.solution)])[0].reward == 1


@needs_package
def test_a_run_on_it_with_examples(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    recipe = {
        "model": {"path": save_model(tmp_path / "model")},
        "task": {"name": "reasoning-gym", "dataset": "gcd", "config": {"max_numbers": 2}, "prompt": "{question}"},
        "engine": {"max_tokens": 4},
        "stages": [{"objective": "reinforce", "steps": 1, "problems": 2, "samples": 2, "attempts": 2}],
        "evaluation": {"problems": 2},
    }
    Path("r.yaml").write_text(json.dumps(recipe))
    with pytest.raises(SystemExit) as ended:
        main(["train", "r.yaml", "--out", "run"])
    assert ended.value.code == 0, capsys.readouterr().err
    shown = resolve_task("reasoning-gym", ["dataset=gcd", "few_shot=2"]).build().split("test").take(1)[0]
    assert [message["content"][:8] for message in shown.prompt[1::2]] == ["<answer>"] * 2
