"""A panel of wordings, and answers that exist already."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from support.templates import chat_of
from test_evaluate import PROBLEMS, TASK

from scorl.answers import evaluate_answers
from scorl.engines.scripted import ScriptedEngine
from scorl.errors import UserError
from scorl.evaluation import evaluate
from scorl.panel import Panel, evaluate_panel
from scorl.report import tabulate_panel, to_markdown
from scorl.settings import EvaluationSettings
from scorl.tasks.turns import SelfRefine
from scorl.tasks.wordings import WORDINGS, choose_wordings

CHAT = chat_of("chatml")
SETTINGS = EvaluationSettings(problems=4)


def answer(prompt: str, seed: int) -> str:
    """2 at first; 3 after `That is wrong`; what was right is kept after the placebo and the neutral wording."""
    if "That is wrong" in prompt:
        return "3"
    return "4" if "First verify" in prompt else "2"


def panel(names: str = "all", attempts: int = 2) -> Panel:
    engine = ScriptedEngine(CHAT, answer)
    return evaluate_panel(engine, TASK, choose_wordings(TASK, names), SETTINGS, model="canned", attempts=attempts)


def test_wordings_share_their_first_attempts_and_one_of_them_is_an_evaluation() -> None:
    asked: list[str] = []

    def remember(prompt: str, seed: int) -> str:
        asked.append(prompt)
        return answer(prompt, seed)

    engine = ScriptedEngine(CHAT, remember)
    several = evaluate_panel(engine, TASK, choose_wordings(TASK, "all"), SETTINGS, model="canned")
    assert len(asked) == 4 * (1 + len(WORDINGS))
    alone = evaluate(ScriptedEngine(CHAT, answer), TASK, SETTINGS, model="canned")
    neutral = several.evaluations["neutral"]
    assert neutral.groups == alone.groups
    assert neutral.summary() == alone.summary() | {"wording": "neutral"}
    for one in several.evaluations.values():
        assert [g[0].responses[0] for g in one.groups] == [g[0].responses[0] for g in neutral.groups]


def test_what_is_said_in_each_wording() -> None:
    messages = {name: one.messages for name, one in panel(attempts=3).evaluations.items()}
    assert messages["neutral"] == (TASK.correction,) * 2
    assert messages["placebo"] == (None, None)
    assert "That is wrong" in str(messages["suggestive"][0])
    assert len(set(messages.values())) == len(WORDINGS)


def test_the_placebo_is_what_no_hint_changes_and_the_rest_is_paired_with_it() -> None:
    """Of 0+1 ... 3+1 the first answer 2 is right once; 3 fixes one and breaks one, 4 likewise; the rest keep."""
    beyond = {name: differences["delta"].value for name, differences in panel().beyond_placebo().items()}
    assert beyond == {"neutral": 0, "verify_first": 0, "suggestive": 0, "again": 0}
    summary = panel().summary()
    assert json.loads(json.dumps(summary)) == summary
    assert set(summary["wordings"]) == set(WORDINGS)
    assert summary["spread"]["delta"]["value"] == 0
    assert panel("neutral,again").beyond_placebo() == {}


def test_the_spread_is_over_wordings_without_the_placebo() -> None:
    shares = {"suggestive": 0.5, "again": 0.0, "placebo": 0.0}

    def break_some(prompt: str, seed: int) -> str:
        number = int(prompt.split("What is ")[1].split()[0])
        return "x" if "That is wrong" in prompt and number % 2 else str(number + 1)

    wordings = choose_wordings(TASK, ",".join(shares))
    measured = evaluate_panel(ScriptedEngine(CHAT, break_some), TASK, wordings, EvaluationSettings(problems=40))
    spread = measured.spread()["delta"]
    assert spread.value == pytest.approx(-0.25)
    assert (spread.low, spread.high) == (pytest.approx(-0.5, abs=0.2), 0.0)
    assert measured.beyond_placebo()["suggestive"]["delta"].value == -0.5
    table = to_markdown(tabulate_panel(measured))
    assert "Delta over 2 wordings: -25.0 on average" in table
    assert "from -50.0 to +0.0" in table
    assert table.splitlines()[4].startswith("| suggestive |")


def test_own_wordings_come_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("sure: Are you sure?\nwait: Wait.\n")
    assert list(choose_wordings(TASK, str(tmp_path / "mine.yaml"))) == ["sure", "wait"]
    assert choose_wordings(TASK, str(tmp_path / "mine.yaml"))["wait"]("", 2)[0].message == "Wait."


@pytest.mark.parametrize(
    ("text", "message"),
    [("- a\n", "name: message"), ("a: [\n", "no YAML"), ("a: 3\n", "name: m"), ("a: ''\n", "name: m")],
)
def test_a_bad_file_of_wordings_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(UserError, match=message):
        choose_wordings(TASK, str(tmp_path / "mine.yaml"))
    with pytest.raises(UserError, match="no such file of wordings"):
        choose_wordings(TASK, str(tmp_path / "yours.yaml"))


def test_unknown_wordings_and_other_turns_are_refused() -> None:
    with pytest.raises(UserError, match="no wording 'placeb': did you mean 'placebo'"):
        choose_wordings(TASK, "neutral,placeb")
    with pytest.raises(UserError, match="correction"):
        choose_wordings(replace(TASK, between=SelfRefine()), "all")


def lines(*rows: dict[str, object]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def test_answers_that_exist_give_the_table_that_sampling_them_gives(tmp_path: Path) -> None:
    sampled = evaluate(ScriptedEngine(CHAT, answer), TASK, SETTINGS, model="canned")
    path = tmp_path / "answers.jsonl"
    rows = [
        {"id": p.id, "attempts": ["2", "2"], "model": "canned", "sampling": {"temperature": 0}} for p in PROBLEMS[:4]
    ]
    path.write_text(lines(*rows))
    (read,) = evaluate_answers(path, TASK, "test")
    before, after = sampled.summary(), read.summary()
    tokens = {name for name in before["metrics"] if name.startswith("tokens")}
    assert all(after["metrics"][name]["value"] is None for name in tokens)
    for name in before["metrics"].keys() - tokens:
        assert after["metrics"][name] == before["metrics"][name]
    assert after["problems_hash"] == before["problems_hash"]
    assert (after["temperature"], after["max_tokens"], after["seed"]) == (0, None, None)


def test_answers_say_the_limit_of_each_attempt(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    path.write_text(lines({"id": "add-1", "attempts": ["2", "2"], "sampling": {"max_tokens": [8, 64]}}))
    (read,) = evaluate_answers(path, TASK, "test")
    assert read.summary()["max_tokens"] == [8, 64]


def test_models_and_wordings_of_a_file_are_kept_apart_and_lines_of_one_problem_are_samples(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    rows = [
        {"id": "add-1", "attempts": ["2", "3"], "model": m, "wording": w}
        for m in "ab"
        for w in ("neutral", "placebo")
        for _ in "12"
    ]
    path.write_text(lines(*rows))
    read = evaluate_answers(path, TASK, "test")
    assert [(e.model, e.wording, e.settings.samples) for e in read] == [
        ("a", "neutral", 2), ("a", "placebo", 2), ("b", "neutral", 2), ("b", "placebo", 2)
    ]  # fmt: skip
    assert read[0].summary()["temperature"] is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no answer in it"),
        ("{", "line 1: not valid JSON"),
        ("[]\n", "line 1: want"),
        (lines({"id": "add-1"}), "no 'attempts'; the line has: id"),
        (lines({"id": "add-1", "attempts": "2"}), "attempts should be a list of texts, not '2'"),
        (lines({"id": "add-1", "attempts": []}), "attempts should be a list"),
        (lines({"id": "add-1", "attempts": ["2"], "answer": 3}), "unknown key 'answer'"),
        (lines({"id": "ad-1", "attempts": ["2"]}), "has no problem 'ad-1': did you mean 'add-1'"),
        (lines({"id": "add-1", "attempts": ["2"], "sampling": 3}), "sampling should be like"),
        (lines({"id": "add-1", "attempts": ["2"], "sampling": {"temperature": "0"}}), "sampling.temperature"),
        (
            lines({"id": "add-1", "attempts": ["2"]}, {"id": "add-2", "attempts": ["2", "3"]}),
            "line 2: 2 attempts, and 1",
        ),
        (lines({"id": "add-1", "attempts": ["2"], "sampling": {"temperature": -1}}), "a number from 0"),
        (lines({"id": "add-1", "attempts": ["2"], "sampling": {"max_tokens": 0}}), "a whole number from 1"),
        (lines({"id": "add-1", "attempts": ["2"], "sampling": {"max_tokens": [9, 0]}}), "or a list of them"),
        (lines({"id": "add-1", "attempts": ["2"], "sampling": {"max_tokens": []}}), "or a list of them"),
        (lines({"id": None, "attempts": ["2"]}), "id should be a text"),
        (lines({"id": "add-1", "attempts": ["2"], "wording": ""}), "wording should be a text"),
        (
            lines(*({"id": f"add-{n}", "attempts": ["2"], "sampling": {"temperature": n}} for n in (1, 2))),
            "line 2: its sampling is not that of",
        ),
        (
            lines(*({"id": f"add-{n}", "attempts": ["2"], "wording": w} for n, w in ((1, "neutral"), (2, "again")))),
            "line 2: of 'answers' the wording 'again' has other problems",
        ),
        (lines(*({"id": f"add-{n}", "attempts": ["2"]} for n in (1, 2, 2))), "2 samples of 'add-2', and 1 of add-1"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "answers.jsonl"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        evaluate_answers(path, TASK, "test")


def test_the_command_reads_answers_and_asks_in_wordings(tmp_path: Path, scorl) -> None:
    out, attempts_out = tmp_path / "p.json", tmp_path / "a.jsonl"
    asked = ("--limit", 4, "--max-tokens", 20, "--wordings", "neutral,placebo")
    written = ("--out", out, "--attempts-out", attempts_out)
    code, table, _ = scorl("evaluate", "scorl:countdown-base", "--task", "countdown", *asked, *written)
    assert code == 0
    assert "| placebo" in table
    records = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert len(records) == 16
    answers: dict[tuple[str, str], list[str]] = {}
    for record in records:
        answers.setdefault((record["problem"], record["wording"]), []).append(record["text"])
    rows = [{"id": p, "attempts": t, "model": "m", "wording": w} for (p, w), t in answers.items()]
    (tmp_path / "answers.jsonl").write_text(lines(*rows))
    code, _, said = scorl("evaluate", tmp_path / "answers.jsonl", "--task", "countdown", "--out", tmp_path / "q.json")
    assert code == 0
    assert "m neutral: answers to 4 of the" in said
    before, after = (json.loads((tmp_path / name).read_text()) for name in ("p.json", "q.json"))
    for name in ("neutral", "placebo"):
        rates = [one["wordings"][name]["metrics"]["accuracy_t2"] for one in (before, after)]
        assert rates[0] == rates[1]
    assert before["delta_beyond_placebo"] == after["delta_beyond_placebo"]


def test_attempts_in_several_wordings_and_of_several_models_are_shown_apart(tmp_path: Path, scorl) -> None:
    first, right, wrong = "4+10=14 14+11=25", "4+10=14 14+12=26", "4+10=14 14+11=25"
    asked = (("a", "neutral", right), ("a", "again", wrong), ("b", "neutral", wrong))
    rows = [
        {"id": "countdown-4-10-11-12-to-26", "attempts": [first, second], "model": model, "wording": wording}
        for model, wording, second in asked
    ]
    (tmp_path / "answers.jsonl").write_text(lines(*rows))
    written = ("--attempts-out", tmp_path / "a.jsonl")
    assert scorl("evaluate", tmp_path / "answers.jsonl", "--task", "countdown", *written)[0] == 0
    _, shown, _ = scorl("show", tmp_path / "a.jsonl")
    place = "== step 0, problem countdown-4-10-11-12-to-26, sample 0, model"
    assert [line for line in shown.splitlines() if line.startswith("==")] == [
        f"{place} a, wording neutral: wrong, then right",
        f"{place} a, wording again: wrong both times",
        f"{place} b, wording neutral: wrong both times",
    ]
    assert shown.count("-- attempt 1") == 3
    assert scorl("show", tmp_path / "a.jsonl", "--flip", "fixed")[1].count("==") == 1


def test_options_of_sampling_are_refused_for_answers_and_wordings_for_one_attempt(tmp_path: Path, scorl) -> None:
    path = tmp_path / "answers.jsonl"
    path.write_text(lines({"id": "countdown-6-7-7-11-to-4", "attempts": ["11-7=4", "11-7=4"]}))
    code, _, said = scorl("evaluate", path, "--task", "countdown", "--limit", 5)
    assert (code, "--limit is of sampling" in said) == (2, True)
    code, _, said = scorl(
        "evaluate", "scorl:countdown-base", "--task", "countdown", "--wordings", "all", "--attempts", 1
    )
    assert (code, "--attempts 2 or more" in said) == (2, True)


def test_answers_without_a_wording_have_a_row_of_their_own(tmp_path: Path, scorl) -> None:
    path = tmp_path / "answers.jsonl"
    rows = [
        {"id": "countdown-6-7-7-11-to-4", "attempts": ["1+1=2", a], "wording": w}
        for a, w in (("11-7=4", None), ("1+1=3", "again"))
    ]
    path.write_text(lines(*rows))
    code, table, _ = scorl("evaluate", path, "--task", "countdown")
    assert code == 0
    assert "| (no name) |" in table
    assert "| again     |" in table
    assert "First attempts are the same in every row." in table


def test_an_exported_wording_is_the_one_that_was_said(tmp_path: Path, scorl) -> None:
    asked = ("evaluate", "scorl:countdown-base", "--task", "countdown", "--limit", 2, "--max-tokens", 20)
    panel_file, alone = tmp_path / "panel.json", tmp_path / "alone.json"
    assert scorl(*asked, "--wordings", "neutral,suggestive", "--out", panel_file)[0] == 0
    code, _, said = scorl("export-eval", panel_file, "--dataset", "me/x")
    assert (code, "--wording neutral or suggestive" in said) == (2, True)
    code, text, _ = scorl("export-eval", panel_file, "--dataset", "me/x", "--wording", "suggestive")
    assert (code, "That is wrong" in text, "There might be an error" in text) == (0, True, False)
    path = tmp_path / "answers.jsonl"
    path.write_text(lines({"id": "countdown-6-7-7-11-to-4", "attempts": ["11-7=4", "11-7=4"]}))
    assert scorl("evaluate", path, "--task", "countdown", "--out", alone)[0] == 0
    code, text, _ = scorl("export-eval", alone, "--dataset", "me/x")
    assert (code, "the user says" in text, "None" in text) == (0, False, False)
