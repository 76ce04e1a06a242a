"""What each rank learns from: whole problems where there are enough, about as many tokens as others, nothing twice."""

from hypothesis import given
from hypothesis import strategies as st

from scorl.learner.balance import balance, share_of_rank
from scorl.trajectory import Credit, Problem, Response, TrainingExample, Trajectory, Verdict


def attempts(problem, lengths, prompt=10):
    """Attempts at a problem, of so many tokens behind its prompt, all of which carry loss."""
    for sample, length in enumerate(lengths):
        ids = tuple(range(length + 1))  # from the last one nothing is predicted
        response = Response((0,) * prompt, ids, (0.0,) * len(ids), "", "stop", Verdict(0.0, ""))
        yield TrainingExample(Trajectory(Problem(problem, ()), sample, (response,)), (Credit(1.0),))


def sizes(examples):
    return [len(example.trajectory.responses[0].ids) - 1 for example in examples]


def test_the_largest_goes_first_and_each_to_the_emptiest():
    assert balance([3, 9, 4, 2], 2) == [[1], [0, 2, 3]]
    assert balance([5, 5, 5], 2) == [[0, 2], [1]]
    assert balance([1], 3) == [[0], [], []]


@given(st.lists(st.integers(0, 1000), max_size=40), st.integers(1, 8))
def test_nothing_is_lost_and_no_share_is_larger_than_another_by_more_than_one_thing(things, parts):
    shares = balance(things, parts)
    assert sorted(place for share in shares for place in share) == list(range(len(things)))
    totals = [sum(things[place] for place in share) for share in shares]
    assert max(totals) - min(totals) <= max(things, default=0)


def test_a_problem_stays_whole_and_its_prompt_counts_once():
    # With the prompt counted for each attempt "b" would be the largest, and stand alone.
    step = [*attempts("a", [40]), *attempts("b", [1, 1, 1, 1]), *attempts("c", [20])]
    assert [sizes(share_of_rank(step, rank, 2)) for rank in (0, 1)] == [[40], [1, 1, 1, 1, 20]]


def test_fewer_problems_than_ranks_are_divided():
    step = list(attempts("a", [90, 3, 3, 3]))
    assert [sizes(share_of_rank(step, rank, 2)) for rank in (0, 1)] == [[90], [3, 3, 3]]
    assert [len(share_of_rank(step[:1], rank, 3)) for rank in range(3)] == [1, 0, 0]


def test_one_rank_has_all_in_its_order():
    step = [*attempts("a", [1, 5]), *attempts("b", [3])]
    assert share_of_rank(step, 0, 1) == step
