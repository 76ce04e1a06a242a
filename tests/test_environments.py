"""The task verifiers, against the package itself: environments of its newer form, and of its older one."""

import importlib
import json
import sys
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import pytest
from support.worlds import save_model

from scorl import tasks
from scorl.cli import main
from scorl.errors import UserError
from scorl.trajectory import Message, user


def offers(module, name):
    """Whether the installed package has this form of environments."""
    try:
        return getattr(importlib.import_module(module), name, None) is not None
    except ImportError:
        return False


newer = pytest.mark.skipif(
    not offers("verifiers.v1", "SingleAgentEnv"),
    reason="verifiers is not installed, or has no tasksets yet: make test-tasks",
)
older = pytest.mark.skipif(
    not offers("verifiers", "SingleTurnEnv"),
    reason="verifiers is not installed, or newer than 0.1, and has no SingleTurnEnv",
)

NEW = """
import verifiers.v1 as vf

__all__ = ["SumsTaskset"]


class Data(vf.TaskData):
    answer: int


class SumsTask(vf.Task[Data]):
    @vf.reward(weight=2.0)
    async def right(self, trace: vf.Trace) -> float:
        if "boom" in trace.last_reply:
            raise KeyError("boom")
        return 0.5 * (trace.last_reply == str(self.data.answer))

    @vf.reward
    async def brief(self, task, trace) -> float:
        assert trace.messages[-2].content == task.prompt and trace.num_turns == 1
        return 0.25 * (len(trace.last_reply) < 3)
{extra}

class Config(vf.TasksetConfig):
    largest: int = 5
    split: str = "train"


class SumsTaskset(vf.Taskset[SumsTask, Config]):
    def load(self):
        return [
            SumsTask(Data(prompt=f"{{self.config.split}} {{a}} + {{b}}?", answer=a + b, {data}), self.config.task)
            for a in range(self.config.largest) for b in range(self.config.largest)
        ]
"""
OLD = """
import verifiers as vf
from datasets import Dataset


def load_environment(largest=5, **kwargs):
    def rows(numbers):
        pairs = [(a, b) for a in numbers for b in numbers]
        return Dataset.from_list([{{"question": f"{{a}} + {{b}}?", "answer": str(a + b)}} for a, b in pairs])

    def right(completion, answer):
        if "boom" in completion[-1]["content"]:
            raise KeyError("boom")
        return float(completion[-1]["content"] == answer)

    def brief(parser, completion, state, info, prompt):
        return 0.25 * (len(parser.parse_answer(completion)) < 3)

    rubric = vf.Rubric(funcs=[right, brief], weights=[1.0, 1.0], parser=vf.Parser())
    return vf.{kind}(
        dataset=rows(range(largest)), eval_dataset=rows(range(largest, largest + 2)), rubric=rubric,
        parser=vf.Parser(), system_prompt="Answer.",
    )
"""


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Puts an environment where Python finds it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)

    def write(source, **parts):
        Path("sums_env.py").write_text(source.format(**{"extra": "", "data": "", "kind": "SingleTurnEnv", **parts}))
        sys.modules.pop("sums_env", None)
        importlib.invalidate_caches()

    return write


def load(**settings):
    return tasks.load("verifiers", environment="someone/sums-env", **settings)


def rewards(task, *texts):
    problem = task.split("test").take(1)[0]
    texts = [text.replace("GOLD", str(problem.answer)) for text in texts]
    return [verdict.reward for verdict in task.judge([(problem, text) for text in texts])]


def test_without_the_package_it_says_how_to_get_it(monkeypatch):
    if find_spec("verifiers"):
        monkeypatch.setattr("scorl.tasks.environment_api.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"needs the package: pip install 'scorl\[verifiers\]'"):
        load()


@newer
def test_a_taskset_gives_problems_and_weighted_rewards(install):
    install(NEW)
    task = load(args={"largest": 4}, correction="Again.")
    parts = {name: task.split(name).take(None) for name in ("train", "test", "all")}
    assert [len(part) for part in parts.values()] == [14, 2, 16]
    assert parts["all"][1].prompt == (user("train 0 + 1?"),)
    assert rewards(task, "GOLD", "GOLD.", "9 1 1", "boom") == [1.25, 0.25, 0, 0]
    assert task.correction == "Again."
    assert len(load(size=3).split("all").take(None)) == 3


@newer
def test_test_problems_of_other_settings_and_another_wording(install):
    install(NEW, data="system_prompt='Be brief.'")
    task = load(args={"split": "train"}, test_args={"split": "test", "largest": 2}, prompt="Q: {question}")
    problems = task.split("test").take(None)
    assert [len(problems), len(task.split("train").take(None))] == [4, 25]
    assert problems[1].prompt == (Message(role="system", content="Be brief."), user("Q: test 0 + 1?"))
    assert rewards(task, "GOLD") == [1.25]


@newer
@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"data": "image='python:3.12'"}, "environment 'someone/sums-env': runs in a container"),
        ({"extra": "    NEEDS_CONTAINER = True"}, "runs in a container"),
        ({"extra": "    async def setup(self, trace, runtime): pass"}, "runs in a container or another runtime"),
        ({"extra": "    @vf.reward\n    async def ran(self, runtime): return 1.0"}, "runs in a container or another"),
        ({"extra": "    def toolsets(config): return ['a tool']\n    toolsets = staticmethod(toolsets)"}, "has tools"),
    ],
)
def test_what_scorl_has_not_is_refused(install, parts, said):
    install(NEW, **parts)
    with pytest.raises(UserError, match=said):
        load()


@newer
def test_what_is_wrong_with_an_environment_is_told(install):
    install(NEW)
    with pytest.raises(UserError, match=r"task.args.larges: environment 'someone/sums-env' says: Extra inputs"):
        load(args={"larges": 3})
    with pytest.raises(UserError, match=r"task\.environment: 'nowhere' is not installed"):
        tasks.load("verifiers", environment="nowhere")
    install("import not_there\n")
    with pytest.raises(UserError, match=r"sums-env' raised ModuleNotFoundError.*sums_env.py, line 1"):
        load()
    install(NEW)
    task = load()
    assert [rewards(task, "boom"), rewards(task, *["boom"] * 6)] == [[0], [0] * 6]
    with pytest.raises(UserError, match=r"all of 8 rewards failed, one raised .*boom"):
        rewards(task, "boom!")
    task = load()
    assert rewards(task, "GOLD", *["boom"] * 20) == [1.25, *[0] * 20]
    assert rewards(task, *["boom"] * 20) == [0] * 20


@older
def test_an_environment_of_the_older_form(install):
    install(OLD)
    task = load(args={"largest": 3})
    assert [len(task.split(name).take(None)) for name in ("train", "test")] == [9, 4]
    assert task.split("test").take(1)[0].prompt == (Message(role="system", content="Answer."), user("3 + 3?"))
    assert rewards(task, "GOLD", "GOLD.", "boom") == [1.25, 0.25, 0]


def test_an_environment_of_the_older_form_says_which_package_it_needs(install, monkeypatch):
    package = ModuleType("verifiers")
    package.__spec__ = ModuleSpec("verifiers", None)
    monkeypatch.setitem(sys.modules, "verifiers", package)
    monkeypatch.setattr("scorl.tasks.environment_api.find_spec", lambda name: name == "verifiers")
    install("def load_environment():\n    import verifiers\n\n    return verifiers.SingleTurnEnv()\n")
    with pytest.raises(UserError, match=r"pip install 'verifiers<0.2'"):
        load()


@older
def test_more_than_one_turn_is_refused(install):
    install(OLD.replace("vf.{kind}(", "ManyTurns(") + "\n\nclass ManyTurns(vf.MultiTurnEnv):\n"
            "    async def env_response(self, messages, state, **kwargs): return []\n")  # fmt: skip
    with pytest.raises(UserError, match="is a ManyTurns, which takes more than one turn"):
        load()


@pytest.mark.parametrize("source", [pytest.param(NEW, marks=newer), pytest.param(OLD, marks=older)], ids=["new", "old"])
def test_a_run_on_an_environment(install, source, tmp_path, capsys):
    install(source)
    recipe = {
        "model": {"path": save_model(tmp_path / "model")},
        "task": {"name": "verifiers", "environment": "sums-env"},
        "engine": {"max_tokens": 4},
        "stages": [{"objective": "score_stage_one", "steps": 1, "problems": 2, "samples": 2, "attempts": 2}],
        "evaluation": {"problems": 2},
    }
    Path("r.yaml").write_text(json.dumps(recipe))
    with pytest.raises(SystemExit) as ended:
        main(["train", "r.yaml", "--out", "run"])
    assert ended.value.code == 0, capsys.readouterr().err
