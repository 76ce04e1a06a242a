"""PAG, S2R, self-rewarding correction, UFO, GRPO and pass@k: credit tables by hand, and that each learns."""

from dataclasses import replace

import pytest
from support.conversations import response, verified
from support.worlds import half_right, letters, tiny_policy

from scorl import metrics
from scorl.engines.torch import TorchEngine
from scorl.errors import UserError
from scorl.evaluation import evaluate
from scorl.learner import Learner
from scorl.objectives import PAG, UFO, OutcomeLevel, ProcessLevel, Reinforce, RejectionSampling, StageTwo
from scorl.objectives.baseline import best_of
from scorl.recipe import resolve
from scorl.settings import LearnerSettings, Sampling
from scorl.training.loop import train
from scorl.training.stage import Stage
from scorl.trajectory import Credit, Problem, Response, Trajectory, Verdict


def attempts(*answered, sample=0):
    """Attempts by (answer, reward)."""
    made = [Response((1,), (2,), (0.0,), "", "stop", Verdict(float(r), "", answer=a)) for a, r in answered]
    return Trajectory(Problem("p", ()), sample, tuple(made))


def pairs(*rewards):
    return [attempts(*[(str(r), r) for r in row], sample=i) for i, row in enumerate(rewards)]


def offline_first(trajectory):
    first, *later = trajectory.responses
    return replace(trajectory, responses=(replace(first, offline=True), *later))


def advantages(objective, group):
    return [tuple(round(credit.advantage, 9) for credit in example.credits) for example in objective(group)]


# Four conversations: fixed, broken, rightly accepted, wrongly accepted (their last attempts are never come to).
FIXED, BROKEN = verified(0.0, "wrong", 1.0), verified(1.0, "wrong", 0.0, sample=1)
ACCEPTED, MISSED = verified(1.0, "right", 0.0, sample=2), verified(0.0, "right", 1.0, sample=3)
GROUP = [FIXED, BROKEN, ACCEPTED, MISSED]


def test_pag_by_hand():
    """Returns: (0, 1, 1 + a), (1, 0, -a), (1, 1), (0, 0) with a = 2; each less the mean of the others."""
    objective = PAG(alpha=2.0, scale_rewards="none")
    third = 2 / 3
    assert advantages(objective, GROUP) == [
        pytest.approx((-third, third, 5.0)),
        pytest.approx((third, -third, -5.0)),
        pytest.approx((third, third, 0.0)),
        pytest.approx((-third, -third, 0.0)),
    ]
    assert [e.credits[2] for e in objective(GROUP)[2:]] == [Credit(), Credit()]
    assert PAG(beta_1=0.1)(GROUP)[2].credits[2] == Credit()  # no KL either


def test_pag_normalises_answers_and_verifications_apart():
    examples = PAG(alpha=2.0)(GROUP)
    normal = PAG(alpha=2.0).over_batch(examples)
    answers = [e.credits[0].advantage for e in normal] + [e.credits[2].advantage for e in normal[:2]]
    checks = [e.credits[1].advantage for e in normal]
    for values in (answers, checks):
        assert sum(v * v for v in values) / len(values) == pytest.approx(1.0)
    assert checks == pytest.approx([1, -1, 1, -1])
    assert answers[4] == pytest.approx(5 / ((4 * (2 / 3) ** 2 + 2 * 25) / 6) ** 0.5)
    assert [e.credits[2] for e in normal[2:]] == [Credit(), Credit()]


def test_pag_leaves_groups_without_a_difference_and_what_it_does_not_train_out_of_the_spread():
    alike = [verified(1.0, "right", 0.0, sample=i) for i in range(4)]
    objective = PAG(alpha=0.0)
    normal = objective.over_batch([*objective(GROUP), *objective(alike)])
    assert all(credit.advantage == 0 for e in normal[4:] for credit in e.credits)
    brought = [offline_first(verified(0.0, "wrong", float(i % 2), sample=i)) for i in range(4)]
    scaled = [e.credits[2].advantage for e in objective.over_batch(objective(brought))]
    assert scaled == pytest.approx([-1, 1, -1, 1])


def test_pag_of_three_attempts_and_a_verification_that_says_nothing():
    """Returns, alpha 1: r1 0, v 0 (unparsable), r2 1 + (1 - 0), v 1; the third attempt is never come to."""
    silent = response("verification", 0.0)
    said = response("verification", 1.0, "right")
    attempts_made = [response("attempt", r) for r in (0.0, 1.0, 0.0)]
    long = Trajectory(Problem("p", ()), 0, (attempts_made[0], silent, attempts_made[1], said, attempts_made[2]))
    (example,) = PAG(scale_rewards="none")([long])
    assert [c.advantage for c in example.credits] == [0.0, 0.0, 2.0, 1.0, 0.0]
    assert example.credits[4] == Credit()
    assert metrics.outcomes([[long]]) == {"p": "0?1r0"}
    values = metrics.measure([[long]])
    assert (values["accuracy_v1"], values["recall_wrong_v1"], values["recall_right_v1"]) == (0, 0, None)
    assert (values["accuracy_v2"], values["recall_right_v2"], values["accuracy_selective"]) == (1, 1, 1)


def test_branches_share_a_first_answer_and_compare_what_follows():
    """Two first answers with two conversations each: r1 once a family, the rest among siblings that came as far."""
    group = [
        replace(t, sample=sample, branch=branch)
        for t, sample, branch in ((FIXED, 0, 0), (MISSED, 0, 1), (BROKEN, 1, 0), (ACCEPTED, 1, 1))
    ]
    assert advantages(PAG(alpha=0.0, scale_rewards="none"), group) == [
        (-1.0, 1.0, 1.0),
        (-1.0, -1.0, 0.0),
        (1.0, -1.0, 0.0),
        (1.0, 1.0, 0.0),
    ]


def test_with_credit_across_turns_a_pag_verifier_is_paid_for_saying_wrong():
    """Of a wrong answer that is fixed: the truth earns 1 + (1 + alpha). Of a right one that is kept: wrong earns
    0 + 1, as much as the truth; so saying wrong is never worse."""
    group = [verified(1.0, "wrong", 1.0), verified(1.0, "right", 1.0, sample=1)]
    across = advantages(PAG(gamma=1.0, scale_rewards="none"), group)
    assert [row[1] for row in across] == [0.0, 0.0]
    alone = advantages(PAG(scale_rewards="none"), group)
    assert [row[1] for row in alone] == [-1.0, 1.0]
    wrong = [verified(0.0, "wrong", 1.0), verified(0.0, "right", 1.0, sample=1)]
    assert [row[1] for row in advantages(PAG(gamma=1.0, scale_rewards="none"), wrong)] == [3.0, -3.0]


def test_process_level_compares_within_the_reward_context():
    """+1 and -1. Verifications of wrong answers (FIXED, MISSED) apart from those of right ones (BROKEN, ACCEPTED);
    the two last answers have other contexts, so each is compared with all that came as far: with each other."""
    third = 4 / 3
    assert advantages(ProcessLevel(), GROUP) == [
        pytest.approx((-third, 2.0, 2.0)),
        pytest.approx((third, -2.0, -2.0)),
        pytest.approx((third, 2.0, 0.0)),
        pytest.approx((-third, -2.0, 0.0)),
    ]
    again = verified(0.0, "wrong", 0.0, sample=4)  # shares FIXED's context at its last answer
    rows = advantages(ProcessLevel(), [*GROUP, again])
    assert rows[0][2] == pytest.approx(2.0)
    assert rows[4][2] == pytest.approx(-2.0)
    assert rows[1][2] == pytest.approx(-1 - (1 - 1) / 2)  # alone: with all three


def test_outcome_level_pays_every_response_for_the_answer_that_inference_ends_with():
    """Final answers: 1, -1, 1, -1."""
    third = 4 / 3
    assert advantages(OutcomeLevel(), GROUP) == [
        pytest.approx((third, third, 2.0)),
        pytest.approx((-third, -third, -2.0)),
        pytest.approx((third, third, 0.0)),
        pytest.approx((-third, -third, 0.0)),
    ]


def test_rejection_sampling_takes_conversations_that_are_true_throughout():
    examples = RejectionSampling()(GROUP)
    assert [e.trajectory for e in examples] == [FIXED, ACCEPTED]
    assert [[c.imitation for c in e.credits] for e in examples] == [[0, 1, 1], [1, 1, 0]]
    assert [c.imitation for c in RejectionSampling(imitate="all")(GROUP)[0].credits] == [1, 1, 1]
    unread = Trajectory(
        FIXED.problem, 0, (response("attempt", 0.0), response("verification", 0.0), response("attempt", 1.0))
    )
    assert RejectionSampling()([unread]) == []


def test_constructed_traces_end_in_the_right_answer_of_another_sample():
    """A wrong answer rightly called wrong, and a right one behind it that the sample did not find itself."""
    unmended = verified(0.0, "wrong", 0.0, sample=1)
    examples = RejectionSampling(constructed=True)([ACCEPTED, unmended, BROKEN, MISSED])
    assert [e.trajectory.sample for e in examples] == [ACCEPTED.sample, unmended.sample]
    made = examples[1]
    assert made.trajectory.responses[:2] == unmended.responses[:2]
    assert made.trajectory.final.ids in [ACCEPTED.responses[0].ids, MISSED.responses[2].ids]
    assert made.trajectory.final.right
    assert made.trajectory.final.prompt_ids == unmended.responses[2].prompt_ids
    assert [c.imitation for c in made.credits] == [0, 1, 1]
    assert len(RejectionSampling()([ACCEPTED, unmended, BROKEN, MISSED])) == 1
    assert len(RejectionSampling(constructed=True)([unmended])) == 0  # nobody knows a right one


def test_rejection_sampling_balances_what_was_right_at_once_and_what_was_corrected():
    objective = RejectionSampling()
    examples = objective([FIXED, ACCEPTED, ACCEPTED, ACCEPTED])
    weights = [max(c.imitation for c in e.credits) for e in objective.over_batch(examples)]
    assert weights == pytest.approx([2.0, 2 / 3, 2 / 3, 2 / 3])
    assert [max(c.imitation for c in e.credits) for e in objective.over_batch(examples[1:])] == [1.0, 1.0, 1.0]
    rare = objective([FIXED, *[ACCEPTED] * 99])
    assert objective.over_batch(rare)[0].credits[2].imitation == 8.0  # not 50: a step would be this one alone


def test_ufo_by_hand():
    """Returns: right at once 1; right at the second 1/2; never, with the same answer twice: -1/2 x 1/2."""
    group = [
        attempts(("7", 1), ("8", 0)),
        attempts(("5", 0), ("7", 1), sample=1),
        attempts(("5", 0), ("5", 0), sample=2),
    ]
    examples = UFO(beta_1=0.1)(group)
    first, second, third = ([c.advantage for c in e.credits] for e in examples)
    assert first[0] == pytest.approx(1 - (0.5 - 0.25) / 2)
    assert examples[0].credits[1] == Credit()  # nobody would have asked again
    assert second == pytest.approx([0.5 - (1 - 0.25) / 2, 0.75])
    assert third == pytest.approx([-0.25 - (1 + 0.5) / 2, -0.75])


def test_ufo_charges_for_an_attempt_without_an_answer_as_for_one_that_comes_again():
    group = [
        attempts(("5", 0), (None, 0)),
        attempts(("5", 0), ("5", 0), sample=1),
        attempts(("5", 0), ("6", 0), sample=2),
    ]
    nothing, again, new = ([c.advantage for c in e.credits] for e in UFO()(group))
    assert nothing == again == pytest.approx([-0.25 - (-0.25 + 0) / 2] * 2)
    assert new == pytest.approx([0.25] * 2)


def test_ufo_credits_attempts_alone():
    (example, _) = UFO()([FIXED, replace(MISSED, sample=1)])
    assert example.credits[1] == Credit()
    assert example.credits[2].advantage == 0.0


def test_pass_at_k_is_refused_where_it_is_not_pass_at_k(tmp_path):
    path = tmp_path / "r.yaml"
    for keys, key in (
        ("pass_k: 4", "pass_k"),
        ("pass_k: 2, gamma: 0.5", "gamma"),
        ("pass_k: 2, offline: 0.5", "offline"),
        ("pass_k: 2, first: best, branches: 2", "first"),
    ):
        stage = f"{{objective: score_stage_two, steps: 2, problems: 4, samples: 2, {keys}}}"
        path.write_text(f"extends: countdown\nstages: [{stage}]\n")
        with pytest.raises(UserError, match=rf"stages\.0\.{key}: "):
            resolve(str(path))


def test_grpo_divides_by_the_standard_deviation_of_the_problem():
    found = advantages(Reinforce(scale_rewards="group"), pairs((1,), (0,), (0,), (0,)))
    assert found == [pytest.approx((0.75 / 0.5001,)), *[pytest.approx((-0.25 / 0.5001,))] * 3]
    assert advantages(Reinforce(scale_rewards="group"), pairs((1, 0), (1, 0))) == [(0, 0), (0, 0)]


def test_pass_at_k_pays_what_an_attempt_adds_to_the_best_of_k():
    assert best_of([1.0, 0.0, 0.0, 0.0], 2) == [2.0, 0.0, 0.0, 0.0]
    assert best_of([1.0, 1.0, 0.0, 0.0], 2) == pytest.approx([4 / 3, 4 / 3, 0, 0])  # 2 of 3 others are wrong
    assert best_of([1.0, 1.0, 0.0, 0.0], 3) == pytest.approx([1.0, 1.0, 0, 0])  # 1 of 3 pairs of others is wrong
    assert best_of([1.0, 1.0, 1.0], 2) == [0.0, 0.0, 0.0]
    assert best_of([0.5, 0.0], 2) == [1.0, 0.0]
    plain, paid = (advantages(StageTwo(alpha=1, pass_k=k), pairs((1, 1), (1, 0), (0, 1))) for k in (1, 2))
    assert [row[0] for row in paid] == [1.0, 1.0, 0.0]
    assert [row[1] for row in paid] == [row[1] for row in plain]


def test_a_baseline_of_the_reward_context_cancels_r1_exactly():
    """(1 + alpha) r2 - alpha r1, alpha 10, among the samples with the same r1; the last is alone, so with all."""
    group = pairs((0, 1), (0, 0), (0, 0), (1, 1))
    found = [row[1] for row in advantages(StageTwo(alpha=10, baseline="reward_context"), group)]
    assert found == pytest.approx([11.0, -5.5, -5.5, 11 - 11 / 3])


def learn(tmp_path, task, *stages):
    policy = tiny_policy(tmp_path)
    learner = Learner(policy, LearnerSettings(learning_rate=3e-3), total=sum(stage.steps for stage in stages))
    steps = list(train(policy, task, stages, sampling=Sampling(max_tokens=1), learner=learner))
    return policy, steps


@pytest.mark.parametrize("objective", [PAG(), ProcessLevel(), OutcomeLevel()], ids=["pag", "process", "outcome"])
def test_each_learns_to_verify_and_to_revise(tmp_path, objective):
    policy, _ = learn(tmp_path, half_right(), Stage(objective, 100, problems=6, samples=16))
    measured = evaluate(TorchEngine(policy), half_right(), max_tokens=1).summary()["metrics"]
    assert measured["accuracy_t1"]["value"] == 0.5
    assert measured["accuracy_selective"]["value"] == 1
    if not isinstance(objective, OutcomeLevel):
        assert measured["accuracy_v1"]["value"] == 1


def test_with_credit_across_turns_the_verifier_comes_to_say_wrong(tmp_path):
    """Of right answers too, since revisions keep them: recall of right 0, where each response paid for itself has 1."""
    policy, _ = learn(tmp_path, half_right(), Stage(PAG(gamma=1.0), 100, problems=6, samples=16))
    measured = evaluate(TorchEngine(policy), half_right(), max_tokens=1).summary()["metrics"]
    assert measured["recall_right_v1"]["value"] == 0
    assert measured["recall_wrong_v1"]["value"] == 1
    assert measured["accuracy_t2"]["value"] == 1


def test_rejection_sampling_learns_from_what_was_true(tmp_path):
    stage = Stage(RejectionSampling(epochs=6), 30, problems=6, samples=64)
    policy, _ = learn(tmp_path, half_right(), stage)
    measured = evaluate(TorchEngine(policy), half_right(), max_tokens=1).summary()["metrics"]
    assert measured["accuracy_v1"]["value"] == 1


def test_imitation_then_rl_as_in_s2r(tmp_path):
    """The second stage goes on where the first one ends, with that as its reference."""
    imitate = Stage(RejectionSampling(constructed=True, epochs=2), 10, problems=6, samples=64)
    reinforce = Stage(ProcessLevel(beta_1=0.01), 120, problems=6, samples=16, reset_reference=True)
    policy, steps = learn(tmp_path, half_right(), imitate, reinforce)
    kl = steps[10].progress.kl
    assert kl
    assert not any(kl.values())
    measured = evaluate(TorchEngine(policy), half_right(), max_tokens=1).summary()["metrics"]
    assert measured["accuracy_v1"]["value"] == measured["accuracy_selective"]["value"] == 1


def test_ufo_learns_to_mend_what_it_is_told_is_wrong(tmp_path):
    told = replace(half_right(), between=letters().between)
    policy, _ = learn(tmp_path, told, Stage(UFO(), 90, problems=6, samples=16))
    measured = evaluate(TorchEngine(policy), told, max_tokens=1).summary()["metrics"]
    assert measured["accuracy_t1"]["value"] == measured["incorrect_to_correct"]["value"] == 0.5


@pytest.mark.parametrize(
    "objective",
    [
        UFO(),
        Reinforce(scale_rewards="group"),
        Reinforce(pass_k=4),
        StageTwo(pass_k=4),
        StageTwo(baseline="reward_context"),
    ],
    ids=["ufo", "grpo", "pass_k", "score_pass_k", "reward_context"],
)
def test_each_learns_letters(tmp_path, objective):
    policy, _ = learn(tmp_path, letters(), Stage(objective, 90, problems=6, samples=16))
    assert evaluate(TorchEngine(policy), letters(), max_tokens=1).summary()["metrics"]["accuracy_t1"]["value"] == 1


@pytest.mark.parametrize("name", ["pag", "process_level", "outcome_level"])
def test_a_recipe_without_verifications_cannot_train_them(tmp_path, name):
    path = tmp_path / "r.yaml"
    path.write_text(f"extends: countdown\nstages: [{{objective: {name}, steps: 2, problems: 4, samples: 2}}]\n")
    with pytest.raises(UserError, match=rf"turns\.name: {name} learns from every verification.*use verification"):
        resolve(str(path))
