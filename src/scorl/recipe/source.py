"""From files and the command line to one mapping: YAML, `extends`, dotted overrides; nothing is checked."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import yaml

from scorl.errors import UserError, nearest
from scorl.recipe.renamed import rename
from scorl.recipe.sections import CHOICES
from scorl.recipe.yaml_text import PLAIN
from scorl.text_files import DEPTH, as_path, check_characters, check_values, read_text

__all__ = ["RECIPE_FILE", "SHIPPED_FOLDER", "assign", "header", "load", "parse", "read_mapping", "shipped_recipes"]

RECIPE_FILE = "recipe.yaml"
"""The recipe of a run, in its directory."""
PROMPT = re.compile(r"(?:[^\[{\"'].*)?\{[A-Za-z_]+\}", re.DOTALL)
"""How a prompt begins: with a place that is filled in, or with words before one."""
DIGITS = 100
"""The most of a whole number."""
TOWER = re.compile(r"(?:[\[{]\s*(?:\w+:\s+)?){200}")
"""Brackets within each other that nobody closes in between."""
VALUES = 100_000
"""The most values of a recipe."""
SHIPPED_FOLDER = Path(__file__).parents[1] / "recipes"


class _Loader(yaml.SafeLoader):
    """YAML 1.2's plain values: 5e-6 is a number, yes and no are words, dates are text; no key twice."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - PyYAML's own class attribute
    yaml_constructors: ClassVar[dict[Any, Any]] = {}

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        if not isinstance(node, yaml.MappingNode):  # `!!map xyz`
            problem = f"expected a mapping, but found a {node.id}"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
        keys = Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))
        if twice := next((key for key, count in keys.items() if count > 1), None):
            raise yaml.constructor.ConstructorError(None, None, f"the key '{twice}' stands here twice", node.start_mark)
        return super().construct_mapping(node, deep)

    def construct_plain(self, node: yaml.ScalarNode) -> Any:
        text, kind = self.construct_scalar(node), node.tag.rpartition(":")[2]
        if not re.fullmatch(PLAIN[kind], text) or (kind == "int" and len(text) > DIGITS):
            raise yaml.constructor.ConstructorError(None, None, f"this is no {kind}: {text!r:.60}", node.start_mark)
        return _READ[kind](text)


_READ: dict[str, Callable[[str], Any]] = {
    "null": lambda text: None,
    "bool": lambda text: text.lower() == "true",
    "int": int,
    "float": lambda text: float(re.sub(r"\.(?=inf|nan)", "", text.lower())),
}
for _name, _pattern in PLAIN.items():
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", re.compile(f"^(?:{_pattern})$"), None)
    _Loader.add_constructor(f"tag:yaml.org,2002:{_name}", _Loader.construct_plain)
for _name in ("str", "seq", "map"):
    _tag = f"tag:yaml.org,2002:{_name}"
    _Loader.add_constructor(_tag, yaml.SafeLoader.yaml_constructors[_tag])
_Loader.add_constructor(None, yaml.SafeLoader.yaml_constructors[None])


def parse(text: str, where: str) -> Any:
    """YAML to plain values.

    Raises:
        UserError: it is no YAML, or none of a recipe; `where` says whose text it is.
    """
    if TOWER.search(text):  # PyYAML's time grows by its square
        raise UserError(f"{where}: nested too deeply")
    try:
        values = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise UserError(f"{where} is no YAML: {error}") from None
    except RecursionError:
        raise UserError(f"{where}: nested too deeply") from None
    check_values(values, where, most=VALUES)
    return values


def shipped_recipes() -> dict[str, Path]:
    """The recipes in this package by name."""
    return {path.stem: path for path in sorted(SHIPPED_FOLDER.glob("*.yaml"))}


def header(path: Path) -> list[str]:
    """The comment that a recipe opens with, line by line, without the editor's own."""
    lines = path.read_text(encoding="utf-8").splitlines()
    comment = [line.lstrip("# ") for line in itertools.takewhile(lambda line: line.startswith("#"), lines)]
    return [line for line in comment if not line.startswith("yaml-language-server")]


def load(recipe: str | Path, seen: tuple[Path, ...] = ()) -> dict[str, Any]:
    """A recipe's mapping, merged over what it extends.

    `recipe` is a file, a run directory, or the name of a shipped recipe; `extends` takes the same, a path
    being relative to the recipe that names it.

    Raises:
        UserError: no such recipe, no YAML, or recipes that extend each other in a circle.
    """
    path = _find(recipe, seen[-1].parent if seen else Path())
    if path in seen:
        raise UserError(f"these recipes extend each other in a circle: {' -> '.join(map(str, (*seen, path)))}")
    values = read_mapping(read_text(path), str(path))
    base = values.pop("extends", None)
    if base is None:
        return dict(values)
    if not isinstance(base, str):
        raise UserError(f"{path}: extends takes a path or the name of a shipped recipe, not {base!r}")
    merged: dict[str, Any] = _merged(load(base, (*seen, path)), values)
    return merged


def read_mapping(text: str, where: str) -> dict[str, Any]:
    """A recipe's own mapping, with what a run of an older version did by itself; see `parse`."""
    values = parse(text, where) or {}
    if not isinstance(values, dict):
        raise UserError(f"{where}: a recipe is a mapping of keys, not {type(values).__name__}")
    return values if values.pop("versions", None) is None else _of_a_run(values)


def assign(values: dict[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """The mapping with each `dotted.key=value` set, the value read as YAML.

    Raises:
        UserError: an override is no `key=value`, or its key leads nowhere.
    """
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key:
            raise UserError(f"'{override}' is no override: write key=value, as in stages.1.alpha=5")
        check_characters(override, "the command line")
        if key.count(".") >= DEPTH:
            raise UserError(f"{key:.60}...: nested too deeply: more than {DEPTH} levels")
        # `{question}`, as a prompt may begin, and `Q: {question}` would be mappings of YAML.
        value = text if PROMPT.match(text) else parse(text, f"the value of {key}")
        if key in CHOICES and isinstance(value, str):  # task=gsm8k
            key = f"{key}.{CHOICES[key].key}"
        values = _assigned(values, key.split("."), value, key)
    return values


def _find(recipe: str | Path, folder: Path) -> Path:
    path = folder / as_path(recipe)
    if (path / RECIPE_FILE).is_file():
        return (path / RECIPE_FILE).resolve()
    if path.is_file():
        return path.resolve()
    shipped = shipped_recipes()
    if str(recipe) in shipped:
        return shipped[str(recipe)].resolve()
    if path.is_dir():
        raise UserError(f"{recipe}: holds no {RECIPE_FILE}, so no run was started there; give the recipe itself")
    raise UserError(f"there is no recipe '{recipe}', neither as a file nor shipped: {nearest(str(recipe), shipped)}")


def _of_a_run(values: dict[str, Any]) -> dict[str, Any]:
    """What a run wrote, perhaps before a key was renamed: no user's typo, so nothing is said of it."""
    values, _ = rename(values)
    chosen = {name: values[name] for name in CHOICES if isinstance(values.get(name), dict)}
    return values | {name: CHOICES[name].fitting(section) for name, section in chosen.items()}


def _merged(base: Any, over: Any, name: str = "") -> Any:
    """`over` laid on `base`: mappings key by key, everything else (lists too) replaced whole."""
    if not isinstance(base, dict) or not isinstance(over, dict):
        return over
    return _staying(base, over, name) | {key: _merged(base.get(key), value, key) for key, value in over.items()}


def _staying(section: dict[str, Any], over: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A section without the settings of a task, say, where another is chosen over it."""
    choice = CHOICES.get(name)
    return choice.shared(section) if choice and over.get(choice.key) not in (None, choice.named(section)) else section


def _assigned(node: Any, keys: list[str], value: Any, whole: str) -> Any:
    if not keys:
        return value
    head, rest = keys[0], keys[1:]
    if isinstance(node, list):
        if not re.fullmatch("[0-9]{1,9}", head) or int(head) >= len(node):
            raise UserError(f"{whole}: '{head}' is no place in a list of {len(node)}; they count from 0")
        at = int(head)
        return [*node[:at], _assigned(node[at], rest, value, whole), *node[at + 1 :]]
    if not isinstance(node, dict | None):
        raise UserError(f"{whole}: {node!r} has no keys of its own")
    node = node or {}
    staying = node if rest else _staying(node, {head: value}, whole.rpartition(".")[0])
    return staying | {head: _assigned(node.get(head), rest, value, whole)}
