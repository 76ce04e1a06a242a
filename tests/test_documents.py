"""The documents hold to the code: commands, Python and YAML in them work, links lead somewhere, nothing is left out."""

import json
import re
import runpy
import shlex
from dataclasses import dataclass
from pathlib import Path

import click
import pytest

from scorl.cli import commands, main
from scorl.recipe import resolve, resolve_task, shipped_recipes

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "scorl"
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
FRAGMENTS = {"chat.md", "metrics.md"}
"""Their Python is about objects that the reader has: it does not run by itself."""
SHIPPED_MODEL = PACKAGE / "models" / "countdown-base" / "config.json"
SMALL = [
    *(f"stages.{i}.{key}" for i in (0, 1) for key in ("steps=1", "problems=2", "samples=2")),
    "evaluation.problems=2",
]
"""What makes a shipped recipe take a second."""

needs_model = pytest.mark.skipif(not SHIPPED_MODEL.is_file(), reason="the shipped model is not built")


@dataclass(frozen=True)
class Block:
    """A fenced block: ```language name."""

    page: str
    language: str
    name: str
    text: str


def blocks(page: Path) -> list[Block]:
    found = re.findall(r"^```(\w*) ?(\S*)\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
    return [Block(page.name, *parts) for parts in found]


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
        resolve_task(task, values.get("settings", ()))


def test_every_command_is_in_the_readme():
    assert {words(line)[0] for line in shell_lines(README)} == set(commands.commands)


@needs_model
def test_the_readmes_commands_run_in_their_order(folder):
    for line in shell_lines(README):
        arguments = words(line)
        if arguments[0] == "collect-repairs":
            continue  # wants MBPP's file; test_tasks_programs.py runs it
        if arguments[0] == "train" and arguments[1] in shipped_recipes():
            arguments[2:2] = SMALL
        if arguments[0] == "evaluate":
            arguments += ["--limit", "2"]
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == 0, line
    check_run(next(folder.glob("runs/*")))


def check_run(run: Path) -> None:
    """Every file and every field of a run is in docs/run-directory.md."""
    text = (ROOT / "docs" / "run-directory.md").read_text()
    told = set(re.findall(r"`([^`\n]+)`", text))
    lines = [json.loads((run / "steps.jsonl").read_text().splitlines()[0])]
    lines.append(json.loads((run / "attempts/step-000000.jsonl").read_text().splitlines()[0]))
    lines.append(json.loads((run / "evaluation.json").read_text())["test"])
    fields = {key for line in lines for key in line} | set(lines[0]["seconds"])
    assert fields - told == set()
    assert {path.name for path in run.iterdir()} - {name.split("/")[0] for name in told} == set()
    assert {f"trainer/{path.name}" for path in run.glob("checkpoints/step-2/trainer/*")} <= told
    rates = (ROOT / "docs" / "metrics.md").read_text()
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


def test_own_data_and_an_own_reward_function_as_the_recipes_page_has_them(folder):
    task = resolve("rewarded.yaml").task.build()
    (problem,) = task.split("test").take(None)
    assert problem.prompt[0]["content"].endswith("End with: The answer is N.")
    right, wrong = task.judge([(problem, f"It is {problem.columns['answer']}"), (problem, "It is -1")])
    assert (right.reward, wrong.reward) == (1.0, 0.0)
    assert all("The answer is" in str(problem.solution) for problem in task.split("train").draw(2, 0, 0))


@pytest.mark.parametrize("name", shipped_recipes())
def test_shipped_recipes_resolve(name):
    assert resolve(name).steps > 0


def test_every_recipe_key_is_documented_as_the_code_has_it():
    page = (ROOT / "docs" / "reference.md").read_text()
    assert page == runpy.run_path(str(ROOT / "docs" / "keys.py"))["page"](), "run: python docs/keys.py"
    keys = {
        re.sub(r"^stages\.\d+", "stages.N", key) for name in shipped_recipes() for key in flat(resolve(name).as_dict())
    }
    assert [key for key in sorted(keys) if f"`{key}`" not in page] == []


def flat(values: object, path: str = "") -> list[str]:
    """The dotted keys of a recipe; what is empty or a list of plain values is a leaf."""
    if isinstance(values, dict):
        return [key for name, inner in values.items() for key in flat(inner, f"{path}.{name}".lstrip("."))]
    if isinstance(values, list) and values and isinstance(values[0], dict):
        return [key for i, inner in enumerate(values) for key in flat(inner, f"{path}.{i}")]
    return [path]


LINKED = [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted(ROOT.glob("tools/**/*.md"))]


@pytest.mark.parametrize("page", LINKED, ids=lambda page: page.name)
def test_relative_links_lead_somewhere(page):
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", prose(page))
    broken = [t for t in targets if not re.match(r"[a-z]+:", t) and not (page.parent / t).exists()]
    assert broken == []


def test_the_readme_links_every_document():
    text = README.read_text()
    assert [page.name for page in PAGES[1:] if f"(docs/{page.name})" not in text] == []


def test_the_tree_of_the_architecture_page_is_the_tree():
    tree = next(
        block.text for block in blocks(ROOT / "docs" / "architecture.md") if block.text.startswith("src/scorl/")
    )
    told = set(re.findall(r"^  (\S+?)/? ", tree, re.MULTILINE))
    there = {path.name for path in PACKAGE.iterdir() if path.name not in ("__pycache__", "models")}
    assert told - {"models"} == there
