"""Tables, trajectories and the report, read as their reader does."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from rich.console import Console
from support.report_runs import read_page
from test_metrics import groups, trajectory

from scorl.errors import UserError
from scorl.evaluation import Evaluation
from scorl.report import (
    fold_columns,
    show_trajectories,
    tabulate_change,
    tabulate_evaluation,
    to_markdown,
    to_rich,
    write_report,
)
from scorl.report.table import Grid
from scorl.report.trajectories import gather_trajectories, mark_changes, present
from scorl.run.files import response_records
from scorl.settings import EvaluationSettings
from scorl.trajectory import user


def evaluation(*rights: str) -> Evaluation:
    return Evaluation("tiny", "countdown", EvaluationSettings(), 2, 64, 0, tuple(groups(*rights)))


BEFORE = evaluation(*["10"] * 30, *["00"] * 40, *["11"] * 30)
AFTER = evaluation(*["11"] * 60, *["01"] * 30, *["00"] * 10)


def printed(terminal: bool, path: Path, **asked: Any) -> str:
    out = StringIO()
    show_trajectories(path, Console(file=out, force_terminal=terminal, width=100), **asked)
    return out.getvalue()


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of six steps in two stages, evaluated before and after."""
    (tmp_path / "attempts").mkdir()
    with (tmp_path / "steps.jsonl").open("w") as file:
        for step in range(6):
            line = {
                "step": step,
                "stage": "one" if step < 3 else "two <b>",
                "accuracy_t1": 0.5,
                "accuracy_t2": None,
            }
            seconds = {"sample": 0.5, "judge": 0.1, "learn": 0.4}
            file.write(
                json.dumps({**line, "loss": float("nan") if step == 2 else 0.1 * step, "seconds": seconds}) + "\n"
            )
    trajectories = [
        trajectory("a", "01", ("21-5=17", "21-5=16")),
        trajectory("b", "10", ("x < y & [bold]", "x < y & [bold]\x1b[31m!")),
        trajectory("c", "11", ("same", "same")),
    ]
    lines = [json.dumps(record) for t in trajectories for record in response_records(5, t)]
    (tmp_path / "attempts" / "step-000005.jsonl").write_text("\n".join(lines) + "\n")
    history = [{**e.summary(), "step": step} for e, step in ((BEFORE, 0), (AFTER, 6))]
    (tmp_path / "evaluation.json").write_text(json.dumps({"test": {**history[-1], "history": history}}))
    (tmp_path / "recipe.yaml").write_text("seed: 0  # <seed>\n")
    return tmp_path


def test_before_and_after_with_paired_changes() -> None:
    text = to_markdown(tabulate_change(BEFORE, AFTER.summary()))
    rows = {
        row[1].strip(): [cell.strip() for cell in row[2:-1]]
        for line in text.splitlines()
        if len(row := line.split("|")) > 3
    }
    assert [cell.split()[0] for cell in rows["accuracy@t1"][:3]] == ["60.0", "60.0", "+0.0"]
    delta = rows["Delta(t1, t2)"]
    assert [cell.split()[0] for cell in delta[:3]] == ["-30.0", "+30.0", "+60.0"]
    assert delta[3] == "< 0.001"
    assert rows["right, then wrong (c->i)"][1].startswith("0.0 [0.0, ")
    assert "paired by problem" in text
    assert "before p < 0.001, after p < 0.001" in text


def test_other_problems_are_not_paired() -> None:
    text = to_markdown(tabulate_change(evaluation("01", "10"), AFTER))
    assert "no interval: the two are not about the same problems" in text
    assert "+10.0" in text


@pytest.mark.parametrize("changed", [{"answer": "17"}, {"prompt": (user("another"),)}, {}])
def test_problems_with_the_same_ids_are_paired_where_they_are_the_same(changed: dict[str, Any]) -> None:
    before, after = evaluation("01", "10"), evaluation("11", "10")
    others = tuple([replace(t, problem=replace(t.problem, **changed)) for t in group] for group in after.groups)
    text = to_markdown(tabulate_change(before, replace(after, groups=others)))
    assert ("paired by problem" in text) == (not changed)
    assert ("not about the same problems" in text) == bool(changed)


@pytest.mark.parametrize("turned", [False, True])
def test_a_rate_that_is_undefined_on_one_side_is_said_to_be(run: Path, turned: bool) -> None:
    """From no right first attempt to some, which is what people train for: c->i / @t1 is 0 / 0 before."""
    none_right, some_right = evaluation("00", "01", "00"), evaluation("10", "11", "00")
    before, after = (some_right, none_right) if turned else (none_right, some_right)
    table = to_markdown(tabulate_change(before, after))
    (row,) = (line.split("|") for line in table.splitlines() if "break rate" in line)
    cells = [cell.strip() for cell in row[2:6]]
    assert cells[turned] == "undefined"
    assert cells[1 - turned].startswith("50.0 [")
    assert cells[2:] == ["", ""]
    history = [{**e.summary(), "step": step} for e, step in ((before, 0), (after, 6))]
    (run / "evaluation.json").write_text(json.dumps({"test": {**history[-1], "history": history}}))
    assert "undefined" in write_report(run).read_text()


def test_one_evaluation_leaves_out_what_is_undefined() -> None:
    grid = tabulate_evaluation(evaluation("1", "0"))
    assert [row[0] for row in grid.rows] == ["accuracy@t1", "cut at the token limit", "tokens, attempt 1"]
    assert "| accuracy@t1 " in to_markdown(grid)
    assert to_rich(grid).row_count == 3


def test_a_table_that_is_wider_than_the_terminal_is_folded() -> None:
    grid = Grid("title", ("method", "a", "b", "c"), (("x" * 40, "1" * 9, "2" * 9, "3" * 9),), ("note",))
    widest = 20 + 3 + 3 * (9 + 3) + 1  # a long label wraps, figures do not
    assert fold_columns(grid, widest) == [grid]
    first, second = fold_columns(grid, widest - 1)
    assert (first.title, first.header, first.notes) == ("title", ("method", "a", "b"), ())
    assert (second.title, second.header, second.notes) == ("", ("method", "c"), ("note",))
    assert second.rows == (("x" * 40, "3" * 9),)
    assert len(fold_columns(grid, 1)) == 3  # a column each, however narrow
    drawn = StringIO()
    for part in (first, second):
        Console(width=widest - 1, file=drawn).print(to_rich(part))
    assert {"1" * 9, "2" * 9, "3" * 9, "note", "title"} <= set(drawn.getvalue().split())


def test_verifications_and_what_they_leave_have_readable_names(run: Path) -> None:
    figure = {"value": 0.5, "low": 0.4, "high": 0.6}
    metrics = {"accuracy_v1": figure, "accuracy_selective": figure, "tokens_v1": figure}
    summary = {**AFTER.summary(), "metrics": AFTER.summary()["metrics"] | metrics, "step": 0}
    labels = [row[0] for row in tabulate_evaluation(summary).rows]
    assert labels[-3:] == ["accuracy, verification 1", "accuracy, selective revision", "tokens, verification 1"]
    older = {**AFTER.summary(), "step": -1}
    (run / "evaluation.json").write_text(json.dumps({"test": {**summary, "history": [older, summary]}}))
    (accuracy, *_) = read_page(write_report(run))["runs"][0]["held_out"]
    assert [one["name"] for one in accuracy["series"][-2:]] == ["verification 1", "selective revision"]


def test_changes_are_marked_word_by_word() -> None:
    assert mark_changes("7*3=21 21-5=17", "7*3=21 21-5=16") == (
        [("7*3=21 21-5=", ""), ("17", "gone")],
        [("7*3=21 21-5=", ""), ("16", "new")],
    )
    assert mark_changes("so it is", "I think so") == (
        [("so", ""), (" it is", "gone")],
        [("I think ", "new"), ("so", "")],
    )
    assert mark_changes("one two", "six ten") == ([("one two", "gone")], [("six ten", "new")])
    assert mark_changes("", "new") == ([], [("new", "new")])
    assert mark_changes("same", "same") == ([("same", "")], [("same", "")])


def test_show_marks_what_changed(run: Path) -> None:
    plain = printed(False, run, flip="fixed")
    assert "problem a, sample 0: wrong, then right" in plain
    assert "21-5=[-17-]" in plain
    assert "21-5={+16+}" in plain
    assert "problem b" not in plain
    wide = printed(True, run, flip="fixed")
    assert "attempt 1" in wide
    assert "\x1b[" in wide


def test_show_reads_the_folder_of_held_out_attempts(run: Path) -> None:
    (run / "attempts").rename(run / "held-out")
    assert printed(False, run / "held-out") == printed(False, run, held_out=True) != ""


def test_show_filters(run: Path) -> None:
    assert printed(False, run).count("== step") == 3
    assert printed(False, run, limit=1).count("== step") == 1
    assert printed(False, run, problem="c").count("== step") == 1
    assert printed(False, run, step=5).count("== step") == 3
    with pytest.raises(UserError, match="there is no step 4 with attempts; there are 5"):
        printed(False, run, step=4)
    assert "gold answer: None" in printed(False, run, problem="c")
    with pytest.raises(UserError, match="no flip class 'fixd': did you mean 'fixed'"):
        printed(False, run, flip="fixd")


def test_a_response_can_neither_style_nor_steer_the_terminal(run: Path) -> None:
    plain = printed(False, run, flip="broken")
    assert "[bold]" in plain
    assert "\x1b" not in plain


def test_a_response_is_text_in_a_notebook(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There rich hands HTML to IPython, which is not asked to be here."""
    hostile = "x\x1b[2J</pre><script>alert(1)</script><img src=x onerror=alert(1)>"
    steps = run / "attempts" / "step-000005.jsonl"
    steps.write_text(steps.read_text().replace(json.dumps("x < y & [bold]\x1b[31m!")[1:-1], json.dumps(hostile)[1:-1]))
    shown: list[Any] = []
    monkeypatch.setitem(sys.modules, "IPython", module := ModuleType("IPython.display"))
    monkeypatch.setitem(sys.modules, "IPython.display", module)
    module.display = shown.append  # type: ignore[attr-defined]
    show_trajectories(run, Console(force_jupyter=True))
    bundles = [item._repr_mimebundle_((), ()) for item in shown]
    page = "".join(bundle["text/html"] for bundle in bundles)
    assert "&lt;script&gt;" in page
    assert not re.findall(r"<(?!/?(?:pre|span)\b)", page)
    assert "\x1b[2J" not in "".join(bundle["text/plain"] + bundle["text/html"] for bundle in bundles)


def test_every_response_is_shown_in_its_order_with_its_role(run: Path) -> None:
    def line(place: int, turn: int, role: str, reward: float | None, text: str) -> dict[str, Any]:
        verdict = None if reward is None else "correct" if reward else "incorrect"
        where = {"step": 3, "problem": "a", "sample": 0, "place": place, "turn": turn, "role": role}
        return {**where, "reward": reward, "verdict": verdict, "finish": "stop", "text": text, "question": "?"}

    lines = [
        line(2, 1, "attempt", 1.0, "9*2=18 18+6=24"),
        line(1, 0, "verification", 0.0, "It is right."),
        line(0, 0, "attempt", 0.0, "9*2=18 18+8=26"),
        line(3, 1, "critique", None, "Fine."),
    ]
    (responses,) = gather_trajectories(lines)
    shown = present(responses)
    assert shown.flip == "fixed"
    assert [(response.label, response.right) for response in shown.responses] == [
        ("attempt 1: incorrect", False),
        ("verification of attempt 1: incorrect", False),
        ("attempt 2: correct", True),
        ("critique of attempt 2", None),
    ]
    marks = [{mark for _, mark in response.pieces} for response in shown.responses]
    assert marks == [{"", "gone"}, {""}, {"", "new"}, {""}]
    (run / "attempts" / "step-000005.jsonl").write_text("".join(json.dumps(each) + "\n" for each in lines))
    text = printed(False, run, flip="fixed")
    places = [text.index(response.label) for response in shown.responses]
    assert places == sorted(places)


class Page(HTMLParser):
    """What is open, and what the page would load."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loads: list[str] = []
        self.scripts: list[str | None] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.loads += [f"{tag} {name}" for name, _ in attrs if name in ("src", "href", "srcset", "action")]
        self.scripts += [dict(attrs).get("type")] if tag == "script" else []
        if tag not in ("meta",):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_report_is_one_sound_file_that_loads_nothing(run: Path) -> None:
    path = write_report(run)
    text = path.read_text()
    page = Page()
    page.feed(text)
    assert (page.open, page.loads) == ([], [])
    assert path == run / "report.html"
    assert page.scripts == ["text/plain", "text/plain", None, "module"]
    assert "url(" not in text
    for wanted in ("Delta(t1, t2)", "+30.0", "before -30.0", "two &lt;b&gt;", "# &lt;seed&gt;"):
        assert wanted in text, wanted
    data = read_page(path)
    (loss,) = (panel for panel in data["runs"][0]["training"] if panel["title"] == "Loss")
    assert loss["series"][0]["y"] == [0.0, 0.1, None, 0.3, 0.4, 0.5]
    assert {"21-5=16", "x < y & [bold]\x1b[31m!"} <= set(data["attempts"][0]["strings"])


def test_the_policy_lets_the_page_run_its_own_scripts_and_load_nothing(run: Path) -> None:
    text = write_report(run).read_text()
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)
    kinds = dict(part.split(" ", 1) for part in html.unescape(policy).split("; "))
    assert kinds["default-src"] == "'none'"
    assert "unsafe" not in policy
    for kind, tag in (("script-src", r"<script(?: type=.module.)?>"), ("style-src", "<style>")):
        blocks = re.findall(rf"{tag}(.*?)</{kind.split('-')[0]}>", text, re.DOTALL)
        hashes = [base64.b64encode(hashlib.sha256(block.encode()).digest()).decode() for block in blocks]
        assert kinds[kind].split() == [f"'sha256-{digest}'" for digest in hashes]
        assert len(blocks) == 2


def test_nothing_that_was_written_becomes_markup(tmp_path: Path) -> None:
    evil = "<script>alert(1)<" + "/script>"
    run = tmp_path / "<script>alert(1)<b>"
    (run / "attempts").mkdir(parents=True)
    (run / "steps.jsonl").write_text(json.dumps({"step": 0, "stage": evil, "loss": 0.5}) + "\n")
    (run / "recipe.yaml").write_text(f"model: {evil}\n")
    written = trajectory(evil, "01", (f"{evil} one", f"{evil} two"))
    lines = [record | {"question": evil, "reason": evil} for record in response_records(0, written)]
    (run / "attempts" / "step-000000.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    summary = {**AFTER.summary(), "model": evil, "step": 0}
    (run / "evaluation.json").write_text(json.dumps({evil: summary | {"history": [summary]}}))
    text = write_report(run).read_text()
    page = Page()
    page.feed(text)
    assert page.open == []
    assert page.scripts == ["text/plain", "text/plain", None, "module"]
    assert text.count("&lt;script&gt;") >= 5
    assert f"{evil} one" not in text
    assert f"{evil} one" in read_page(run / "report.html")["attempts"][0]["strings"]


def test_a_run_that_has_just_begun_has_a_report(run: Path) -> None:
    for file in ("evaluation.json", "recipe.yaml"):
        (run / file).unlink()
    (run / "steps.jsonl").write_text('{"step": 0, "stage": "one", "loss": 0.0}\n')
    assert "1 step: one" in write_report(run).read_text()
    (run / "steps.jsonl").unlink()
    with pytest.raises(UserError, match="no run directory"):
        write_report(run)


def test_reading_a_run_does_not_wait_for_torch() -> None:
    code = "import scorl.report, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
