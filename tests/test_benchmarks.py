"""The benchmarks count right, and docs/speed.md shows what they wrote."""

import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def benchmarks(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield
    for name in ("common", "floor", "growth", "guards", "profile_parts", "step", "table"):
        sys.modules.pop(name, None)


@pytest.mark.usefixtures("benchmarks")
def test_the_floor_counts_each_distinct_token_once():
    from common import endless, examples
    from floor import work

    policy = endless("scorl:countdown-base")
    one = work(policy, examples(policy, (10, 4, 3), problems=1, samples=1, spread=0))
    two = work(policy, examples(policy, (10, 4, 3), problems=1, samples=2, spread=0))
    assert (one.tokens, one.written) == (10 + 4 + 3 + 4 - 1, 8)
    assert (two.tokens, two.written) == (10 + 2 * (4 + 3 + 4 - 1), 16)
    layer = 4 * 96 * 96 + 3 * 96 * 256
    pairs = 96 * 3 * (20 * 21 // 2)
    assert one.sampling == 20 * 2 * 3 * layer + 8 * 2 * 165 * 96 + 4 * pairs
    assert one.learning == 20 * 8 * 3 * layer + 8 * 8 * 165 * 96 + 16 * pairs


@pytest.mark.usefixtures("benchmarks")
def test_problems_have_the_length_that_was_asked_for():
    from common import endless, task

    policy = endless("scorl:countdown-base")
    drawn = task(policy, 60).split("train").draw(3, 0, 0)
    assert all(abs(len(policy.chat.prompt(p.prompt)) - 60) <= 1 for p in drawn)
    assert len({p.prompt[0]["content"] for p in drawn}) == 3


@pytest.mark.usefixtures("benchmarks")
def test_ratios_are_medians_of_pairs():
    from common import Comparison

    figures = Comparison([1.0, 2.0, 4.0], [3.0, 4.0, 20.0]).figures(tokens=8)
    assert figures == {"ours": 4.0, "peer": 2.0, "ratio": 3.0}


@pytest.mark.usefixtures("benchmarks")
def test_each_guard_takes_its_time_of_a_step():
    from guards import measure

    step, guards = measure("countdown", ["stages.0.problems=4", "stages.0.samples=4"], 1)
    assert all(seconds > 0 for seconds in guards.values())
    assert sum(guards.values()) < step


@pytest.mark.usefixtures("benchmarks")
def test_the_page_shows_the_results():
    from table import PAGE, page, recorded

    results = recorded()
    assert all(f.keys() >= {"ours", "peer", "ratio"} for f in results["comparisons"].values())
    assert all("floor_share" in f for f in results["phases"].values())
    text = PAGE.read_text()
    assert text == page(text, results), "run: python benchmarks/table.py"
