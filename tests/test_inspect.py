"""The task scorl/self_correction and the provider scorl, against inspect-ai itself."""

import json
import math
import tomllib
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from statistics import fmean

import pytest
from support.worlds import save_model

from scorl.trajectory import user

ROOT = Path(__file__).parents[1]
MODEL = "scorl:countdown-base"
CORRECTION = "There might be an error in the solution above."

pytestmark = pytest.mark.skipif(not find_spec("inspect_ai"), reason="inspect-ai is not installed: make test-inspect")
needs_model = pytest.mark.skipif(
    not (ROOT / "src/scorl/models/countdown-base/config.json").is_file(), reason="the shipped model is not built"
)


def evaluate(folder, model, **arguments):
    """The log of an evaluation, whose `options` are inspect's."""
    import inspect_ai

    from scorl.harness.inspect_ai import self_correction

    options = arguments.pop("options", {})
    (log,) = inspect_ai.eval(
        self_correction(**arguments), model=model, display="none", log_dir=str(folder / "logs"), **options
    )
    assert log.status == "success", log.error
    return log


def canned(answer):
    """A model of inspect's that answers as a function of the conversation says; the conversations that it saw."""
    from inspect_ai.model import ModelOutput, ModelUsage, get_model

    seen = []

    def reply(messages, tools, choice, config):
        seen.append([(message.role, message.text) for message in messages])
        output = ModelOutput.from_content("canned", answer(seen[-1]))
        output.usage = ModelUsage()  # inspect would count tokens by a vocabulary from the network
        return output

    return get_model("mockllm/model", custom_outputs=reply), seen


def own_task(folder):
    """Three sums in a file."""
    rows = [{"id": f"sum-{n}", "question": f"What is {n} + 1?", "answer": str(n + 1)} for n in (1, 2, 3)]
    path = folder / "sums.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return {"task": "files", "test_path": str(path), "verifier": "exact"}


def figures(log):
    return {score.name: score.metrics["mean"].value for score in log.results.scores}


def test_the_entry_point_names_the_module_that_registers():
    points = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["inspect_ai"]
    module = import_module(points["scorl"])
    assert {"self_correction", "scorl"} <= set(module.__all__)


@needs_model
def test_figures_and_attempts_are_those_of_scorl_evaluate(tmp_path, scorl):
    log = evaluate(tmp_path, f"scorl/{MODEL}", limit=20, attempts=3, options={"temperature": 0})
    files = ["--out", tmp_path / "summary.json", "--attempts-out", tmp_path / "attempts.jsonl"]
    code, _, err = scorl("evaluate", MODEL, "--task", "countdown", "--limit", 20, "--attempts", 3, *files)
    assert code == 0, err
    theirs = json.loads((tmp_path / "summary.json").read_text())["metrics"]
    ours = figures(log)
    assert {"accuracy_t1", "accuracy_t2", "accuracy_t3", "delta", "answer_changed"} <= set(ours)
    assert ours == {name: pytest.approx(theirs[name]["value"]) for name in ours}
    texts = {}
    for line in map(json.loads, (tmp_path / "attempts.jsonl").read_text().splitlines()):
        texts.setdefault(line["problem"], []).append(line["text"])
    assert texts == {s.id: [m.text for m in s.messages if m.role == "assistant"] for s in log.samples}


def test_every_attempt_is_asked_for_and_no_verdict_is_told(tmp_path):
    model, seen = canned(lambda chat: "2" if len(chat) == 1 else "3")
    log = evaluate(tmp_path, model, **own_task(tmp_path), correction=CORRECTION)
    assert len(seen) == 6
    asked = {text for chat in seen for role, text in chat if role == "user"}
    assert {text for text in asked if "What is" not in text} == {CORRECTION}
    flips = {s.id: s.scores["verdicts"].value for s in log.samples}
    assert [flips[f"sum-{n}"]["delta"] for n in (1, 2, 3)] == [-1, 1, 0]
    assert figures(log)["incorrect_to_correct"] == pytest.approx(1 / 3)
    score = next(s.scores["verdicts"] for s in log.samples if s.id == "sum-1")
    assert score.answer == "3"
    assert score.explanation.splitlines()[0] == "attempt 1: correct"
    assert score.metadata["outcomes"] == ["correct", "incorrect"]
    assert log.samples[0].metadata["problem"] == log.samples[0].id


@pytest.mark.parametrize(
    ("wording", "said"), [("suggestive", "That is wrong"), ("placebo", "What is"), ("neutral", "Go!")]
)
def test_a_wording_of_the_panel_is_said(tmp_path, wording, said):
    model, seen = canned(lambda chat: "2")
    evaluate(tmp_path, model, **own_task(tmp_path), wording=wording, correction="Go!", limit=1)
    assert [role for role, _ in seen[-1]] == ["user", "assistant", "user"]
    assert seen[-1][-1][1].startswith(said)
    assert said != "What is" or seen[-1][-1] == seen[-1][0]


def test_standard_errors_are_clustered_by_problem(tmp_path):
    firsts = {"1": list("2229"), "2": list("3933"), "3": list("4999")}  # right are 2, 3 and 4

    def answer(chat):
        return firsts[chat[0][1].split()[2]].pop() if len(chat) == 1 else "0"

    model, _ = canned(answer)
    log = evaluate(tmp_path, model, **own_task(tmp_path), options={"epochs": 4, "max_samples": 1})
    score = next(score for score in log.results.scores if score.name == "accuracy_t1")
    rates = [
        fmean(s.scores["verdicts"].value["accuracy_t1"] for s in log.samples if s.id == f"sum-{n}") for n in (1, 2, 3)
    ]
    assert sorted(rates) == [0.25, 0.75, 0.75]
    spread = math.sqrt(sum((rate - fmean(rates)) ** 2 for rate in rates) * 3 / 2) / 3
    assert score.metrics["stderr"].value == pytest.approx(spread)


def test_a_log_is_judged_once_more_from_what_it_holds(tmp_path):
    from inspect_ai import score

    from scorl.harness.inspect_ai import verdicts

    model, _ = canned(lambda chat: "2")
    arguments = own_task(tmp_path)
    log = evaluate(tmp_path, model, **arguments)
    again = score(log, verdicts(**log.eval.scorers[0].options), action="overwrite", display="none")
    assert figures(again) == figures(log) != {}


def test_programs_are_run_in_the_sandbox(tmp_path):
    model, _ = canned(lambda chat: "def f(x): return 0")
    log = evaluate(tmp_path, model, task="functions", limit=2)
    assert {outcome for s in log.samples for outcome in s.scores["verdicts"].metadata["outcomes"]} == {"failed"}


def test_a_later_turn_continues_from_the_tokens_that_were_written(tmp_path):
    from inspect_ai.model import ChatMessageAssistant, ChatMessageSystem, ChatMessageUser

    from scorl.harness.inspect_model import IDS, ScorlModel, make_prompt

    engine = ScorlModel(save_model(tmp_path / "model"), engine="torch").engine
    asked, message = ChatMessageUser(content="say a"), ChatMessageUser(content="again")
    first = make_prompt(engine, [asked])
    ids = [5, 5, 6]  # other tokens than the text's own
    written = ChatMessageAssistant(content="b", metadata={IDS: ids})
    assert make_prompt(engine, [asked, written, message]) == engine.chat.follow(first, ids, "again")
    assert make_prompt(engine, [asked, written, message])[: len(first) + 3] == (*first, *ids)
    foreign = ChatMessageAssistant(content="b")
    rendered = engine.chat.prompt([user("say a"), {"role": "assistant", "content": "b"}, user("again")])
    assert make_prompt(engine, [asked, foreign, message]) == rendered
    for odd in [ChatMessageSystem(content="c"), asked, written, message, message], [asked, written]:
        assert make_prompt(engine, odd) == engine.chat.prompt([{"role": m.role, "content": m.text} for m in odd])


def test_each_epoch_is_another_draw_and_a_seed_repeats_them(tmp_path):
    from inspect_ai.model import get_model

    path, draws = save_model(tmp_path / "model"), []
    for _ in range(2):
        settings = {"temperature": 1.0, "seed": 3, "max_tokens": 6, "epochs": 4}
        log = evaluate(tmp_path, get_model(f"scorl/{path}", memoize=False), **own_task(tmp_path), options=settings)
        draws.append(sorted((s.id, s.output.completion) for s in log.samples))
    assert draws[0] == draws[1]
    assert len({text for name, text in draws[0] if name == "sum-1"}) > 1


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"task": "countdwn"}, "did you mean 'countdown'"),
        ({"task": "countdown", "numbrs": 3}, "did you mean 'numbers'"),
        ({"task": "countdown", "split": "tests"}, "has no split 'tests'"),
        ({"wording": "suggestiv"}, "did you mean 'suggestive'"),
        ({"wording": "all"}, "one wording, not 5"),
    ],
)
def test_a_mistake_is_told_without_a_traceback(arguments, text):
    from inspect_ai._util.error import PrerequisiteError

    from scorl.harness.inspect_ai import self_correction

    with pytest.raises(PrerequisiteError) as raised:
        self_correction(**arguments)
    assert text in raised.value.message


def test_what_the_engines_do_not_do_is_refused(tmp_path):
    from inspect_ai._util.error import PrerequisiteError
    from inspect_ai.model import get_model

    from scorl.harness.inspect_model import GenerateConfig

    with pytest.raises(PrerequisiteError) as raised:
        get_model(f"scorl/{save_model(tmp_path / 'model')}", config=GenerateConfig(top_p=0.5), memoize=False)
    assert "not top_p" in raised.value.message


def test_callers_that_wait_are_answered_by_few_calls():
    import anyio

    from scorl.errors import UserError
    from scorl.harness.batching import PrerequisiteError, SharedCalls

    sizes = []

    def work(jobs):
        sizes.append(len(jobs))
        if "bad" in jobs:
            raise UserError("what is wrong")
        return [job * 2 for job in jobs]

    async def ask_all(jobs):
        double, results = SharedCalls(work), {}

        async def ask(job):
            results[job] = await double(job)

        async with anyio.create_task_group() as group:
            for job in jobs:
                group.start_soon(ask, job)
        return results

    assert anyio.run(ask_all, range(50)) == {n: 2 * n for n in range(50)}
    assert sum(sizes) == 50
    assert len(sizes) < 5
    with pytest.raises(ExceptionGroup) as raised:
        anyio.run(ask_all, ["bad"])
    assert isinstance(raised.value.exceptions[0], PrerequisiteError)
