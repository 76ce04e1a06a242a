"""The house rules: imports point down the floors, the lower floors need no torch, rooms stay small."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "scorl"

FLOORS: list[tuple[str, ...]] = [
    (
        "version",
        "errors",
        "text_files",
        "parent",
        "threads",
        "validation",
        "seeds",
        "settings",
        "trajectory",
        "distributed",
    ),
    ("objectives", "metrics", "sandbox", "verifiers"),
    ("tasks",),
    ("model", "engines", "learner", "rollout"),
    ("training", "evaluation", "panel", "answers", "inference", "recipe", "run"),
    ("report", "compare", "estimate", "hub", "serve", "cli", "harness", "__main__"),
]
"""From the ground up; a module imports from its own floor only what stands to its left, or is in its own folder."""
ORDER = {room: (floor, place) for floor, rooms in enumerate(FLOORS) for place, room in enumerate(rooms)}


def room(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imports(path: Path) -> set[str]:
    """The rooms of scorl that a file imports from, type-checking imports included."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "scorl":
            parts = node.module.split(".")
            names |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {a.name.split(".")[1] for a in node.names if a.name.startswith("scorl.")}
    return names


FILES = [p for p in sorted(SOURCE.rglob("*.py")) if p != SOURCE / "__init__.py"]


def test_every_room_has_a_floor():
    assert {room(p) for p in FILES} == set(ORDER)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_imports_point_down(path):
    up = {name for name in imports(path) - {room(path)} if ORDER[name] > ORDER[room(path)]}
    assert not up, f"{path.name} imports from {up}, which do not stand below it"


def test_no_circle_of_files():
    """Not within a room either, type-checking imports included; imports from a package's __init__.py are left out."""
    files = {"scorl." + ".".join(p.relative_to(SOURCE).with_suffix("").parts): p for p in FILES}
    wants = {
        name: {
            node.module
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.ImportFrom) and node.module in files
        }
        for name, path in files.items()
    }
    while free := {name for name, needed in wants.items() if not needed & wants.keys()}:
        wants = {name: needed for name, needed in wants.items() if name not in free}
    assert not wants


SPECIAL = {
    "torch.distributed": {
        "distributed/ranks.py",
        "distributed/torchrun.py",
        "learner/sharding.py",
        "learner/state.py",
        "model/shards.py",
    },
    "ray": {"distributed/ray.py"},
}
"""Who may import what only many processes need: what they say to each other, FSDP2, DCP, the launchers."""


@pytest.mark.parametrize("module", SPECIAL)
def test_one_place_knows_each_special_library(module):
    def wanted(name: str) -> bool:
        return name == module or name.startswith(f"{module}.")

    found = set()
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module, *(f"{node.module}.{a.name}" for a in node.names)]
            if any(map(wanted, names)):
                found.add(str(path.relative_to(SOURCE)))
    assert found == SPECIAL[module]


@pytest.mark.parametrize(
    "name",
    [
        "distributed.ranks",
        "tasks",
        "verifiers",
        "metrics",
        "objectives",
        "engines",
        "run.directory",
        "cli.judge_file",
        "estimate.device",
        "cli",
    ],
)
def test_the_lower_floors_and_the_door_do_without_torch(name):
    code = f"import sys, scorl.{name}; sys.exit(bool({{'torch', 'transformers'}} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_rooms_stay_small(path):
    text = path.read_text()
    assert len(text.splitlines()) <= 300
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            size = (node.end_lineno or 0) - node.lineno + 1
            assert size <= 60, f"{path.name}: {node.name} has {size} lines"


def test_public_names_are_explicit():
    missing = [
        str(p.relative_to(SOURCE))
        for p in FILES
        if p.name not in {"__main__.py"} and "__all__" not in p.read_text() and "def " in p.read_text()
    ]
    assert not missing


def test_the_package_names_what_it_exports():
    import scorl

    assert all(getattr(scorl, name) is not None for name in scorl.__all__)
    assert callable(scorl.train)
    assert callable(scorl.evaluate)


def test_only_objectives_and_comparisons_name_a_method():
    """What a method needs, its objective says: engines, learner, loop and recipes are the same for all of them."""
    from scorl.objectives import OBJECTIVES

    methods = {*OBJECTIVES, *(kind.__name__ for kind in OBJECTIVES.values())}
    named = {}
    for path in FILES:
        if room(path) in ("objectives", "compare"):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            words = {getattr(node, "id", None), getattr(node, "attr", None), getattr(node, "value", None)}
            words |= {alias.name for alias in getattr(node, "names", ()) if isinstance(alias, ast.alias)}
            if found := methods & {word for word in words if isinstance(word, str)}:
                named.setdefault(str(path.relative_to(SOURCE)), set()).update(found)
    assert named == {}


def test_no_public_class_has_the_name_of_another():
    homes: dict[str, list[str]] = {}
    for path in FILES:
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                homes.setdefault(node.name, []).append(str(path.relative_to(SOURCE)))
    doubles = {name: paths for name, paths in homes.items() if len(paths) > 1}
    assert not doubles


RUN_FILES = {
    "run/directory.py": {"steps.jsonl", "evaluation.json", "report.html", "loggers.json", "attempts", "collected"},
    "model/loading.py": {"checkpoints"},
    "recipe/source.py": {"recipe.yaml"},
    "compare/jobs.py": {"collected"},  # a folder of the comparison, which its runs share
}
"""Who spells a name of the run directory; a file's by itself, a folder's as a part of a path."""


def paths_spelled(path: Path) -> set[str]:
    """The names of the run directory that a file spells, alone or within a path."""
    names = set().union(*RUN_FILES.values())
    spelled = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            spelled |= {part for part in node.value.split("/") if "." in part and part in names}
        parts = [node.left, node.right] if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div) else []
        parts += [node.value] if isinstance(node, ast.Assign) else []
        parts += node.value.elts if isinstance(node, ast.Assign) and isinstance(node.value, ast.Tuple) else []
        spelled |= {part.value for part in parts if isinstance(part, ast.Constant) and part.value in names}
    return spelled


def test_the_run_directory_has_one_owner():
    spelled = {str(path.relative_to(SOURCE)): names for path in FILES if (names := paths_spelled(path))}
    assert spelled == RUN_FILES
