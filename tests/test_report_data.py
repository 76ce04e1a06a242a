"""What a report gathers: attempts as columns, histograms, flips by difficulty, what it leaves out of long runs."""

from __future__ import annotations

import json
import re
import sys
import unicodedata
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from support.report_runs import attempt_lines, read_page, write_run

from scorl.cli import commands
from scorl.errors import UserError
from scorl.report import gather_report, save_report
from scorl.report.comparison import read_comparison, read_scaling
from scorl.report.distributions import gather_difficulty, gather_edits
from scorl.report.gather import MEGABYTES, gather_run
from scorl.report.packing import average_lengths, choose_files, pack_attempts, read_flips
from scorl.report.watch import WatchedRun
from scorl.run.directory import RunDirectory
from scorl.run.step_files import StepFiles
from scorl.text_files import make_visible

ODD_ATTEMPTS = [{"reward": "x"}, {"turn": None}, {"problem": ["a"]}, {"text": 5}, {"place": "x"}, {"tokens": "x"}]
ODD_STEPS = [{"seconds": 5}, {"seconds": {"learn": "x"}}, {"alarms": ["x"]}, {"alarms": 5}, {"alarms": [{"step": 1}]}]
ODD_STEPS += [{"alarms": [{"kind": 3, "statistic": "x"}]}, {"loss": [1]}, {"reward_t2": "x"}, {"step": True}]
ODD_STEPS += [{"stage": ["x"]}, {"odd_gradients": [1]}, {"collected": {"tokens": "x"}}, {"truncated": "x"}]
ODD_STEPS += [{"truncated": None, "reward_t1": 1.0}, {"delta": 0.5}]  # without what goes with them


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        *(("attempts/step-000001.jsonl", changes) for changes in ODD_ATTEMPTS),
        ("held-out/step-000006.jsonl", {"reward": "x"}),
        *(("steps.jsonl", changes) for changes in ODD_STEPS),
    ],
    ids=str,
)
def test_a_value_of_another_type_is_said_by_file_and_line(tmp_path, name, changes):
    write_run(tmp_path / "run")
    file = tmp_path / "run" / name
    first, second, *rest = file.read_text().splitlines()
    file.write_text("\n".join([first, json.dumps(json.loads(second) | changes), *rest]) + "\n")
    said = rf"{name}, line 2 .*`{next(iter(changes))}`"
    if name == "steps.jsonl":
        with pytest.raises(UserError, match=said):
            gather_report([tmp_path / "run"])
    else:  # the report is of all other files
        with pytest.warns(UserWarning, match=said):
            (run,) = gather_report([tmp_path / "run"]).runs
        assert len(run.attempts["trajectories"]["step"]) == 7 * 4
    (tmp_path / "run" / "recipe.yaml").write_text("stages: []\n")
    followed = WatchedRun(RunDirectory(tmp_path / "run"))
    followed.refresh()
    assert len(followed.steps) == 6 - (name == "steps.jsonl")  # which leaves such lines out


ODD_EVALUATIONS = [{"metrics": {"delta": {"value": "x", "low": 0, "high": 0}}}, {"outcomes": 5}]
ODD_EVALUATIONS += [{"outcomes": {"a": 5}}, {"outcomes": {"a": "8*"}}, {"edit_ratios": {"a": "x"}}]


@pytest.mark.parametrize("changes", ODD_EVALUATIONS, ids=str)
def test_an_evaluation_with_a_value_of_another_type_is_said(tmp_path, changes):
    write_run(tmp_path / "run")
    file = tmp_path / "run" / "evaluation.json"
    splits = json.loads(file.read_text())
    file.write_text(json.dumps({split: latest | changes for split, latest in splits.items()}))
    with pytest.raises(UserError, match=r"evaluation\.json holds no evaluations"):
        gather_report([tmp_path / "run"])


def pack(path: Path, *steps: list[dict[str, Any]]) -> dict[str, Any]:
    """Packed attempts of steps that have such lines."""
    run = RunDirectory(path)
    for step, lines in enumerate(steps):
        run.record_step({"step": step, "stage": "one"}, lines)
    return pack_attempts(run, choose_files(run, 1), [(0, "one")])


def test_attempts_become_columns_with_every_text_once(tmp_path: Path) -> None:
    same = attempt_lines(0, "p", 0, ("same", "same"), "01", question="why \ud800?")
    packed = pack(tmp_path, same, attempt_lines(1, "p", 0, ("same",), "1", question="why \ud800?", tokens=None))
    strings, trajectories, responses = packed["strings"], packed["trajectories"], packed["responses"]
    assert len(set(strings)) == len(strings)
    assert trajectories["step"] == [1, 0]
    assert trajectories["responses"] == [1, 2]
    assert [strings[k] if k >= 0 else None for k in trajectories["flip"]] == [None, "fixed"]
    assert [strings[k] for k in responses["text"]] == ["same"] * 3
    assert responses["tokens"] == [None, 4, 4]
    assert responses["reward"] == [1, 0, 1]
    assert "why \ud800?" in strings
    assert json.loads(json.dumps(packed)) == packed
    assert list(read_flips(packed)) == [(0, "p", "fixed")]
    assert average_lengths(packed) == {0: {"tokens_t1": 4, "tokens_t2": 4}}


def test_lines_of_old_runs_lack_much(tmp_path: Path) -> None:
    line = {"step": 0, "problem": "p", "sample": 0, "turn": 0, "text": "x", "reward": None, "finish": "stop"}
    packed = pack(tmp_path, [line])
    responses = packed["responses"]
    assert (responses["reward"], responses["reason"], responses["advantage"]) == ([None], [-1], [None])
    assert packed["strings"][responses["role"][0]] == "attempt"


def test_of_a_long_run_every_nth_step_is_taken_and_that_is_said(tmp_path: Path, monkeypatch) -> None:
    run = RunDirectory(write_run(tmp_path / "run", steps=7))
    assert choose_files(run, 1)[:3] == [(7, True), (6, False), (5, False)]
    assert choose_files(run, 3) == [(7, True), (6, False), (3, False), (0, False), (0, True)]
    monkeypatch.setattr("scorl.report.gather.count_bytes", lambda run: 2**20 * 5)
    gathered = gather_report([run.path], megabytes=2)
    assert gathered.every == 3
    report = save_report(gathered, [run.path])
    assert "The attempts of every 3rd step" in report.read_text()
    (packed,) = read_page(report)["attempts"]
    assert sorted(set(packed["trajectories"]["step"])) == [0, 3, 6, 7]
    (option,) = (p for p in commands.commands["report"].params if p.name == "megabytes")
    assert option.default == MEGABYTES


def test_curves_of_attempts_have_only_the_steps_whose_attempts_are_there(tmp_path: Path) -> None:
    run = RunDirectory(write_run(tmp_path / "run", steps=7))
    panels = gather_run("run", run, every=3).charts["training"]
    (lengths,) = (panel for panel in panels if panel["title"] == "Tokens per attempt")
    assert [(one["x"], None in one["y"]) for one in lengths["series"]] == [([0, 3, 6], False)] * 2
    (accuracy,) = (panel for panel in panels if panel["title"] == "Accuracy")
    assert accuracy["series"][0]["x"] == list(range(7))


def test_runs_of_the_same_name_are_told_apart(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        write_run(tmp_path / folder / "score" / "seed-0")
        (tmp_path / folder / "compare.json").write_text(json.dumps({"arms": {"score": {"label": "SCoRe"}}}))
    gathered = gather_report([tmp_path / "one", tmp_path / "two"])
    assert [run.name for run in gathered.runs] == ["one/score", "two/score"]
    assert [comparison["name"] for comparison in gathered.comparisons] == ["one", "two"]
    run = tmp_path / "one" / "score" / "seed-0"
    assert [one.name for one in gather_report([run, run]).runs] == ["seed-0 (1)", "seed-0 (2)"]


def test_several_folders_of_scaling_are_all_there_and_an_empty_one_is_refused(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("base", "trained")]
    for folder in folders:
        folder.mkdir()
        (folder / "scale.json").write_text(json.dumps({"arms": {"parallel": {"1": {"value": 0.5}}}}))
    gathered = gather_report(folders)
    assert [scaling["name"] for scaling in gathered.scalings] == ["base", "trained"]
    assert gathered.title == "base, trained"
    assert gather_report([folders[0], write_run(tmp_path / "run")]).title == "base, run"
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty is no run directory"):
        gather_report([folders[0], tmp_path / "empty"])


def test_a_malformed_comparison_is_an_error_or_lacks_bars(tmp_path: Path) -> None:
    arms = {
        "a": {"label": "same", "metrics": {"accuracy_t1": {"mean": 0.5}, "accuracy_t2": {"mean": float("nan")}}},
        "b": {"label": "same", "metrics": {"accuracy_t1": {"mean": 0.25, "low": 0, "high": 1}}, "fixed": None},
        "c": {},
    }
    file = tmp_path / "compare.json"
    file.write_text(json.dumps({"about": None, "arms": arms}))
    found = read_comparison(tmp_path)
    assert found is not None
    (accuracy,) = found["charts"]
    assert accuracy["rows"] == [
        {"label": "same (a)", "bars": [[50, None, None], None]},
        {"label": "same (b)", "bars": [[25, 0, 100], None]},
    ]
    file.write_text(json.dumps({"arms": {"a": []}}))
    with pytest.raises(UserError, match=r"compare.json has no arms"):
        read_comparison(tmp_path)


def test_the_terminal_and_the_page_hide_the_same_characters() -> None:
    script = files("scorl.report").joinpath("page", "dom.js").read_text(encoding="utf-8")
    (hidden,) = re.findall(r"/\[(.+?)\]\|\[", script)
    in_page = re.compile(f"[{hidden}]")
    letters = [chr(code) for code in range(0x10000) if not 0xD800 <= code < 0xE000]  # lone surrogates are another rule
    assert [letter for letter in letters if in_page.match(letter)] == [x for x in letters if make_visible(x) != x]


def test_what_is_not_seen_is_shown_and_what_languages_need_stays() -> None:
    """By Unicode's categories; ZWNJ and ZWJ, Arabic, Syriac, Kaithi and Egyptian signs are parts of words."""
    kept = {
        *map(chr, (0x200C, 0x200D, 0x6DD, 0x70F, 0x890, 0x891, 0x8E2, 0x110BD, 0x110CD)),
        *map(chr, range(0x600, 0x606)),
    }
    kept |= {"\t", "\n", *map(chr, range(0x13430, 0x13440))}
    unseen = [
        c for c in map(chr, range(sys.maxunicode + 1)) if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp")
    ]
    assert [c for c in unseen if (make_visible(c) == c) != (c in kept)] == []
    text = (
        "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645 \u4f60\u597d\u3000e\u0301\xa0\U0001f3f3\ufe0f\u200d\U0001f308"
    )
    assert make_visible(text) == text


def test_edit_ratios_of_the_first_and_last_evaluation() -> None:
    ends = [{"step": step, "edit_ratios": ratios} for step, ratios in ((0, {"a": 0.0, "b": 1.0}), (9, {"a": 0.52}))]
    middle = {"step": 4, "edit_ratios": {"a": 0.9}}
    (found,) = gather_edits({"test": ends[-1] | {"history": [ends[0], middle, ends[-1]]}})
    first, last = (one["shares"] for one in found["series"])
    assert (first[0], first[-1], sum(first)) == (50, 50, 100)
    assert [k for k, share in enumerate(last) if share] == [10]
    assert gather_edits({"test": {"step": 0}}) == []


def test_flips_are_counted_by_how_hard_problems_are(tmp_path: Path) -> None:
    def group(problem: str, *rewards: str) -> list[dict]:
        return [line for k, word in enumerate(rewards) for line in attempt_lines(0, problem, k, "ab", word)]

    lines = [*group("countdown-1-2-3-to-4", "01", "00", "11", "10"), *group("countdown-1-2-to-4", "01", "01")]
    packed = pack(tmp_path, lines)
    history = [{"step": 0, "outcomes": {"a": "00", "b": "11 00", "c": "1"}}]
    latest = {"step": 5, "outcomes": {"a": "01*", "b": "10 11", "new": "11"}}
    own, numbers, before = gather_difficulty(packed, {"test": latest | {"history": [*history, latest]}})
    assert own["rows"] == [
        {"label": "right: none", "fixed": 2, "broken": 0, "right": 0, "wrong": 0},
        {"label": "right: up to a half", "fixed": 1, "broken": 1, "right": 1, "wrong": 1},
    ]
    assert [(row["label"], row["fixed"]) for row in numbers["rows"]] == [("2 numbers", 2), ("3 numbers", 1)]
    assert before["rows"] == [
        {"label": "right: none", "fixed": 1, "broken": 0, "right": 0, "wrong": 0},
        {"label": "right: up to a half", "fixed": 0, "broken": 1, "right": 1, "wrong": 0},
    ]


def test_a_run_is_described_by_its_files(tmp_path: Path) -> None:
    (run,) = gather_report([write_run(tmp_path / "run", alarm=True)]).runs
    facts = dict(run.facts)
    assert (facts["model"], facts["task"], facts["seed"]) == ("tiny", "countdown", "7")
    assert facts["steps"] == "6 steps: one, then two"
    assert facts["time in steps"] == "0:18"
    assert facts["written"].endswith("UTC")
    assert run.charts["stages"] == [(0, "one"), (3, "two")]
    assert run.charts["alarms"] == [(4, "collapse", "nothing changes")]
    assert any("collapse in 1 steps" in sentence for sentence in run.alarms)
    (lengths,) = (panel for panel in run.charts["training"] if panel["title"] == "Tokens per attempt")
    assert [one["name"] for one in lengths["series"]] == ["attempt 1", "attempt 2"]


def test_a_short_run_that_is_over_has_its_alarms(tmp_path: Path) -> None:
    """Those that want ten steps of a longer one."""
    run = RunDirectory(write_run(tmp_path / "run"))
    lines = [step | {"reward_t1": 0.0, "reward_t2": 0.0} for step in run.steps()]
    (run.path / "steps.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert not gather_run("run", run).alarms
    run.rewrite_recipe("stages: [{steps: 2}, {steps: 4}]\n")
    (alarm,) = gather_run("run", run).alarms
    assert alarm.startswith("no reward in 1 steps from 5 to 5: every reward of the last 6 steps was 0.")


def test_a_recorded_scaling_is_drawn_with_its_differences(tmp_path: Path) -> None:
    recorded = Path(__file__).parents[1] / "docs" / "results" / "scale-countdown-trained.json"
    (tmp_path / "scale.json").write_bytes(recorded.read_bytes())
    scaling = read_scaling(tmp_path)
    assert scaling is not None
    names = [[one["name"] for one in panel["series"]] for panel in scaling["panels"]]
    assert names[0] == ["parallel", "corrected once", "corrected 2 times", "corrected 3 times", "any of them right"]
    assert names[1] == names[0][1:4]


def test_scaling_takes_the_arms_and_the_difference_that_are_there(tmp_path: Path) -> None:
    points = {"8": {"value": 0.6, "low": 0.5, "high": 0.7}, "1": {"value": 0.4}, "2": {"value": None}}
    found = {
        "model": "m",
        "arms": {"parallel": points, "none": {}},
        "difference": {"corrected once": {"8": {"value": -0.1}}},
    }
    (tmp_path / "scale.json").write_text(json.dumps(found))
    scaling = read_scaling(tmp_path)
    assert scaling is not None
    accuracy, difference = scaling["panels"]
    curve = {"name": "parallel", "x": [1, 8], "y": [40, 60], "low": [None, 50], "high": [None, 70]}
    assert accuracy == {"title": "Accuracy", "series": [curve]}
    assert (difference["series"][0]["name"], difference["series"][0]["y"]) == ("corrected once", [-10])
    (tmp_path / "scale.json").write_text(json.dumps({**found, "difference": {}}))
    assert [panel["title"] for panel in (read_scaling(tmp_path) or {})["panels"]] == ["Accuracy"]
    (tmp_path / "scale.json").write_text("[]")
    with pytest.raises(UserError, match=r"scale.json is no JSON object"):
        gather_report([tmp_path])


def test_attempts_that_are_deleted_meanwhile_are_left_out(tmp_path: Path, monkeypatch) -> None:
    run, steps = write_run(tmp_path / "run"), StepFiles.steps
    whole = gather_report([run])
    monkeypatch.setattr(StepFiles, "steps", lambda self: [*steps(self), 99])
    assert gather_report([run]) == whole
