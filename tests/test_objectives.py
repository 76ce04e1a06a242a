"""The credit tables of the method, worked by hand."""

import math

import pytest
from support.conversations import verified

from scorl.objectives import PairSFT, Reinforce, StageOne, StageTwo, Star, Supervised, leave_one_out, shaped_rewards
from scorl.training.stage import Stage
from scorl.trajectory import Credit, Problem, Response, Trajectory, Verdict


def trajectory(*rewards: float, sample: int = 0) -> Trajectory:
    attempts = tuple(Response((1,), (2,), (0.0,), "", "stop", Verdict(reward, "")) for reward in rewards)
    return Trajectory(Problem("p", ()), sample, attempts)


def advantages(objective, *rows):
    group = [trajectory(*row, sample=i) for i, row in enumerate(rows)]
    return [tuple(credit.advantage for credit in example.credits) for example in objective(group)]


@pytest.mark.parametrize(
    ("rewards", "second"),
    [((0, 0), 0), ((0, 1), 11), ((1, 0), -10), ((1, 1), 1)],
    ids=["00", "01", "10", "11"],
)
def test_the_four_rows_of_the_shaped_reward(rewards, second):
    assert shaped_rewards(trajectory(*rewards), alpha=10) == [rewards[0], second]


def test_a_third_attempt_is_paid_for_progress_over_the_second():
    assert shaped_rewards(trajectory(1, 0, 1), alpha=2) == [1, -2, 3]


def test_leave_one_out_by_hand():
    assert leave_one_out([1.0, 0.0, 0.0]) == [1.0, -0.5, -0.5]
    assert leave_one_out([3.0]) == [3.0]
    assert leave_one_out([11.0, -10.0]) == [21.0, -21.0]  # neither standardised nor clamped


def test_reinforce_credits_each_attempt_with_its_own_reward():
    assert advantages(Reinforce(), (1, 0), (0, 0), (0, 1)) == [(1, -0.5), (-0.5, -0.5), (-0.5, 1)]


def test_stage_one_pays_the_second_attempt_only_and_holds_the_first():
    examples = StageOne(beta_1=0.01, beta_2=0.1)([trajectory(1, 0), trajectory(0, 1)])
    assert examples[0].credits == (Credit(0.0, pytest.approx(0.11)), Credit(-1.0, 0.01))
    assert examples[1].credits == (Credit(0.0, pytest.approx(0.11)), Credit(1.0, 0.01))


def test_stage_one_of_three_attempts_holds_the_first_two():
    (example, _) = StageOne(beta_1=0.0, beta_2=0.3)([trajectory(1, 1, 1), trajectory(0, 0, 0)])
    assert example.credits == (Credit(0.0, 0.3), Credit(0.0, 0.3), Credit(1.0, 0.0))


def test_stage_two_by_hand():
    assert advantages(StageTwo(alpha=10), (0, 1), (1, 0), (0, 0)) == [
        (-0.5, 16.0),
        (1.0, -15.5),
        (-0.5, -0.5),
    ]


def test_a_baseline_given_the_attempt_before_by_hand():
    found = advantages(StageTwo(alpha=10, baseline="given_before"), (0, 1), (1, 0), (0, 0))
    assert found == [(-0.5, 11.0), (1.0, -5.5), (-0.5, -5.5)]


def test_the_first_attempt_of_stage_two_knows_neither_r2_nor_alpha():
    first = [[a for a, _ in advantages(StageTwo(alpha=alpha), (1, r), (0, 1 - r))] for alpha in (0, 10) for r in (0, 1)]
    assert all(column == [1, -1] for column in first)


def test_second_attempts_that_share_a_first_cancel_r1():
    for r1 in (0, 1):
        found = [second for _, second in advantages(StageTwo(alpha=10), (r1, 1), (r1, 0), (r1, 0), (r1, 1))]
        assert found == pytest.approx([11 * (r - (2 - r) / 3) for r in (1, 0, 0, 1)])


def test_supervised_imitates():
    assert Supervised()([trajectory(1.0)])[0].credits == (Credit(0.0, 0.0, 1.0),)


def branched(*families):
    """Trajectories of (r1, [r2, ...]): the branches of each first attempt."""
    group = []
    for sample, (first, seconds) in enumerate(families):
        for branch, second in enumerate(seconds):
            made = trajectory(first, second, sample=sample)
            group.append(Trajectory(made.problem, sample, made.attempts, branch))
    return group


def credited(objective, group):
    return [tuple(credit.advantage for credit in example.credits) for example in objective(group)]


def test_branches_compare_second_attempts_with_their_siblings():
    group = branched((1, [1, 0]), (0, [0, 1]))
    found = credited(StageTwo(alpha=10), group)
    assert [first for first, _ in found] == [1, 1, -1, -1]  # a first attempt counts once
    assert [second for _, second in found] == [11, -11, -11, 11]  # r1 cancels


def test_gamma_one_pays_for_wrong_first_attempts():
    """The hack of paper.md, consequence 3: the first attempt is credited r1 + (1 + alpha) r2 - alpha r1."""
    for baseline in ("shaped", "given_before"):
        found = credited(
            StageTwo(alpha=10, gamma=1.0, baseline=baseline), [trajectory(1, 1), trajectory(0, 1, sample=1)]
        )
        assert [first for first, _ in found] == [-9, 9]
    assert credited(Reinforce(gamma=0.5), [trajectory(1, 1), trajectory(0, 0, sample=1)]) == [(1.5, 1), (-1.5, -1)]


def test_weights_choose_which_attempt_is_paid():
    group = [trajectory(1, 0), trajectory(0, 1, sample=1)]
    assert credited(Reinforce(weights=(1.0, 0.0)), group) == [(1, 0), (-1, 0)]
    assert credited(Reinforce(weights=(0.0, 2.0)), group) == [(0, -2), (0, 2)]


def test_an_adaptive_beta_follows_the_kl_to_its_target():
    stage = StageOne(beta_2=1.0, target_kl=0.5)
    assert stage.after({0: 0.5}).beta_2 == 1.0
    assert stage.after({0: 0.75}).beta_2 == pytest.approx(1.1)  # half too much
    assert stage.after({0: 50.0}).beta_2 == pytest.approx(1.2)  # at most 20% a step
    assert stage.after({0: 0.0}).beta_2 == pytest.approx(0.8)
    assert StageOne(beta_2=1.0).after({0: 50.0}).beta_2 == 1.0
    assert stage.after({}) is stage
    assert stage.after({0: math.nan}) is stage  # of a step that was skipped
    assert stage.after({0: math.inf}) is stage


@pytest.mark.parametrize(
    ("settings", "shape", "keys"),
    [
        ({}, {}, []),
        ({"beta_2": 0.0}, {}, ["beta_2"]),
        ({}, {"first": "best", "branches": 2}, ["first"]),
        ({}, {"first": "wrong", "branches": 2}, ["first"]),
        ({}, {"offline": 0.5}, []),
        ({}, {"offline": 1.0}, ["offline"]),
        ({"beta_2": 0.0, "target_kl": None}, {"offline": 1.0}, []),
    ],
)
def test_a_target_that_holds_nothing_is_refused(settings, shape, keys):
    objective = StageOne(**{"target_kl": 0.1, **settings})
    assert [key for key, _ in objective.problems_with(Stage(objective, 1, **shape))] == keys


def test_star_takes_what_went_from_wrong_to_right():
    group = [trajectory(*rewards, sample=i) for i, rewards in enumerate([(0, 1), (1, 1), (1, 0), (0, 0)])]
    assert [example.trajectory.sample for example in Star()(group)] == [0]
    assert [example.trajectory.sample for example in Star(keep_right=True)(group)] == [0, 1]
    assert Star()(group)[0].credits == (Credit(), Credit(imitation=1.0))
    assert Star(imitate="all")(group)[0].credits == (Credit(imitation=1.0),) * 2


def test_star_needs_a_second_attempt_unless_right_ones_are_kept():
    for objective, keys in ((Star(), ["attempts"]), (Star(keep_right=True), [])):
        assert [key for key, _ in objective.problems_with(Stage(objective, 1, attempts=1))] == keys
        assert not [*objective.problems_with(Stage(objective, 1))]


def test_pair_sft_sets_a_right_answer_after_each_wrong_first_attempt():
    def named(number, rewards):
        attempts = tuple(
            Response((1, number, turn), (10 * number + turn,), (0.0,), "", "stop", Verdict(reward, ""))
            for turn, reward in enumerate(rewards)
        )
        return Trajectory(Problem("p", ()), number, attempts)

    group = [named(i, rewards) for i, rewards in enumerate([(0, 0), (1, 0), (0, 1)])]
    examples = PairSFT()(group)
    assert [example.trajectory.sample for example in examples] == [0, 2]
    for example in examples:
        first, second = example.trajectory.attempts
        assert not first.right
        assert second.right
        assert second.ids in {(10,), (21,)}  # the right ones of all attempts
        assert second.prompt_ids == (1, example.trajectory.sample, 1)
    assert [example.trajectory.sample for example in PairSFT(keep_right=True)(group)] == [0, 1, 2]
    assert PairSFT()([named(0, (0, 0))]) == []


@pytest.mark.parametrize("objective", [Star(), Star(imitate="all"), PairSFT(), PairSFT(imitate="all")])
def test_a_right_answer_that_inference_does_not_come_to_is_not_imitated(objective):
    group = [verified(0, "right", 1), verified(0, "wrong", 1, sample=1), verified(0, "right", 0, sample=2)]
    (example,) = objective(group)
    assert example.trajectory.sample == 1
    earlier = Credit(imitation=float(objective.imitate == "all"))
    assert example.credits == (earlier, Credit(), Credit(imitation=1.0))
