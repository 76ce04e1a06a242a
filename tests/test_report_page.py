"""The report in a real browser: what it filters, finds and draws, what it never runs, and how it fits a phone."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from support.outside import find_chromium
from support.report_runs import attempt_lines, write_run

from scorl.report import Gathered, gather_report, render_report, write_report
from scorl.report.trajectories import mark_changes

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = find_chromium()
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium: apt-get install chromium")

HOSTILE = (
    '</script><script>window.pwned = 1</script><img src=x onerror="window.pwned = 2">'
    "<style>*{display:none}</style>\u202eright to left \ud800 \x1b[31m \x00 &lt;b&gt; ${1} <!-- ]]>"
)
SHOWN = HOSTILE.translate(dict.fromkeys(map(ord, "\u202e\ud800\x1b\x00"), "\ufffd"))


@dataclass
class Opened:
    """A page that is open, and all that it said and asked for."""

    page: Any
    said: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def rows(self) -> list[str]:
        self.page.wait_for_timeout(60)  # the list is drawn once a frame
        return self.page.locator(".row .where").all_inner_texts()

    def counts(self) -> dict[str, str]:
        self.page.wait_for_timeout(60)
        return dict(zip(("all", "fixed", "broken", "right", "wrong"), map(_digits, self._chips()), strict=True))

    def chosen(self) -> str:
        self.page.wait_for_timeout(60)
        return self.page.locator(".row[aria-selected=true] .where").inner_text()

    def _chips(self) -> list[str]:
        return self.page.locator(".chip").all_inner_texts()


def _digits(text: str) -> str:
    return "".join(letter for letter in text if letter.isdecimal())


def save_page(gathered: Gathered, path: Path) -> Path:
    path.write_text(render_report(gathered))
    return path


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield chromium
        chromium.close()


@pytest.fixture
def visit(browser: Any) -> Iterator[Any]:
    """Opens a report at a tab; at the end nothing may have been said or asked for."""
    contexts, opened = [], []

    def visit(report: Path, tab: str = "attempts", width: int = 1200, height: int = 800, **options: Any) -> Opened:
        context = browser.new_context(viewport={"width": width, "height": height}, **options)
        contexts.append(context)
        one = Opened(context.new_page())
        opened.append(one)
        one.page.on("console", lambda message: one.said.append(message.text))
        one.page.on("pageerror", lambda error: one.said.append(str(error)))
        one.page.on("request", lambda request: one.asked.append(request.url))
        one.page.goto(f"{report.as_uri()}#{tab}")
        one.page.wait_for_selector("body[data-ready]")
        return one

    yield visit
    for one in opened:
        assert one.said == []
        assert len(one.asked) == 1
    for context in contexts:
        context.close()


@pytest.fixture
def report(tmp_path: Path) -> Path:
    return write_report(write_run(tmp_path / "mine", alarm=True))


def test_the_filters_narrow_the_list(visit: Any, report: Path) -> None:
    one = visit(report)
    assert one.counts() == {"all": "32", "fixed": "8", "broken": "8", "right": "8", "wrong": "8"}
    assert one.rows()[0] == "eval 6 fixes-held"
    one.page.click(".chip.fixed")
    assert len(one.rows()) == 8
    assert one.counts()["wrong"] == "8"  # of the other classes what there would be
    one.page.select_option("[aria-label='training and held-out']", "training")
    assert one.counts()["all"] == "24"
    one.page.select_option("[aria-label='all stages']", "two")
    assert one.rows() == ["5 fixes-train", "4 fixes-train", "3 fixes-train"]
    one.page.fill("[aria-label='from step']", "4")
    one.page.fill("[aria-label='to step']", "4")
    assert one.rows() == ["4 fixes-train"]
    one.page.click(".clear")
    one.page.select_option("[aria-label='any reward']", "wrong")
    assert one.counts() == {"all": "16", "fixed": "0", "broken": "8", "right": "0", "wrong": "8"}
    one.page.select_option("[aria-label='any verdict']", "correct")
    assert one.counts()["all"] == "8"
    one.page.click(".clear")
    one.page.fill("[aria-label='problem id']", "fails-held")
    one.page.keyboard.press("Enter")
    assert one.rows() == ["eval 6 fails-held", "eval 0 fails-held"]


def test_the_search_reads_texts_questions_and_reasons(visit: Any, report: Path) -> None:
    one = visit(report)
    for typed, found in (
        ("HELD 6", "4"), ("what is breaks-train", "6"), ("because of 1", "16"), ("nothing of it", "0"),
        ("/held [06]: 21/", "8"), ("/held [06", "0"), ("21-5=16", "32"), (" ", "32"),
    ):  # fmt: skip
        one.page.fill("[type=search]", typed)
        assert one.counts()["all"] == found, typed
    one.page.fill("[type=search]", "/21-5=1\\d/")
    one.page.locator(".row").first.click()
    one.page.wait_for_timeout(60)
    marks = one.page.locator(".responses section").nth(1).locator("mark").all_inner_texts()
    assert "".join(marks) == "21-5=16"  # over the border of what changed


def test_what_changed_is_marked_and_all_of_an_attempt_is_shown(visit: Any, report: Path) -> None:
    one = visit(report)
    one.page.click(".row >> text=fixes-held")
    read = one.page.locator(".detail").inner_text()
    for wanted in ("wrong, then right", "evaluation after 6 updates", "What is fixes-held?", "gold of fixes-held",
                   "wrong because of 0", "1 of 32"):  # fmt: skip
        assert wanted in read, wanted
    assert one.page.locator("del").all_inner_texts() == ["17"]
    assert one.page.locator("ins").all_inner_texts() == ["16"]
    first, second = one.page.locator(".responses section").all_inner_texts()
    figures = {"reward": ("0", "1"), "advantage": ("0.5", "-0.5"), "beta": ("0.01", "0.01"), "tokens": ("25", "25")}
    for name, values in figures.items():
        for text, value in zip((first, second), values, strict=True):
            assert f"{name}\n{value}" in text or f"{name} {value}" in text, (name, text)
    assert ("incorrect" in first, "correct" in second) == (True, True)


PAIRS = [
    ("7*3=21 21-5=17", "7*3=21 21-5=16"),
    ("so it is", "I think so"),
    ("one two", "six ten"),
    ("if x:\n    return 1", "if x:\n        return 1"),
    ("same", "same"),
    ("", "new \N{GREEK SMALL LETTER ALPHA}\N{COMBINING ACUTE ACCENT} \N{GRINNING FACE}"),
]


@pytest.mark.parametrize("pair", PAIRS, ids=range(len(PAIRS)))
def test_words_are_marked_as_in_the_terminal(visit: Any, tmp_path: Path, pair: tuple[str, str]) -> None:
    run = write_run(tmp_path / "run", extra=attempt_lines(5, "the pair", 0, pair, "01"))
    one = visit(write_report(run), "attempts?problem=the+pair")
    one.page.locator(".row").click()
    pieces = "(all) => all.map((pre) => [...pre.childNodes].map((one) => [one.textContent, one.nodeName]))"
    names = {"": "#text", "gone": "DEL", "new": "INS"}
    wanted = [[[text, names[mark]] for text, mark in side] for side in mark_changes(*pair)]
    found = one.page.locator(".responses pre").evaluate_all(pieces)
    assert [[piece for piece in side if piece[0]] for side in found] == wanted


def test_keys_steer(visit: Any, report: Path) -> None:
    one = visit(report)
    keys = one.page.keyboard
    keys.press("j")
    assert one.chosen() == "eval 6 fixes-held"
    keys.press("ArrowDown")
    keys.press("j")
    keys.press("k")
    assert one.chosen() == "eval 6 breaks-held"
    keys.press("G")
    assert one.chosen() == "eval 0 fails-held"
    keys.press("g")
    keys.press("f")
    one.rows()
    assert one.page.locator(".chip[aria-pressed=true]").get_attribute("title") == "wrong, then right"
    assert one.chosen() == "eval 6 fixes-held"  # still in the list, still chosen
    keys.press("/")
    keys.type("train 3")
    assert one.rows() == ["3 fixes-train"]
    keys.press("Escape")
    keys.press("Escape")
    assert one.counts()["all"] == "32"
    assert one.page.input_value("[type=search]") == ""
    keys.press("j")
    keys.press("p")
    assert one.rows() == ["eval 6 fixes-held", "eval 0 fixes-held"]


def test_nothing_that_a_model_wrote_is_run_or_styles_the_page(visit: Any, tmp_path: Path) -> None:
    more = {"question": HOSTILE, "gold": HOSTILE, "reason": HOSTILE, "verdict": HOSTILE, "finish": HOSTILE}
    evil = attempt_lines(5, HOSTILE, 0, (HOSTILE, HOSTILE + " again"), "01", **more)
    run = write_run(tmp_path / "</script><b>run", extra=evil)
    one = visit(write_report(run))
    one.page.fill("[type=search]", "onerror")
    one.rows()
    one.page.locator(".row").first.click()
    assert one.page.evaluate(
        "window.pwned === undefined && !document.querySelector('main img, main style, main script')"
    )
    blocks = one.page.locator(".detail pre").evaluate_all("all => all.map((one) => one.textContent)")
    assert blocks == [SHOWN, SHOWN, SHOWN, SHOWN + " again"]
    assert one.page.locator("ins").all_inner_texts() == [" again"]
    for tab in ("overview", "curves", "recipe"):
        one.page.goto(one.page.url.split("#")[0] + f"#{tab}")
        assert one.page.locator(f"#{tab}").is_visible()
    assert one.page.evaluate("window.pwned") is None


def test_a_page_may_not_load_anything(visit: Any, report: Path) -> None:
    """The policy holds, were text ever to become markup."""
    one = visit(report)
    one.page.evaluate("document.body.insertAdjacentHTML('beforeend', '<img src=\"https://127.0.0.1:9/x.png\">')")
    one.page.evaluate("document.body.append(Object.assign(document.createElement('script'), {text: 'window.ran = 1'}))")
    one.page.wait_for_timeout(100)
    assert one.page.evaluate("window.ran") is None
    assert all("Content Security Policy" in text for text in one.said)
    assert len(one.said) == 2
    one.said.clear()
    one.asked.pop()  # what was refused


@pytest.mark.parametrize("width", [320, 360, 400])
def test_it_fits_a_phone(visit: Any, report: Path, width: int) -> None:
    one = visit(report, "overview", width, 640, has_touch=True)
    for tab in one.page.eval_on_selector_all("#tabs a", "all => all.map((one) => one.hash)"):
        one.page.click(f"#tabs a[href='{tab}']")
        one.page.wait_for_timeout(80)
        assert one.page.evaluate("document.documentElement.scrollWidth") <= width, tab
    one.page.click("#tabs a[href='#attempts']")
    assert not one.page.locator(".detail").is_visible()
    one.page.click(".row >> text=breaks-held")
    assert one.page.locator(".detail h2").inner_text().endswith("right, then wrong")
    assert not one.page.locator(".filters").is_visible() or one.page.locator(".detail").bounding_box()["width"] == width
    assert one.page.evaluate("document.documentElement.scrollWidth") <= width
    one.page.click("text=← list")
    assert not one.page.locator(".detail").is_visible()


def test_it_is_light_or_dark_as_the_system_or_as_asked(visit: Any, report: Path) -> None:
    lightness = "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).reduce((a, b) => a + Number(b), 0)"
    light, dark = (visit(report, "curves", color_scheme=scheme) for scheme in ("light", "dark"))
    assert light.page.evaluate(lightness) > 600
    assert dark.page.evaluate(lightness) < 200
    dark.page.click("#theme")
    assert dark.page.evaluate(lightness) > 600


def test_curves_say_their_values_and_take_a_logarithmic_axis(visit: Any, report: Path) -> None:
    one = visit(report, "curves")
    titles = one.page.locator("#curves figcaption").all_inner_texts()
    for wanted in ("Accuracy on test", "KL to the reference", "Tokens per attempt", "Cut off", "Loss",
                   "Edit-distance ratio of the two attempts, test",
                   "Flips on test by the first attempts before training",
                   "Flips by how many numbers there are, test"):  # fmt: skip
        assert any(title.startswith(wanted) for title in titles), wanted
    figure = one.page.locator("figure", has=one.page.locator("figcaption", has_text="KL to the reference"))
    over = figure.locator(".u-over")
    over.scroll_into_view_if_needed()
    box = over.bounding_box()
    over.hover(position={"x": box["width"] * 0.81, "y": 40})
    tip = figure.locator(".tip").inner_text()
    assert "step 4" in tip
    assert "attempt 1" in tip
    assert "0.04" in tip
    assert "collapse" in tip  # the alarm of this step
    one.page.check("text=log axis")
    one.page.select_option("[aria-label=smoothing]", "0.15")
    assert one.page.locator("#curves canvas").count() == len([t for t in titles if not t.startswith("Flips on test by")
                                                               and not t.startswith("Flips by")])  # fmt: skip
    figure.locator(".key button").first.click()
    assert figure.locator(".key .off").count() == 1


def test_several_runs_are_laid_over_each_other(visit: Any, tmp_path: Path) -> None:
    runs = [write_run(tmp_path / name, steps) for name, steps in (("mine", 6), ("yours", 4))]
    one = visit(save_page(gather_report(runs), tmp_path / "both.html"))
    assert one.counts()["all"] == "56"
    one.page.select_option("[aria-label='all runs']", label="yours")
    assert one.counts()["all"] == "24"
    one.page.click("#tabs a[href='#curves']")
    assert one.page.locator(".switches .key button").all_inner_texts() == ["mine", "yours"]
    figure = one.page.locator("figure", has=one.page.locator("figcaption", has_text="KL to the reference"))
    figure.locator(".u-over").hover(position={"x": 5, "y": 40})
    assert [line.split(":")[0] for line in figure.locator(".tip p").all_inner_texts()] == ["mine", "yours"]
    one.page.click(".switches .key >> text=mine")
    figure.locator(".u-over").hover(position={"x": 8, "y": 44})
    assert [line.split(":")[0] for line in figure.locator(".tip p").all_inner_texts()] == ["yours"]


def test_a_comparison_and_scaling_are_shown_where_they_are(visit: Any, tmp_path: Path) -> None:
    rate = {"mean": 0.5, "low": 0.4, "high": 0.6}
    names = ("accuracy_t1", "accuracy_t2", "delta", "incorrect_to_correct", "correct_to_incorrect", "fix_rate")
    arm = {"metrics": dict.fromkeys(names, rate), "fixed": {}}
    arms = {"base": {**arm, "label": "base <b>"}, "score": {**arm, "label": "SCoRe", "fixed": {"fix_rate": rate}}}
    points = {"1": {"value": 0.4, "low": 0.3, "high": 0.5}, "8": {"value": 0.6, "low": 0.5, "high": 0.7}}
    write_run(tmp_path / "score" / "seed-0")
    (tmp_path / "compare.json").write_text(json.dumps({"about": {"model": "tiny"}, "arms": arms}))
    (tmp_path / "scale.json").write_text(
        json.dumps({"model": "tiny", "task": "countdown", "arms": {"parallel": points}})
    )
    one = visit(write_report(tmp_path), "compare")
    text = one.page.locator("#compare").inner_text()
    for wanted in (
        "base <b>",
        "SCoRe",
        "50.0 → 50.0",
        "Wrong first attempts that are corrected",
        "Inference-time scaling",
    ):
        assert wanted in text, wanted
    assert one.page.locator("#compare canvas").count() == 1
    one.page.click("#tabs a[href='#attempts']")
    assert one.counts()["all"] == "32"


def test_a_long_list_is_drawn_in_parts(visit: Any, tmp_path: Path) -> None:
    many = [line for n in range(3000) for line in attempt_lines(5, f"p{n:04d}", 0, ("one", "two"), "01")]
    one = visit(write_report(write_run(tmp_path / "run", extra=many)))
    assert one.counts()["all"] == "3032"
    assert len(one.rows()) < 60
    one.page.keyboard.press("j")
    one.page.keyboard.press("G")
    assert one.chosen() == "eval 0 fails-held"
    assert "3,032 of 3,032" in one.page.locator(".steering").inner_text()


def test_a_run_that_has_just_begun(visit: Any, tmp_path: Path) -> None:
    (tmp_path / "steps.jsonl").write_text('{"step": 0, "stage": "one", "loss": 0.0}\n')
    one = visit(write_report(tmp_path))
    assert "No attempts are recorded" in one.page.locator("#attempts").inner_text()
    assert not one.page.locator("#tabs a[href='#recipe']").count()


def test_the_address_says_what_is_asked_for(visit: Any, report: Path) -> None:
    one = visit(report)
    one.page.click(".chip.fixed")
    one.page.fill("[type=search]", "held & 6?")
    one.rows()
    address = one.page.evaluate("location.hash")
    assert address == "#attempts?search=held+%26+6%3F&flip=fixed"
    again = visit(report, address.removeprefix("#"))
    again.rows()
    assert again.page.input_value("[type=search]") == "held & 6?"
    assert again.page.locator(".chip[aria-pressed=true]").get_attribute("title") == "wrong, then right"


def test_another_address_filters_anew_and_what_is_invalid_is_ignored(visit: Any, report: Path) -> None:
    one = visit(report, "attempts?flip=fixd&from=x&kind=none&toString=1&search=held")
    assert one.counts()["all"] == "8"
    assert one.page.evaluate("location.hash") == "#attempts?search=held"
    one.page.evaluate("location.hash = '#attempts?flip=broken'")
    assert one.counts()["all"] == "32"
    assert one.page.locator(".chip[aria-pressed=true]").get_attribute("title") == "right, then wrong"
    assert one.page.input_value("[type=search]") == ""


def test_a_flip_has_its_colour_on_every_tab(visit: Any, report: Path) -> None:
    one = visit(report, "curves")
    figure = one.page.locator("figure", has=one.page.locator("figcaption", has_text="Flips on test")).first
    colours = figure.locator(".key .swatch").evaluate_all("all => all.map((one) => getComputedStyle(one).color)")
    probe = "document.body.append(Object.assign(document.createElement('p'), {className: 'flip %s', id: '%s'}))"
    for flip in ("fixed", "broken"):
        one.page.evaluate(probe % (flip, flip))
    style = "['fixed', 'broken'].map((id) => getComputedStyle(document.getElementById(id)).color)"
    assert colours == one.page.evaluate(style)


def test_scaling_alone_has_no_empty_overview(visit: Any, tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("base", "trained")]
    for folder in folders:
        folder.mkdir()
        (folder / "scale.json").write_text(json.dumps({"arms": {"parallel": {"1": {"value": 0.5}}}}))
    one = visit(save_page(gather_report(folders), tmp_path / "both.html"))
    assert one.page.locator("#tabs a").all_inner_texts() == ["Compare"]
    assert one.page.locator("#compare h2").all_inner_texts() == [
        "base: inference-time scaling",
        "trained: inference-time scaling",
    ]


def test_tables_can_be_read_without_scripts(browser: Any, report: Path) -> None:
    page = browser.new_context(java_script_enabled=False).new_page()
    page.goto(report.as_uri())
    text = page.locator("main").inner_text()
    assert "Delta(t1, t2)" in text
    assert "seed: 7" in text
    assert "scripts, which are switched off here" in text
    page.context.close()
