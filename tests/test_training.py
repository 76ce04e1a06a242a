"""Every objective learns a trivial task in seconds; the same seed gives the same run."""

from dataclasses import replace

import pytest
import torch
from support.worlds import letters, tiny_policy

from scorl.engines.torch import TorchEngine
from scorl.errors import GuardError, UserError
from scorl.evaluation import evaluate
from scorl.learner import Learner
from scorl.metrics import count_tokens
from scorl.model.policy import Policy
from scorl.objectives import PairSFT, Reinforce, StageOne, StageTwo, Star, Supervised
from scorl.run.collected import FileRolloutStore
from scorl.run.directory import RunDirectory
from scorl.settings import LearnerSettings, Sampling
from scorl.tasks.turns import SelfRefine
from scorl.training.loop import train
from scorl.training.stage import Stage
from scorl.trajectory import Problem, Response, Trajectory, Verdict

SAMPLING = Sampling(max_tokens=1)


def run(policy, *stages, lr=5e-3, seed=0, task=None):
    total = sum(stage.steps for stage in stages)
    learner = Learner(policy, LearnerSettings(learning_rate=lr), total=total)
    return list(train(policy, task or letters(), stages, seed=seed, sampling=SAMPLING, learner=learner))


def accuracy(policy, turn, attempts=2):
    result = evaluate(TorchEngine(policy), letters(), attempts=attempts, max_tokens=1)
    return result.summary()["metrics"][f"accuracy_t{turn}"]["value"]


def stage(objective, attempts, steps=90):
    return Stage(objective, steps, problems=6, samples=16, attempts=attempts)


def test_reinforce_learns_one_attempt(tmp_path):
    policy = tiny_policy(tmp_path)
    run(policy, stage(Reinforce(), 1))
    assert accuracy(policy, 1, attempts=1) == 1


def test_reinforce_learns_two_attempts(tmp_path):
    policy = tiny_policy(tmp_path)
    run(policy, stage(Reinforce(), 2))
    assert accuracy(policy, 1) == accuracy(policy, 2) == 1


def test_supervised_learns_the_reference_solutions(tmp_path):
    policy = tiny_policy(tmp_path)
    steps = run(policy, Stage(Supervised(), 30, problems=6, samples=1, attempts=1))
    assert accuracy(policy, 1) == 1
    assert steps[0].line()["accuracy_t1"] is None  # nothing was sampled
    assert steps[-1].progress.loss < 0.1 * steps[0].progress.loss


def test_stage_one_teaches_the_second_attempt_and_holds_the_first(tmp_path):
    policy = tiny_policy(tmp_path)
    steps = run(policy, stage(StageOne(beta_2=3.0), 2, steps=90))
    assert accuracy(policy, 2) == 1
    assert accuracy(policy, 1) == 0  # as it was
    assert steps[-1].progress.kl[0] < 0.05 < steps[-1].progress.kl[1]


def test_stage_two_learns_both(tmp_path):
    policy = tiny_policy(tmp_path)
    run(policy, stage(StageTwo(alpha=10), 2))
    assert accuracy(policy, 1) == accuracy(policy, 2) == 1


def test_three_attempts(tmp_path):
    policy = tiny_policy(tmp_path)
    steps = run(policy, stage(StageTwo(alpha=2), 3))
    assert "accuracy_t3" in steps[0].line()
    assert accuracy(policy, 3, attempts=3) == 1


def test_interleaved_stages(tmp_path):
    one, two = (
        Stage(StageOne(), 2, problems=2, samples=4, name="a"),
        Stage(StageTwo(), 3, problems=4, samples=4),
    )
    steps = run(tiny_policy(tmp_path), one, two, one, two)
    assert [s.index for s in steps] == list(range(10))
    assert [s.line()["stage"] for s in steps] == (["a"] * 2 + ["score_stage_two"] * 3) * 2
    assert [s.groups[0][0].problem.id[-1] for s in steps] == list("acbcabacab")  # no problem skipped or repeated


def test_the_warm_up_can_become_the_reference(tmp_path):
    policy = tiny_policy(tmp_path)
    warm = Stage(Supervised(), 10, problems=6, samples=1, attempts=1)
    held = Stage(StageOne(), 2, problems=2, samples=4, reset_reference=True)
    steps = run(policy, warm, held)
    assert steps[10].progress.kl == pytest.approx({0: 0.0, 1: 0.0}, abs=1e-5)


def test_a_second_prompt_extends_the_first_turn(tmp_path):
    (step,) = run(tiny_policy(tmp_path), stage(StageTwo(), 2, steps=1))
    for group in step.groups:
        for first, second in (t.attempts for t in group):
            before = first.prompt_ids + first.ids
            assert second.prompt_ids[: len(before)] == before


def test_the_same_seed_gives_the_same_run_and_another_seed_another(tmp_path):
    torch.manual_seed(0)
    one = run(tiny_policy(tmp_path), stage(StageTwo(), 2, steps=4))
    torch.manual_seed(1)  # nothing may draw from the global generator
    same = run(tiny_policy(tmp_path), stage(StageTwo(), 2, steps=4))
    other = run(tiny_policy(tmp_path), stage(StageTwo(), 2, steps=4), seed=1)
    assert [s.groups for s in one] == [s.groups for s in same] != [s.groups for s in other]
    assert [s.progress for s in one] == [s.progress for s in same]


def test_a_problem_that_is_drawn_twice_is_sampled_anew(tmp_path):
    (step,) = run(tiny_policy(tmp_path), Stage(StageTwo(), 1, problems=6, samples=8))
    once, again = step.groups[0], step.groups[3]
    assert once[0].problem == again[0].problem
    assert [t.attempts[0].ids for t in once] != [t.attempts[0].ids for t in again]
    assert [t.sample for t in again] == list(range(8, 16))


def test_star_and_pair_sft_learn_second_attempts_from_what_they_collect(tmp_path):
    for name, objective in (("star", Star(epochs=8)), ("pair", PairSFT(epochs=2))):
        policy = tiny_policy(tmp_path / name)
        steps = run(policy, Stage(objective, 60, problems=6, samples=16))
        assert steps[0].batch.collected["trajectories"] == 60 * 6 * 16
        assert steps[0].batch.collected["examples"] * objective.epochs == sum(len(step.examples) for step in steps)
        assert steps[1].batch.collected is None
        assert {example.trajectory.attempts[1].right for step in steps for example in step.examples} == {True}
        assert accuracy(policy, 2) == 1


def test_an_epoch_goes_once_through_what_was_collected(tmp_path):
    (stage,) = (Stage(Star(keep_right=True, epochs=2), 5, problems=3, samples=32),)
    steps = run(tiny_policy(tmp_path), stage)
    seen = [id(example) for step in steps for example in step.examples]
    assert sorted(map(seen.count, set(seen))) == [2] * len(set(seen))


def test_too_few_lessons_are_said_to_be_too_few(tmp_path):
    with pytest.raises(GuardError, match="too few for 9 steps"):
        run(tiny_policy(tmp_path), Stage(Star(), 9, problems=1, samples=1))


def test_what_was_collected_is_kept_and_read_back(tmp_path):
    told = []
    store = FileRolloutStore(RunDirectory(tmp_path / "run"), lambda done, total: told.append((done, total)))

    def once():
        policy = tiny_policy(tmp_path / "model")
        learner = Learner(policy, LearnerSettings(learning_rate=1e-2), total=4)
        stages = [Stage(PairSFT(), 4, problems=3, samples=8)]
        return list(train(policy, letters(), stages, sampling=SAMPLING, learner=learner, store=store))

    first, again = once(), once()
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]  # the second time nothing was sampled
    assert [s.progress.loss for s in first] == [s.progress.loss for s in again]


def tear(text: str) -> str:
    return text[:-30]


DAMAGED = {
    "a torn line": tear,
    "lost lines": lambda text: "".join(text.splitlines(keepends=True)[:-3]),
    "another digit": lambda text: text.replace('"sample": 1', '"sample": 0'),
    "a torn line, of a version before": lambda text: tear(text.partition("\n")[2]),
    "lost lines, of a version before": lambda text: "".join(text.splitlines(keepends=True)[1:-1]),
    "no line": lambda text: "",
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_a_damaged_collection_is_made_again_where_the_policy_is_the_same_and_named_where_not(tmp_path, kind):
    store = FileRolloutStore(RunDirectory(tmp_path / "run"), lambda done, total: None)
    file = tmp_path / "run" / "collected" / "stage-0" / "step-000001.jsonl"

    def start(learner):
        return train(learner.policy, letters(), [stage], sampling=SAMPLING, learner=learner, store=store)

    def new():
        return Learner(tiny_policy(tmp_path / "model"), LearnerSettings(learning_rate=1e-2), total=2)

    stage = Stage(PairSFT(), 2, problems=3, samples=8)
    first, whole = [s.progress.loss for s in start(new())], file.read_bytes()
    file.write_text(DAMAGED[kind](whole.decode()))
    learner = new()
    steps = start(learner)
    assert next(steps).progress.loss == first[0]
    assert file.read_bytes() == whole
    file.write_text(DAMAGED[kind](whole.decode()))
    with pytest.raises(UserError, match=r"stage-0.* (damaged|changed).*the policy that it was collected from"):
        next(start(learner))


def test_a_collection_of_a_version_without_checksums_is_read(tmp_path):
    store = FileRolloutStore(RunDirectory(tmp_path), lambda done, total: None)
    problem, answer = Problem("p", ()), Response((1,), (2,), (0.0,), "\ud800", "stop", Verdict(1.0, "correct"))
    store.write(0, 0, 1, groups := [[Trajectory(problem, 0, (answer,), 0)]])
    assert store.read(0, 0, [problem]) == groups
    file = tmp_path / "collected" / "stage-0" / "step-000000.jsonl"
    file.write_bytes(file.read_bytes().partition(b"\n")[2])
    assert store.read(0, 0, [problem]) == groups


def test_drafts_that_were_not_chosen_are_counted_after_an_interruption_too(tmp_path):
    directory = RunDirectory(tmp_path)
    store = FileRolloutStore(directory, lambda done, total: None)
    problem, answer = Problem("p", ()), Response((1,), (2,), (0.0,), "", "stop", Verdict(1.0, "correct"))
    groups = [[Trajectory(problem, 0, (answer,), branch, dropped_tokens=7) for branch in (0, 1)]]
    store.write(0, 0, 1, groups)
    assert store.read(0, 0, [problem]) == groups
    assert count_tokens(store.read(0, 0, [problem])[0]) == count_tokens(groups[0]) == 7 + 1
    older = [{k: v for k, v in record.items() if k != "dropped_tokens"} for record in directory.collection(0, 0)]
    directory.record_collection(0, 0, older)
    assert [t.dropped_tokens for t in store.read(0, 0, [problem])[0]] == [0, 0]


def test_offline_first_attempts_are_the_references_and_not_trained_on(tmp_path):
    policy = tiny_policy(tmp_path)
    steps = run(policy, Stage(StageOne(beta_2=3.0), 90, problems=6, samples=16, offline=0.5))
    firsts = [t.attempts[0] for group in steps[-1].groups for t in group]
    assert [a.offline for a in firsts[:16]] == [True] * 8 + [False] * 8
    assert accuracy(policy, 2) == 1
    alone = run(tiny_policy(tmp_path / "b"), Stage(StageTwo(), 3, problems=2, samples=4, offline=1.0))
    assert all(step.progress.kl.keys() == {1} for step in alone)  # nothing of the first turn was learned
    assert max(step.progress.logprob_gap for step in alone) < 1e-4


def test_the_reference_writes_nothing_where_no_first_attempt_is_offline(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("the reference was asked to write")

    monkeypatch.setattr("scorl.engines.reference.ReferenceEngine.sample", refuse)
    run(tiny_policy(tmp_path), Stage(StageTwo(), 1, problems=2, samples=4))
    with pytest.raises(AssertionError, match="asked to write"):
        run(tiny_policy(tmp_path), Stage(StageTwo(), 1, problems=2, samples=4, offline=0.5))


def test_first_attempts_of_the_problems_are_repaired_and_not_trained_on(tmp_path):
    task = letters()

    class Wrong:
        def draw(self, count, start, seed):
            return [replace(p, first_attempt="f") for p in task.split("train").draw(count, start, seed)]

    wrong = replace(task, splits={"train": Wrong()})
    steps = run(tiny_policy(tmp_path), Stage(StageTwo(alpha=10), 60, problems=6, samples=16), task=wrong)
    assert {t.attempts[0].text for step in steps for group in step.groups for t in group} == {"f"}
    assert all(step.progress.kl.keys() == {1} for step in steps)
    late = [t.attempts[1].reward for step in steps[-5:] for group in step.groups for t in group]
    assert sum(late) / len(late) > 0.9


def test_branches_share_their_first_attempt(tmp_path):
    policy = tiny_policy(tmp_path)
    steps = run(policy, Stage(StageTwo(alpha=10), 60, problems=6, samples=4, branches=4))
    for group in steps[0].groups:
        start = group[0].sample  # a problem that comes again counts on
        assert [(t.sample - start, t.branch) for t in group] == [(s, b) for s in range(4) for b in range(4)]
        for k in range(0, 16, 4):
            assert len({t.attempts[0].ids for t in group[k : k + 4]}) == 1
    assert accuracy(policy, 2) == 1


def test_an_adaptive_beta_is_noted_and_holds_the_kl(tmp_path):
    steps = run(tiny_policy(tmp_path), Stage(StageOne(beta_2=0.05, target_kl=0.02), 60, problems=6, samples=16))
    betas = [step.line()["adaptive"]["beta_2"] for step in steps]
    assert betas[0] == 0.05
    assert len(set(betas)) > 10
    assert sum(step.progress.kl[0] for step in steps[-10:]) / 10 < 0.1


def test_self_refine_puts_a_critique_between_the_attempts(tmp_path):
    policy = tiny_policy(tmp_path)
    task = replace(letters(), between=SelfRefine("say", "again"))
    result = evaluate(TorchEngine(policy), task, max_tokens=3)
    for (trajectory,) in result.groups:
        first, second = trajectory.attempts
        assert trajectory.labels == ("t1", "c1", "t2")
        assert trajectory.responses[1].verdict is None
        shown = policy.chat.show(second.prompt_ids)
        assert shown.count("<user>") == 3
        assert second.prompt_ids[: len(first.prompt_ids + first.ids)] == first.prompt_ids + first.ids


def test_a_step_says_at_how_many_problems_rewards_tell_no_samples_apart(tmp_path):
    policy = tiny_policy(tmp_path)
    (step,) = run(policy, Stage(Reinforce(), 1, problems=6, samples=3, attempts=1))
    alike = [len({t.attempts[0].reward for t in group}) == 1 for group in step.groups]
    assert 0 < sum(alike) < 6
    assert step.line()["frac_reward_zero_std"] == sum(alike) / 6
    (alone,) = run(policy, Stage(Reinforce(), 1, problems=6, samples=1))
    (shown,) = run(policy, Stage(Supervised(), 1, problems=6, samples=1, attempts=1))
    assert alone.line()["frac_reward_zero_std"] is shown.line()["frac_reward_zero_std"] is None
    same = replace(letters(), judge=lambda pairs: [Verdict(0.1, "correct") for _ in pairs])
    (step,) = run(policy, stage(StageTwo(), 2, steps=1), task=same)
    assert step.line()["frac_reward_zero_std"] == 1
    # The only sample's first attempt is compared with no other: its advantage is its reward, though all are the same.
    (step,) = run(policy, Stage(Reinforce(), 1, problems=6, samples=1, branches=2), task=same)
    assert step.line()["frac_reward_zero_std"] == 0
    (step,) = run(policy, Stage(Reinforce(weights=(0, 0)), 1, problems=6, samples=3))
    assert step.line()["frac_reward_zero_std"] == 1


def test_the_learner_sees_each_attempt_cut_at_its_own_limit(tmp_path):
    policy = tiny_policy(tmp_path)
    one, *_ = train(policy, letters(), [Stage(Reinforce(), 1, problems=6)], sampling=Sampling(max_tokens=(1, 4)))
    firsts, seconds = zip(*(example.trajectory.attempts for example in one.examples), strict=True)
    for attempts, limit in ((firsts, 1), (seconds, 4)):
        assert max(len(a.ids) for a in attempts) == limit
        cut = [a for a in attempts if a.ids[-1] not in policy.chat.end_ids]
        assert cut == [a for a in attempts if a.finish == "length"]
        assert {len(a.ids) for a in cut} == {limit}
    attempts = [*firsts, *seconds]
    line = one.line()
    assert line["truncated"] == pytest.approx(sum(a.finish == "length" for a in attempts) / len(attempts))
    assert line["out_of_context"] == 0


def test_a_step_says_how_many_attempts_found_the_context_used_up(tmp_path, monkeypatch):
    policy = tiny_policy(tmp_path)
    for positions, some in ((128, False), (12, True)):
        monkeypatch.setattr(Policy, "max_positions", positions)
        (step,) = train(policy, letters(), [Stage(Reinforce(), 1, problems=4)], sampling=Sampling(max_tokens=6))
        attempts = [a for group in step.groups for t in group for a in t.attempts]
        full = [a.finish == "length" and len(a.prompt_ids) + len(a.ids) >= positions for a in attempts]
        assert any(full) is some
        assert step.line()["out_of_context"] == sum(full) / len(full)
