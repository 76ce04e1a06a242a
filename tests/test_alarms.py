"""Alarms: what raises them, what does not, and what they say."""

from scorl.metrics import describe_alarms, find_alarms
from scorl.metrics.alarms import FEW, IDLE, WINDOW


def line(step, first, second, changed, noise=0.02):
    wiggle = noise if step % 2 else -noise
    return {
        "step": step,
        "accuracy_t1": first + wiggle,
        "accuracy_t2": second + wiggle,
        "delta": second - first + (wiggle / 10),
        "answer_changed": changed,
    }


def kinds(lines):
    return [alarm.kind for alarm in find_alarms(lines)]


def test_copies_with_no_delta_are_a_collapse():
    copies = [line(i, 0.5, 0.5, 0.01) for i in range(WINDOW)]
    assert kinds(copies) == ["collapse"]
    assert kinds(copies[:-1]) == []  # the window is not full
    assert "1.0% of answers changed" in find_alarms(copies)[0].statistic
    assert kinds([line(i, 0.5, 0.5, 0.3) for i in range(WINDOW)]) == []
    assert kinds([line(i, 0.5, 0.53, 0.04) for i in range(WINDOW)]) == []  # few changes, but good ones


def test_first_attempts_given_up_for_second_ones_are_a_reward_hack():
    early = [line(i, 0.5, 0.5, 0.3) for i in range(WINDOW)]
    late = [line(i, 0.3, 0.8, 0.6) for i in range(WINDOW, 2 * WINDOW)]
    assert kinds(early + late) == ["reward_hack"]
    assert kinds(early + [line(i, 0.5, 0.8, 0.6) for i in range(WINDOW, 2 * WINDOW)]) == []
    assert kinds(early + [line(i, 0.3, 0.3, 0.6) for i in range(WINDOW, 2 * WINDOW)]) == []


def test_steps_without_second_attempts_are_passed_over():
    copies = [line(i, 0.5, 0.5, 0.01) for i in range(WINDOW)]
    assert kinds([*copies, {"step": WINDOW, "delta": None}]) == []
    assert kinds([{"step": 0, "delta": None}, *copies]) == ["collapse"]


def test_the_end_says_when_and_what_to_try():
    lines = [line(i, 0.5, 0.5, 0.01) | {"alarms": []} for i in range(3)]
    lines += [line(i, 0.5, 0.5, 0.01) | {"alarms": [{"kind": "collapse", "statistic": "so"}]} for i in (3, 4)]
    (sentence,) = describe_alarms(lines)
    assert sentence.startswith("collapse in 2 steps from 3 to 4: so.")
    assert "Stage I" in sentence
    assert describe_alarms(lines[:3]) == []


def rewarded(first, second, truncated=0.5):
    return {"reward_t1": first, "reward_t2": second, "truncated": truncated}


def test_rewards_that_are_all_the_same_are_an_alarm():
    assert kinds([rewarded(0.0, 0.0)] * IDLE) == ["no_reward"]
    assert kinds([rewarded(1.0, None)] * IDLE) == ["no_reward"]
    assert kinds([rewarded(0.0, 0.0)] * (IDLE - 1)) == []
    assert kinds([rewarded(0.0, 0.0)] * (IDLE - 1) + [rewarded(0.0, 0.1)]) == []
    assert kinds([rewarded(0.0, 1.0)] * IDLE) == []
    assert kinds([rewarded(0.0, 0.0)] * IDLE + [rewarded(None, None, None)]) == []  # a stage that imitates
    assert "every reward of the last 10 steps was 0" in find_alarms([rewarded(0.0, 0.0)] * IDLE)[0].statistic


def test_attempts_that_are_all_cut_off_are_an_alarm():
    assert kinds([rewarded(0.1, 0.0, 1.0)] * IDLE) == ["truncated"]
    assert kinds([rewarded(0.1, 0.0, 1.0)] * (IDLE - 1) + [rewarded(0.1, 0.0, 0.9)]) == []


def test_rewards_that_are_the_same_in_every_group_are_an_alarm():
    line = rewarded(0.3, 0.6)
    assert kinds([line | {"frac_reward_zero_std": 1.0}] * IDLE) == ["no_reward"]
    assert kinds([line | {"frac_reward_zero_std": 1.0}] * (IDLE - 1) + [line | {"frac_reward_zero_std": 0.9}]) == []
    assert kinds([line | {"frac_reward_zero_std": None}] * IDLE) == []  # one sample
    assert "every advantage was 0" in find_alarms([line | {"frac_reward_zero_std": 1.0}] * IDLE)[0].statistic
    halves = rewarded(0.0, 0.0)  # of rewards of -1 and 1
    assert kinds([halves | {"frac_reward_zero_std": 1.0}] * IDLE) == ["no_reward"]
    assert kinds([halves | {"frac_reward_zero_std": 1.0}] * (IDLE - 1) + [halves | {"frac_reward_zero_std": 0.5}]) == []


def test_a_run_too_short_for_an_alarm_raises_it_at_its_end():
    lines = [rewarded(0.0, 0.0, 1.0) | {"step": step} for step in range(FEW)]
    assert kinds(lines) == []
    assert [sentence.split(":")[0] for sentence in describe_alarms(lines, done=True)] == [
        "no reward in 1 steps from 2 to 2",
        "truncated in 1 steps from 2 to 2",
    ]
    assert describe_alarms(lines) == describe_alarms(lines[:-1], done=True) == []
    assert describe_alarms([*lines, rewarded(0.1, 0.0) | {"step": FEW}], done=True) == []


def test_a_context_that_is_used_up_is_an_alarm_at_once():
    full = rewarded(0.1, 0.2) | {"out_of_context": 0.5}
    assert kinds([full]) == ["out_of_context"]
    assert "50% of the attempts" in find_alarms([full])[0].statistic
    assert kinds([full | {"out_of_context": 0.01}]) == []
    assert kinds([full, full | {"out_of_context": None}]) == []  # a stage that imitates
