"""What a release rests on: the lock, the version and its changelog, the workflows."""

import hashlib
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from scorl.version import __version__

ROOT = Path(__file__).parents[1]
LOCKS = [ROOT / "locks" / f"{name}.txt" for name in ("requirements", "cuda", "torch-cpu", "release")]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def locked(path: Path) -> dict[str, str]:
    """The packages of a lock, each with all its lines."""
    packages = re.findall(r"^([^\s#=]+)(==.*\n(?: .*\n)*)", path.read_text(), re.MULTILINE)
    return {canonicalize_name(name): text for name, text in packages}


def wanted(*extras: str) -> list[Requirement]:
    """What the package wants with such extras, those of its extras that they name included."""
    lines = [*PROJECT["dependencies"], *(line for extra in extras for line in PROJECT["optional-dependencies"][extra])]
    found = [Requirement(line) for line in lines]
    own = [extra for requirement in found if requirement.name == "scorl" for extra in sorted(requirement.extras)]
    return [r for r in found if r.name != "scorl"] + (wanted(*own) if own else [])


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: path.name)
def test_every_locked_package_has_one_version_and_hashes(path: Path) -> None:
    text = re.sub(r"^#.*\n", "", path.read_text(), flags=re.MULTILINE)
    assert locked(path) or path == LOCKS[2]  # where no build of this torch for CPUs was found
    assert "://" not in text
    for name, lines in locked(path).items():
        assert re.match(r"==[\w.!+]+ ", lines), name
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", lines), name
    assert "".join(f"{name}{lines}" for name, lines in locked(path).items()).count("\n") == text.count("\n")


@pytest.mark.parametrize(("path", "group"), [(LOCKS[0], None), (LOCKS[3], "release")])
def test_the_locks_have_what_setup_and_a_release_want(path: Path, group: str | None) -> None:
    versions = {name: re.match(r"==(\S+)", lines)[1] for name, lines in locked(path).items()}
    for requirement in map(Requirement, PYPROJECT["dependency-groups"][group]) if group else wanted("dev"):
        assert requirement.specifier.contains(versions[canonicalize_name(requirement.name)]), requirement


def test_torch_for_cpus_has_the_version_of_the_lock() -> None:
    version = re.match(r"==(\S+)", locked(LOCKS[0])["torch"])[1]
    assert [line.split()[0] for line in locked(LOCKS[2]).values()] in ([], [f"=={version}"])


@pytest.mark.parametrize("there", [True, False])
def test_the_build_of_torch_for_cpus_follows_the_lock_where_it_is_to_be_had(there, tmp_path, monkeypatch) -> None:
    whole, cpu = tmp_path / "requirements.txt", tmp_path / "torch-cpu.txt"
    whole.write_text("torch==9.9.0 \\\n    --hash=sha256:1\n")
    cpu.write_text("# What it is.\ntorch==2.13.0 --hash=sha256:2\n")
    wheel = tmp_path / "torch-9.9.0+cpu-cp311-cp311-manylinux_2_28_x86_64.whl"
    if there:
        with zipfile.ZipFile(wheel, "w") as file:
            file.writestr(
                "torch-9.9.0+cpu.dist-info/METADATA", "Metadata-Version: 2.1\nName: torch\nVersion: 9.9.0+cpu\n"
            )
            file.writestr("torch-9.9.0+cpu.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: false\n")
    for name, value in (("FIND_LINKS", str(tmp_path)), ("CONFIG_FILE", os.devnull), ("CONSTRAINT", "")):
        monkeypatch.setenv(f"PIP_{name}", value)
    follow_torch = runpy.run_path(str(ROOT / "tools" / "lock.py"))["follow_torch"]
    follow_torch(whole, cpu)
    lines = [f"torch==9.9.0 --hash=sha256:{hashlib.sha256(wheel.read_bytes()).hexdigest()}"] if there else []
    assert cpu.read_text().splitlines() == ["# What it is.", *lines]
    follow_torch(whole, cpu)
    assert cpu.read_text().splitlines() == ["# What it is.", *lines]


def write_script(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """A target in an empty folder."""
    (tmp_path / "locks").mkdir()
    for path in (ROOT / "pyproject.toml", *LOCKS):
        (tmp_path / path.relative_to(ROOT)).touch()
    shutil.copy(ROOT / "Makefile", tmp_path)

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {k: v for k, v in os.environ.items() if k not in ("PYTHON", "MAKEFLAGS", "MAKELEVEL")}
        command = ["make", "--no-print-directory", "-C", tmp_path, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)

    return run


@pytest.fixture
def setup(make, tmp_path: Path) -> Callable[[str], subprocess.CompletedProcess[str]]:
    """`make setup` by a script in place of Python."""

    def run(script: str) -> subprocess.CompletedProcess[str]:
        write_script(tmp_path / "own-python", script)
        return make("setup", "PYTHON=./own-python")

    return run


OLD = '[ "$1" = --version ] && echo Python 3.10.13; exit 1'


def new(version: str) -> str:
    """A script that answers as a Python of such a version, and makes environments, in which pytest passes."""
    environment = 'rm -rf "$4"; mkdir -p "$4/bin"; cp "$0" "$4/bin/python"; cp "$0" "$4/bin/pytest"'
    return f'case "$2" in *print*) echo {version};; venv) {environment};; esac'


needs_make = pytest.mark.skipif(not shutil.which("make"), reason="there is no make")


@needs_make
def test_setup_makes_anew_what_a_failed_one_left_and_names_a_python_that_is_too_old(setup, tmp_path) -> None:
    environment = tmp_path / ".venv"
    done = setup(OLD)
    assert done.returncode == 2
    assert "and ./own-python is Python 3.10.13: name another, as in: make setup PYTHON=python3.11" in done.stderr
    assert not environment.exists()
    (environment / "bin").mkdir(parents=True)
    shutil.copy(tmp_path / "own-python", environment / "bin" / "python")  # without pip, or too old
    (environment / "left").touch()
    assert setup(new("3.12")).returncode == 0
    assert not (environment / "left").exists()
    (environment / ".installed").unlink()
    (environment / "left").touch()
    assert setup(new("3.12")).returncode == 0  # what is whole stays
    assert (environment / "left").exists()


@needs_make
@pytest.mark.parametrize(("heals", "code"), [("true", 0), ("false", 2)])
def test_setup_fails_where_something_else_is_wrong_than_the_packages_of_cuda(setup, heals, code) -> None:
    checks = f'"-m pip check") [ -e healed ];; *cuda.txt) ! {heals} || touch healed;;'
    assert setup(f'{new("3.12")}; case "$*" in {checks} esac').returncode == code


@needs_make
def test_an_environment_of_another_python_than_the_one_that_is_named_is_made_anew(make, setup, tmp_path) -> None:
    environment = tmp_path / ".venv"
    assert setup(new("3.12")).returncode == 0
    (environment / "left").touch()
    assert setup(new("3.12")).returncode == 0
    assert make("setup").returncode == 0  # none is named
    assert (environment / "left").exists()
    assert setup(OLD).returncode == 2
    assert setup(new("3.13")).returncode == 0
    assert not (environment / "left").exists()


UV = """
[ "$2" = install ] && exit 1
shift 4
[ -e python"$1" ] && echo ./python"$1"
"""


@needs_make
def test_the_tests_run_on_every_python_that_is_there_and_the_others_are_named(make, tmp_path) -> None:
    (tmp_path / ".venv-release" / "bin").mkdir(parents=True)
    (tmp_path / ".venv-release" / ".installed").touch()
    write_script(tmp_path / ".venv-release" / "bin" / "uv", UV)
    for version in ("3.11", "3.12"):
        write_script(tmp_path / f"python{version}", new(version))
    done = make("test-pythons", "PYTHONS=3.11 3.12 3.13")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "passed: 3.11 3.12; failed: none; not to be had: 3.13"
    assert (tmp_path / ".venv-3.12" / ".installed").exists()
    write_script(tmp_path / ".venv-3.12" / "bin" / "pytest", "exit 1")
    done = make("test-pythons", "PYTHONS=3.12 3.11")
    assert done.returncode == 2
    assert done.stdout.splitlines()[-1] == "passed: 3.11; failed: 3.12; not to be had: none"
    assert make("test-pythons", "PYTHONS=3.13").returncode == 2


@needs_make
def test_the_lowest_versions_are_those_of_the_python_that_gets_them(make) -> None:
    lines = [line for line in make("-n", "test-lowest").stdout.splitlines() if "/uv pip " in line]
    assert len(lines) == 2
    assert all(" --python .venv-lowest " in line for line in lines), lines


@needs_make
def test_every_shipped_base_is_built_anew_and_one_that_differs_is_named(make, tmp_path) -> None:
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    write_script(tmp_path / ".venv" / "bin" / "python", 'echo "$@" >> built; case "$1" in *hasty*) exit 1;; esac')
    (tmp_path / ".venv" / ".installed").touch()
    done = make("test-bases")
    assert done.returncode == 2
    assert done.stdout.splitlines()[-1] == "not as shipped: hasty-base"
    built = [line.split() for line in (tmp_path / "built").read_text().splitlines()]
    assert all((ROOT / script).is_file() and options[-1] == "--check" for script, *options in built)
    shipped = {path.name for path in (ROOT / "src" / "scorl" / "models").iterdir() if path.is_dir()}
    assert {Path(script).parent.name for script, *_ in built} == shipped
    assert make("test-bases", "BASES=verify-base").returncode == 0


def test_the_bill_of_materials_has_what_users_get_and_says_what_extras_alone_want() -> None:
    tool = runpy.run_path(str(ROOT / "tools" / "bom.py"))
    dev = next(r for r in map(Requirement, PROJECT["optional-dependencies"]["dev"]) if r.name == "scorl")
    assert {*tool["EXTRAS"]} == dev.extras - {"docs"}
    lock = "".join(path.read_text() for path in LOCKS[:2])
    chosen = tool["choose"](lock, {"torch", "peft"})
    assert re.findall(r"^([^\s=#]+)==", chosen, re.MULTILINE) == ["peft", "torch"]
    assert all("--hash=sha256:" in lines for lines in re.split(r"\n(?! )", chosen.rstrip()))
    with pytest.raises(LookupError, match="the locks have no nothing: make lock"):
        tool["choose"](lock, {"torch", "nothing"})
    bom = tool["mark"]({"bomFormat": "CycloneDX", "components": [{"name": "torch"}, {"name": "peft"}]}, {"torch"})
    assert bom["bomFormat"] == "CycloneDX"
    assert {part["name"]: part["scope"] for part in bom["components"]} == {"torch": "required", "peft": "optional"}
    project = tomllib.loads(tool["fix_version"]((ROOT / "pyproject.toml").read_text()))["project"]
    assert project["version"] == __version__


def test_what_is_required_is_there_or_no_test_is_run(tmp_path) -> None:
    environment = os.environ | {"PATH": "/nowhere", "SCORL_REQUIRE": "sandbox,chrome"}
    command = [sys.executable, "-m", "pytest", "--collect-only", __file__]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "SCORL_REQUIRE=sandbox,chrome: no full sandbox here: bubblewrap is not installed" in done.stderr
    assert "'chrome' is neither of ['sandbox', 'chromium']" in done.stderr


def test_the_wheel_is_tried_with_the_commands_of_the_readme() -> None:
    """Their words in the script, which may add some and has other numbers; the endpoint alone is left out."""
    script = ["bash", ROOT / "tools" / "try_wheel.sh", "--list"]
    tried = subprocess.run(script, capture_output=True, text=True, check=True).stdout.splitlines()
    shell = "".join(re.findall(r"^```sh\n(.*?)^```$", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL))
    written = [line for line in shell.splitlines() if line.startswith("scorl ") and " openai:" not in line]
    assert len(tried) == len(written) > 5
    for line, words in zip(tried, (shlex.split(line, comments=True) for line in written), strict=True):
        assert [word for word in words if word not in shlex.split(line) and not word.isdecimal()] == []


def test_the_wheel_is_tried_by_a_python_that_is_named_from_here(tmp_path) -> None:
    write_script(tmp_path / "own-python", 'echo "$@" > "$(dirname "$0")/called"; exit 7')
    script = ["bash", ROOT / "tools" / "try_wheel.sh", "./own-python", "x.whl"]
    assert subprocess.run(script, cwd=tmp_path, capture_output=True, check=False).returncode == 7
    assert (tmp_path / "called").read_text() == "-m venv env\n"


def find_fault_of_version(version: str, changelog: str) -> str | None:
    """What a version has wrong by its changelog: with changes that are not released it is a development version
    above the last release, and else the one that heads the changelog."""
    first, *others = re.findall(r"^## (\S+)", changelog, re.MULTILINE)
    if len({first, *others}) <= len(others):
        return "a heading stands twice"
    if first != "Unreleased":
        return None if version == first else f"the changelog is headed by {first}"
    if not Version(version).is_devrelease:
        return "there are changes that are not released"
    return None if all(Version(version) > Version(other) for other in others) else "a release is above it"


def test_the_version_stands_in_one_place_and_is_the_changelogs() -> None:
    assert PROJECT["dynamic"] == ["version"]
    assert find_fault_of_version(__version__, (ROOT / "CHANGELOG.md").read_text()) is None


@pytest.mark.parametrize(
    ("version", "changelog", "fault"),
    [
        ("0.2.0.dev0", "## Unreleased\n## 0.1.0 (a day)\n", None),
        ("0.1.0", "## Unreleased\n## 0.1.0 (a day)\n", "there are changes that are not released"),
        ("0.2.0", "## Unreleased\n## 0.1.0 (a day)\n", "there are changes that are not released"),
        ("0.1.0.dev0", "## Unreleased\n## 0.1.0 (a day)\n", "a release is above it"),
        ("0.1.0", "## 0.1.0 (a day)\n", None),
        ("0.1.0", "## 0.2.0 (a day)\n## 0.1.0 (a day)\n", "the changelog is headed by 0.2.0"),
        ("0.1.0", "## 0.1.0 (a day)\n## 0.1.0 (a day)\n", "a heading stands twice"),
    ],
)
def test_a_version_that_is_not_the_changelogs_is_found(version: str, changelog: str, fault: str | None) -> None:
    assert find_fault_of_version(version, changelog) == fault


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_runs_what_is_here_and_pins_what_is_not(path: Path) -> None:
    workflow = yaml.safe_load(path.read_text())
    assert workflow["permissions"] == {"contents": "read"}
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for job in workflow["jobs"].values():
        for step in job["steps"]:
            assert re.search(r"@[0-9a-f]{40}$", step.get("uses", "@" + "0" * 40))
            assert set(re.findall(r"make ([a-z-]+)", step.get("run", ""))) <= set(targets)
            assert "secrets." not in str(step)
            for script in re.findall(r"bash (\S+)", step.get("run", "")):
                assert (ROOT / script).is_file()
    assert [name for name, job in workflow["jobs"].items() if job.get("permissions")] in ([], ["publish"])


def test_continuous_integration_tries_every_python_that_is_supported() -> None:
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())["jobs"]
    pythons = jobs["test"]["strategy"]["matrix"]["python"]
    assert PROJECT["requires-python"] == f">={pythons[0]}"
    assert {"run": "bash .ci/run"} in jobs["test"]["steps"]
    assert "SCORL_SLOW" in jobs["slow"]["env"]
    for job in ("test", "slow"):
        assert jobs[job]["env"]["SCORL_REQUIRE"] == "sandbox,chromium"
    classifiers = [f"Programming Language :: Python :: {python}" for python in pythons]
    assert [c for c in PROJECT["classifiers"] if "Python :: 3." in c] == classifiers
    assert f"\nPYTHONS ?= {' '.join(pythons)}\n" in (ROOT / "Makefile").read_text()


def test_a_release_is_published_only_of_what_passed_the_tests() -> None:
    """Its tag may be of any commit, so the tests run anew, as continuous integration runs them."""
    workflows = {path.stem: yaml.safe_load(path.read_text()) for path in WORKFLOWS}
    jobs = workflows["release"]["jobs"]
    assert {*jobs["publish"]["needs"]} == {*jobs} - {"publish"}
    assert jobs["test"] == workflows["ci"]["jobs"]["test"]
    commands = [step.get("run") for job in jobs.values() for step in job["steps"]]
    assert {"make audit", "make test-release"} <= {*commands}
    assert not any("if" in job or "continue-on-error" in job for job in jobs.values())


def test_a_push_does_not_end_the_weekly_tests() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    assert "${{ github.event_name }}" in workflow["concurrency"]["group"]
