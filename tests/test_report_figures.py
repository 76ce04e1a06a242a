"""Figures for papers: which there are, that they say what they should, and that they are the same each time."""

from __future__ import annotations

import json
import re
import sys
from functools import partial
from pathlib import Path

import pytest
from support.report_runs import write_run

from scorl.cli import main
from scorl.errors import UserError
from scorl.report import gather_report, write_figures
from scorl.report.figures import _draw_curves, _make_figure

pytest.importorskip("matplotlib", reason="matplotlib is not installed")


def words(figure: Path) -> str:
    """What is written in a figure, which matplotlib keeps beside the outlines of its letters."""
    return "\n".join(re.findall(r"<!-- (.*?) -->", figure.read_text(encoding="utf-8")))


def test_every_figure_is_there_as_svg_and_pdf(tmp_path: Path) -> None:
    run = write_run(tmp_path / "mine")
    paths = write_figures(gather_report([run]), tmp_path / "figures")
    assert [path.name for path in paths[::2]] == ["accuracy.svg", "flips.svg", "kl.svg", "edits-test.svg"]
    assert [path.suffix for path in paths] == [".svg", ".pdf"] * 4
    for text in ("training step", "accuracy (%)", "attempt 1", "attempt 2"):
        assert text in words(paths[0])
    assert "mine" not in words(paths[0])
    assert paths[1].read_bytes().startswith(b"%PDF")
    again = write_figures(gather_report([run]), tmp_path / "again")
    assert [path.read_bytes() for path in paths] == [path.read_bytes() for path in again]


def test_several_runs_share_a_figure_and_comparisons_have_theirs(tmp_path: Path) -> None:
    rate, other = {"mean": 0.5, "low": 0.4, "high": 0.6}, {"mean": 0.5, "low": None, "high": None}
    arms = {
        name: {"label": label, "metrics": {"accuracy_t1": rate, "accuracy_t2": other, "delta": rate}, "fixed": {}}
        for name, label in (("score", "SCoRe"), ("star", "STaR $\\D$"))
    }
    for name in arms:
        write_run(tmp_path / name / "seed-0")
    points = {str(k): {"value": 0.1 * k, "low": 0.0, "high": 0.5} for k in (1, 2, 4)}
    (tmp_path / "compare.json").write_text(json.dumps({"about": {}, "arms": arms}))
    (tmp_path / "scale.json").write_text(json.dumps({"arms": {"parallel": points, "corrected": points}}))
    paths = {path.name: path for path in write_figures(gather_report([tmp_path]), tmp_path / "figures")}
    assert {"comparison-accuracy.svg", "comparison-delta-t1-t2.pdf", "scaling-accuracy.svg"} <= paths.keys()
    assert {"edits-test-score.svg", "edits-test-star.svg"} <= paths.keys()
    assert "score, attempt 1" in words(paths["accuracy.svg"])
    assert "responses a problem" in words(paths["scaling-accuracy.svg"])


def test_rates_begin_at_0_and_every_evaluated_attempt_is_drawn() -> None:
    def panel(title: str, *names: str) -> dict:
        series = [{"name": name, "x": [0, 4], "y": [-1, 2], "low": [-2, 1], "high": [0, 3]} for name in names]
        return {"title": title, "series": series}

    run = {"name": "mine", "training": [panel("Accuracy", "attempt 1", "attempt 2")]}
    run["held_out"] = [panel("Accuracy on test", *(f"attempt {n}" for n in (1, 2, 3)), "wrong ones fixed")]
    axes = _make_figure((3, 2), partial(_draw_curves, [run], "Accuracy", "accuracy (%)")).axes[0]
    assert axes.get_ylim()[0] == 0
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["attempt 1", "attempt 2", "attempt 3"]
    markers = [bars.lines[0].get_marker() for bars in axes.containers]
    assert len(set(markers)) == 3
    kl = _make_figure((3, 2), partial(_draw_curves, [run], "Accuracy", "nats")).axes[0]
    assert kl.get_ylim()[0] < -1


def test_the_command_writes_them_and_says_what_is_missing(tmp_path: Path, monkeypatch, capsys) -> None:
    run = write_run(tmp_path / "mine")
    assert _run("report", run, "--figures", tmp_path / "figures") == 0
    assert capsys.readouterr().out.splitlines()[:2] == [
        f"{run / 'report.html'}",
        f"{tmp_path / 'figures/accuracy.svg'}",
    ]
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "steps.jsonl").write_text('{"step": 0, "stage": "one"}\n')
    with pytest.raises(UserError, match="nothing to draw"):
        write_figures(gather_report([bare]), tmp_path / "none")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert _run("report", run, "--figures", tmp_path / "more") == 2
    assert "pip install 'scorl[figures]'" in capsys.readouterr().err


def _run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    return int(ended.value.code or 0)
