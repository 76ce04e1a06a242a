"""Functions: what the task promises about its problems, what its judge pays for, and the shipped base model."""

import itertools
import re
from dataclasses import replace

import pytest

from scorl import tasks
from scorl.engines.torch import TorchEngine
from scorl.errors import UserError
from scorl.evaluation import evaluate
from scorl.model.policy import Policy
from scorl.sandbox.bubblewrap import detect_level
from scorl.settings import EvaluationSettings
from scorl.tasks.functions import (
    BUCKETS,
    Form,
    FunctionProblems,
    Functions,
    bucket_of,
    find_forms,
    functions,
    make_problem,
    write_function,
)
from scorl.trajectory import Verdict

full = pytest.mark.skipif(not detect_level().full, reason=f"no full sandbox here: {detect_level().reason}")
FORM = Form("3*x", "+", 4)
PROBLEM = make_problem(Functions(), FORM, (2, 5, 1), (0, 9, 12))


def function_of(text):
    """The function of a one-line program of this world, which may be run here since it is nothing else."""
    assert re.fullmatch(r"def f\(x\): return (\d\*x|x\*x|x//\d)[+-]\d+", text)
    names = {}
    exec(text, names)
    return names["f"]


@pytest.mark.parametrize(
    ("form", "text", "values"),
    [
        (FORM, "def f(x): return 3*x+4", [7, 10, 31]),
        (Form("x*x", "-", 5), "def f(x): return x*x-5", [-4, -1, 76]),
        (Form("x//4", "+", 2), "def f(x): return x//4+2", [2, 2, 4]),
    ],
)
def test_a_function_and_its_text_by_hand(form, text, values):
    assert write_function(form) == text
    assert [form(x) for x in (1, 2, 9)] == values == [function_of(text)(x) for x in (1, 2, 9)]


def test_a_problem_by_hand():
    assert PROBLEM.prompt[0]["content"].endswith("with f(2)=10 f(5)=19 f(1)=7.")
    assert PROBLEM.solution == "def f(x): return 3*x+4"
    assert PROBLEM.answer.tests[2:5] == ("assert f(1) == 7", "assert f(0) == 4", "assert f(9) == 31")


def test_splits_share_no_problem():
    parts = [key(problem) for name in BUCKETS for problem in FunctionProblems(Functions(), name).draw(200, 0, 7)]
    taken = [key(problem) for name in BUCKETS for problem in FunctionProblems(Functions(), name).take(50)]
    where = {}
    for index, one in enumerate(parts):
        assert where.setdefault(one, index // 200) == index // 200
    for index, one in enumerate(taken):
        assert where.setdefault(one, index // 50) == index // 50


def key(problem):
    """What makes a problem: the function, and the examples in any order."""
    return problem.solution, tuple(sorted(problem.answer.tests[:3]))


def test_the_order_of_the_examples_is_no_other_problem():
    assert bucket_of(FORM, (2, 5, 1)) == bucket_of(FORM, (1, 2, 5))
    assert {bucket_of(FORM, shown) for shown in itertools.combinations(range(1, 10), 3)} == set(range(20))


def test_the_examples_tell_the_function_from_all_others_and_the_hidden_values_are_others():
    for position in range(50):
        form, shown, hidden = FunctionProblems(Functions(), "train").choose("draw", 0, position)
        assert find_forms([(x, form(x)) for x in shown]) == {form}
        assert len({*shown, *hidden}) == 8
        assert min(map(form.__call__, shown)) >= 0


def test_problems_are_a_pure_function_of_stream_and_position():
    split = functions().split("train")
    assert split.draw(5, 3, 1) == split.draw(8, 0, 1)[3:] != split.draw(5, 3, 2)
    taken = functions().split("test").take(60)
    assert len({problem.id for problem in taken}) == 60
    assert taken[:20] == functions().split("test").take(20)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"examples": 1}, "examples: should be at least 2, not 1"),
        ({"hidden": 0}, "hidden: should be at least 1, not 0"),
        ({"prompt": "Write f."}, r"does not contain \{examples\}"),
        ({"sandbox": "none"}, "sandbox: 'none' is not among its values"),
    ],
)
def test_wrong_settings_are_named(settings, said):
    with pytest.raises(UserError, match=said):
        tasks.load("functions", **settings)


@full
def test_the_judge_pays_for_the_function_and_not_for_its_shown_values():
    responses = {
        "def f(x): return 3*x+4": "passed",
        "def f(x): return x+x+x+4": "passed",
        "# 3*x+9: f(2)=6+9=15 no\n# 3*x+4: f(2)=6+4=10 ok, f(5)=15+4=19 ok\ndef f(x): return 3*x+4": "passed",
        "def f(x): return 4*x+2": "failed",
        "def f(x): return {2: 10, 5: 19, 1: 7}[x]": "error",
        "def f(x): return {2: 10, 5: 19, 1: 7}.get(x, 4)": "failed",
        "3*x+4": "unparsable",
    }
    verdicts = functions().judge([(PROBLEM, text) for text in responses])
    assert [verdict.outcome for verdict in verdicts] == list(responses.values())
    assert verdicts[0].answer == verdicts[2].answer  # comments are no other answer


def test_the_shipped_base_solves_about_half_at_once():
    policy = Policy("scorl:functions-base")
    known = replace(functions(), judge=lambda pairs: [Verdict(float(text == p.solution), "") for p, text in pairs])
    result = evaluate(TorchEngine(policy), known, EvaluationSettings(problems=100), attempts=1, max_tokens=8)
    assert 0.3 < result.summary()["metrics"]["accuracy_t1"]["value"] < 0.8
