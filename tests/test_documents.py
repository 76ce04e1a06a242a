"""The documents hold to the code: commands, Python and YAML in them work, links lead somewhere, nothing is left out."""

import json
import os
import re
import runpy
import shlex
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

import click
import mdformat
import pytest
from support.endpoint import FakeEndpoint

from scorl.cli import commands, main
from scorl.cli.sampling import ENDPOINT, resolve_sampler, split_settings
from scorl.recipe import resolve, resolve_task, shipped_recipes
from scorl.recipe.renamed import RENAMED

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "scorl"
DOCS = ROOT / "docs"
README, START, TUTORIAL = ROOT / "README.md", DOCS / "start.md", DOCS / "tutorial.md"
PAGES = [README, *sorted(DOCS.glob("*.md"))]
FRAGMENTS = {"chat.md", "metrics.md"}
"""Their Python is about objects that the reader has: it does not run by itself."""
SERVED = "http://localhost:8000/v1"
"""Where the pages have a server."""
SHIPPED_MODEL = PACKAGE / "models" / "countdown-base" / "config.json"
SMALL = [
    *(f"stages.{i}.{key}" for i in (0, 1) for key in ("steps=1", "problems=2", "samples=2")),
    "evaluation.problems=2",
]
"""What makes a shipped recipe take a second."""

needs_model = pytest.mark.skipif(not SHIPPED_MODEL.is_file(), reason="the shipped model is not built")


@dataclass(frozen=True)
class Block:
    """A fenced block: ```language title="name"."""

    page: str
    language: str
    name: str
    text: str


def blocks(page: Path) -> list[Block]:
    fences = re.findall(r'^```(\w*)(?: title="(\S+)")?\n(.*?)^```$', page.read_text(), re.MULTILINE | re.DOTALL)
    return [Block(page.name, *parts) for parts in fences]


BLOCKS = [block for page in PAGES for block in blocks(page)]


def shell_lines(page: Path) -> list[str]:
    """The lines of shell blocks that begin with `scorl`."""
    shell = "\n".join(block.text for block in blocks(page) if block.language == "sh").replace("\\\n", " ")
    return re.findall(r"^(?:[A-Z_]+=\S+ )*(scorl .+)$", shell, re.MULTILINE)


def mentions(page: Path) -> list[str]:
    """Inline code that begins with `scorl`."""
    return re.findall(r"`(scorl [^`\n]+)`", prose(page))


def prose(page: Path) -> str:
    return re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)


def words(line: str) -> list[str]:
    """A command's words behind `scorl`, without comment and redirection."""
    return shlex.split(line.split(" > ")[0], comments=True)[1:]


COMMANDS = [(page.name, line) for page in PAGES for line in shell_lines(page) + mentions(page)]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder to work in, with the files that the documents spell out."""
    monkeypatch.chdir(tmp_path)
    for block in BLOCKS:
        if block.name:
            Path(block.name).write_text(block.text)
    return tmp_path


def parsed(arguments: list[str]) -> tuple[str, dict[str, object]]:
    """A command and what it was given, without a look at whether files are there; a bare name is a mention."""
    command = commands.commands[arguments[0]]
    context = click.Context(command, info_name=arguments[0])
    given, rest, _ = command.make_parser(context).parse_args(arguments[1:])
    assert not rest
    values = {name: value for name, value in given.items() if isinstance(value, (str, bool, list, tuple)) and value}
    for parameter in command.params:
        assert not parameter.required or parameter.name in values or len(arguments) == 1, parameter.name
        if parameter.name in values and not isinstance(parameter.type, click.Path) and parameter.nargs == 1:
            parameter.type.convert(values[parameter.name], parameter, context)
    return arguments[0], values


@pytest.mark.parametrize(("page", "line"), COMMANDS, ids=[f"{page}: {line}" for page, line in COMMANDS])
def test_every_command_parses_and_its_settings_resolve(page, line, folder):
    name, values = parsed(words(line))
    recipe, task = values.get("recipe", ""), values.get("task_name")
    if name == "train" and (recipe in shipped_recipes() or Path(recipe).is_file()):
        resolve(recipe, values.get("overrides", ()))
    if name == "evaluate" and task:
        of_sampler, of_task = split_settings(values.get("settings", ()))
        resolve_task(task, of_task)
        default = "auto" if ENDPOINT.fullmatch(values["model"]) else "torch"
        resolve_sampler(values["model"], values.get("engine", default), of_sampler)


def test_every_command_is_on_the_start_page():
    assert {words(line)[0] for line in shell_lines(START)} == set(commands.commands)


WRITES = {
    "compare": r"^runs/compare-countdown/score/seed-\d: score_stage_one 80, score_stage_two 160$",
    "diff": r"^before: evaluation\.json, runs/alpha-5$",
    "doctor": r"^model +LlamaForCausalLM, 348,288 parameters",
    "evaluate": r"^\| (accuracy@t2|neutral) +\| +[\d.]+ \|",
    "export-eval": r"^    task_id: accuracy_t2$",
    "judge": r'^\{"id": "b", "reward": 0\.0, .* is false"\}$',
    "plan": r"^Fits: [\d.]+ GiB can be filled",
    "push": r"^written to pushed; nothing was uploaded$",
    "recipes": r"^countdown$",
    "report": r"^runs/[\w-]+/report\.html$",
    "scale": r"^\| 4 +\| +[\d.]+ \[",
    "schema": r'"\$schema": "https://json-schema\.org/',
    "show": r"\battempt 2\b",
    "solve": r"^attempt 2\n(.+\n)+\nfinal answer$",
    "watch": r"^held-out after 2 updates: ",
    "train": r"^done: read runs/[\w-]+/report\.html",
}
"""A line that each command of the first pages writes, to stdout or stderr."""


@pytest.fixture
def endpoint(tmp_path_factory, monkeypatch):
    """The URL of an endpoint, whose answers are kept for this test alone."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    with FakeEndpoint(lambda body: "8*2=16 16-3=13") as running:
        yield running.url


def shorten(arguments: list[str]) -> list[str]:
    """A command with numbers that take a second."""
    name, *rest = arguments
    if name == "train" and (rest[0] in shipped_recipes() or Path(rest[0]).is_file()):
        return [name, rest[0], *SMALL, *rest[1:]]
    if "--flip" in rest:  # so few attempts may hold none of its kind
        del rest[(flip := rest.index("--flip")) : flip + 2]
    return [name, *rest, *SHORT.get(name, ())]


ELSEWHERE = {"collect-repairs": "test_tasks_programs.py has MBPP's file", "serve": "test_serve.py stops it"}
"""What runs in other tests."""
SHORT = {"evaluate": ("--limit", "2"), "scale": ("--limit", "2", "--budget", "4")}


@needs_model
@pytest.mark.parametrize("page", [README, START, TUTORIAL], ids=lambda page: page.name)
def test_the_commands_of_the_first_pages_run_in_their_order(page, folder, endpoint, capsys):
    for line in shell_lines(page):
        arguments = words(line.replace(SERVED, endpoint))
        if arguments[0] in ELSEWHERE:
            continue
        with pytest.raises(SystemExit) as ended:
            main(shorten(arguments))
        written = "\n".join(capsys.readouterr())
        assert ended.value.code == 0, f"{line}: {written}"
        told = r"^  prompt 2: \d+ tokens" if "--show-prompts" in arguments else WRITES[arguments[0]]
        assert re.search(told, written, re.MULTILINE), line
    check_run(next(folder.glob("runs/*")))


def check_run(run: Path) -> None:
    """Every file and every field of a run is in docs/run-directory.md."""
    text = (DOCS / "run-directory.md").read_text()
    told = set(re.findall(r"`([^`\n]+)`", text))
    lines = [json.loads((run / "steps.jsonl").read_text().splitlines()[0])]
    lines.append(json.loads((run / "attempts/step-000000.jsonl").read_text().splitlines()[0]))
    lines.append(json.loads((run / "evaluation.json").read_text())["test"])
    fields = {key for line in lines for key in line} | set(lines[0]["seconds"])
    assert fields - told == set()
    assert {path.name for path in run.iterdir()} - {name.split("/")[0] for name in told} == set()
    trainer = [f"trainer/{path.name}" for path in run.glob("checkpoints/step-2/trainer/*")]
    assert [name for name in trainer if not any(fnmatch(name, pattern) for pattern in told)] == []
    rates = (DOCS / "metrics.md").read_text()
    assert [name for name in lines[2]["metrics"] if f"`{name}`" not in rates] == []


PYTHON = [block for block in BLOCKS if block.language == "python" and block.page not in FRAGMENTS]


@pytest.mark.parametrize("block", PYTHON, ids=[f"{block.page} {i}" for i, block in enumerate(PYTHON)])
def test_python_runs(block, folder):
    if "countdown-base" in block.text and not SHIPPED_MODEL.is_file():
        pytest.skip("the shipped model is not built")
    exec(compile(block.text, block.page, "exec"), {"__name__": "document"})


YAML = [block for block in BLOCKS if block.language == "yaml"]


@pytest.mark.parametrize("block", YAML, ids=[f"{block.page} {block.name or i}" for i, block in enumerate(YAML)])
def test_yaml_is_a_recipe(block, folder):
    path = Path(block.name or "unnamed.yaml")
    path.write_text(block.text)
    assert resolve(path).steps > 0


def test_own_data_and_an_own_reward_function_as_the_tasks_page_has_them(folder):
    task = resolve("rewarded.yaml").task.build()
    (problem,) = task.split("test").take(None)
    assert problem.prompt[0]["content"].endswith("End with: The answer is N.")
    right, wrong = task.judge([(problem, f"It is {problem.columns['answer']}"), (problem, "It is -1")])
    assert (right.reward, wrong.reward) == (1.0, 0.0)
    assert all("The answer is" in str(problem.solution) for problem in task.split("train").draw(2, 0, 0))


@needs_model
def test_tasks_of_ones_own_as_the_tasks_page_has_them(folder, capsys):
    for task in ("my_task.py:Sums", "endless.py:EndlessSums"):
        small = ["stages.0.steps=1", "stages.1.steps=1", "engine.max_tokens=4", "evaluation.problems=2"]
        with pytest.raises(SystemExit) as ended:
            main(["train", "own.yaml", f"task={task}", *small, "--out", task.partition(":")[2]])
        assert ended.value.code == 0, capsys.readouterr().err
    sums = resolve("own.yaml", ["task=my_task.py:Sums", "task.largest=5"]).build_task()
    problem = sums.split("all").take(None)[-1]
    assert [sums.judge([(problem, text)])[0].reward for text in (" 8 ", "7")] == [1, 0]


@pytest.mark.parametrize("name", shipped_recipes())
def test_shipped_recipes_resolve(name):
    assert resolve(name).steps > 0


def test_the_leaderboard_is_what_its_results_say() -> None:
    page = (DOCS / "leaderboard.md").read_text(encoding="utf-8")
    assert page == runpy.run_path(str(DOCS / "leaderboard.py"))["page"](), "run: python docs/leaderboard.py"


def test_every_recipe_key_is_documented_as_the_code_has_it():
    page = (DOCS / "reference.md").read_text()
    assert page == runpy.run_path(DOCS / "keys.py")["page"](), "run: python docs/keys.py"
    keys = {
        re.sub(r"^stages\.\d+", "stages.N", key) for name in shipped_recipes() for key in flat(resolve(name).as_dict())
    }
    assert [key for key in sorted(keys) if f"`{key}`" not in page] == []


def test_the_changelog_tells_every_renamed_key():
    table = (ROOT / "CHANGELOG.md").read_text()
    assert [
        key for key, present in RENAMED.items() if f"| `{key}` | {f'`{present}`' if present else ''}" not in table
    ] == []


def flat(values: object, path: str = "") -> list[str]:
    """The dotted keys of a recipe; what is empty or a list of plain values is a leaf."""
    if isinstance(values, dict):
        return [key for name, inner in values.items() for key in flat(inner, f"{path}.{name}".lstrip("."))]
    if isinstance(values, list) and values and isinstance(values[0], dict):
        return [key for i, inner in enumerate(values) for key in flat(inner, f"{path}.{i}")]
    return [path]


EVERYWHERE = [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted(ROOT.glob("tools/**/*.md"))]
CELL = 150
"""Most characters in a cell of a table: longer ones are lists."""


@pytest.mark.parametrize("page", EVERYWHERE, ids=lambda page: page.name)
def test_relative_links_lead_somewhere(page):
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", prose(page))
    broken = [t for t in targets if not re.match(r"[a-z]+:", t) and not (page.parent / t).exists()]
    assert broken == []


@pytest.mark.parametrize("page", EVERYWHERE, ids=lambda page: page.name)
def test_files_and_constants_that_pages_name_are_there(page):
    there = [*ROOT.glob("*/**/*.py"), *(Path("/") / block.name for block in BLOCKS if block.name)]
    files = set(re.findall(r"`(?:\.\./)*([\w/-]+\.py)`", prose(page)))
    assert {file for file in files if not any(f"{path}".endswith(f"/{file}") for path in there)} == set()
    source = "\n".join(path.read_text() for path in PACKAGE.rglob("*.py"))
    constants = set(re.findall(r"`([A-Z]{5,})`", prose(page))) - {"MODEL"}
    assert {name for name in constants if not re.search(rf"^{name}\b.* = ", source, re.MULTILINE)} == set()


@pytest.mark.parametrize("page", EVERYWHERE, ids=lambda page: page.name)
def test_pages_have_the_one_format_and_short_cells(page):
    text = page.read_text()
    options = tomllib.loads((ROOT / ".mdformat.toml").read_text())
    assert text == mdformat.text(text, extensions=options.pop("extensions"), options=options), "run: make format"
    cells = [cell for line in prose(page).splitlines() if line.startswith("|") for cell in re.split(r"(?<!\\)\|", line)]
    assert [cell for cell in cells if len(cell.strip()) > CELL] == []


def test_the_index_and_the_navigation_have_every_page():
    index, navigation = (DOCS / "index.md").read_text(), (ROOT / "mkdocs.yml").read_text()
    pages = {page.name for page in DOCS.glob("*.md")} - {"index.md"}
    assert {page for page in pages if f"({page})" not in index} == set()
    assert {page for page in pages if f": {page}\n" not in navigation} == set()


def test_the_site_builds_and_its_links_and_anchors_lead_somewhere(tmp_path):
    pytest.importorskip("material", reason="the site wants the extra docs")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", tmp_path]
    built = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    )
    assert built.returncode == 0, built.stderr


def test_the_notebook_is_the_tutorial():
    """Its cells; what they wrote is from a run of it."""
    kept = json.loads((DOCS / "tutorial.ipynb").read_text())["cells"]
    made = runpy.run_path(DOCS / "notebook.py")["cells"]()
    assert [(c["cell_type"], c["source"]) for c in kept] == [(c["cell_type"], c["source"]) for c in made]
    assert all(c["outputs"] for c in kept if "scorl " in c["source"] and "outputs" in c), (
        "run: python docs/notebook.py --run"
    )


def test_the_figures_are_those_of_the_recorded_results():
    drawn = runpy.run_path(DOCS / "figures.py")["figures"]()
    kept = {path.name: path.read_text() for path in (DOCS / "figures").glob("*.svg")}
    assert kept == drawn, "run: python docs/figures.py"


def test_the_readmes_table_is_that_of_the_recorded_results():
    arms = json.loads((DOCS / "results" / "compare-countdown.json").read_text())["arms"]
    rows = re.findall(r"^\| ([\w -]+) \| .*\d.* \|$", README.read_text(), re.MULTILINE)
    assert rows == ["base", "single-turn RL", "multi-turn RL", "SCoRe"]
    for row in rows:
        (arm,) = (arm for arm in arms.values() if arm["label"] == row)
        (line,) = re.findall(rf"^\| {row} \| (.*) \|$", README.read_text(), re.MULTILINE)
        cells = [float(number) for number in re.findall(r"[-+]?\d+\.\d", line)]
        spread = [
            arm["metrics"][m][end] for m in ("accuracy_t1", "accuracy_t2", "delta") for end in ("mean", "low", "high")
        ]
        flips = [arm["metrics"][m]["mean"] for m in ("incorrect_to_correct", "correct_to_incorrect")]
        assert cells == [round(100 * value, 1) for value in spread + flips]


def test_the_tree_of_the_architecture_page_is_the_tree():
    tree = next(block.text for block in blocks(DOCS / "architecture.md") if block.text.startswith("src/scorl/"))
    told = set(re.findall(r"^  (\S+?)/? ", tree, re.MULTILINE))
    there = {path.name for path in PACKAGE.iterdir() if path.name not in ("__pycache__", "models")}
    assert told - {"models"} == there
