"""Writes build/scorl.cdx.json, the bill of materials in CycloneDX's format: of the locked packages those that scorl
wants, with the scope `required`, and those that its extras want besides, with the scope `optional`.

python tools/bom.py     (make dist; wants uv and cyclonedx-bom)
"""

import json
import re
import subprocess
import tomllib
from collections.abc import Collection
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
LOCKS = [ROOT / "locks" / name for name in ("requirements.txt", "cuda.txt")]
EXTRAS = ("math", "lora", "parquet", "gguf", "serve", "figures")
"""Those for users that the lock has."""
COMPILE = "uv pip compile --quiet --universal --python-version 3.11 --no-header --no-annotate"


def main() -> None:
    required, wanted = find_names(), find_names(*EXTRAS)
    build = ROOT / "build"
    build.mkdir(exist_ok=True)
    (build / "pyproject.toml").write_text(fix_version((ROOT / "pyproject.toml").read_text()))
    command = ["cyclonedx-py", "requirements", "-", "--pyproject", str(build / "pyproject.toml")]
    lines = choose("".join(path.read_text() for path in LOCKS), wanted)
    done = subprocess.run(command, input=lines, check=True, stdout=subprocess.PIPE, text=True)
    bom = mark(json.loads(done.stdout), required)
    (build / "scorl.cdx.json").write_text(json.dumps(bom, indent=2) + "\n")


def find_names(*extras: str) -> set[str]:
    """The names of what the package wants with such extras, on any platform, in the locked versions."""
    command = [*COMPILE.split(), *(word for path in LOCKS for word in ("-c", str(path)))]
    command += [*(f"--extra={extra}" for extra in extras), str(ROOT / "pyproject.toml")]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return set(re.findall(r"^([^\s=#]+)==", done.stdout, re.MULTILINE))


def fix_version(pyproject: str) -> str:
    """The project's description with its version, which it takes from a module."""
    version = re.findall(r'"(.*)"', (ROOT / "src" / "scorl" / "version.py").read_text())[-1]
    fixed = re.sub(r"^dynamic = .*$", f'version = "{version}"', pyproject, flags=re.MULTILINE)
    assert tomllib.loads(fixed)["project"]["version"] == version
    return fixed


def choose(lock: str, names: Collection[str]) -> str:
    """The packages of a lock that have such names, each with its hashes.

    Raises:
        LookupError: the lock lacks one of them.
    """
    packages = dict(re.findall(r"^([^\s=#]+)(==.*\n(?: .*\n)*)", lock, re.MULTILINE))
    if missing := sorted({*names} - {*packages}):
        raise LookupError(f"the locks have no {', '.join(missing)}: make lock")
    return "".join(f"{name}{packages[name]}" for name in sorted(names))


def mark(bom: dict[str, Any], required: Collection[str]) -> dict[str, Any]:
    """Every component with its scope: `required`, or `optional` for what extras alone want."""
    scopes = {True: "required", False: "optional"}
    return bom | {"components": [part | {"scope": scopes[part["name"] in required]} for part in bom["components"]]}


if __name__ == "__main__":
    main()
