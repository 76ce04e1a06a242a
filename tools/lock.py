"""Writes locks/requirements.txt, locks/cuda.txt and locks/release.txt: exact versions for Python 3.11 and later on
every platform, each with the hashes of its files. locks/torch-cpu.txt follows torch's version where pip finds that
build, and is left empty where it does not: `make setup` then takes the build that PyPI has.

python tools/lock.py [--upgrade]     (make lock; wants uv). Without --upgrade, versions stay where they can.
"""

import hashlib
import re
import subprocess
import sys
import tempfile
from pathlib import Path

LOCKS = Path(__file__).parents[1] / "locks"
ALL, CUDA, CPU, RELEASE = (LOCKS / f"{name}.txt" for name in ("requirements", "cuda", "torch-cpu", "release"))
OF_CUDA = re.compile(r"(nvidia|cuda)-|triton==")
"""Packages that torch's build for GPUs alone wants."""
HEADS = {
    ALL: "# What `make setup` installs, but for CUDA's libraries: pip install --require-hashes --no-deps -r FILE\n",
    CUDA: "# What torch's build for GPUs wants besides; `make setup` installs it where `pip check` misses it.\n",
    RELEASE: "# What builds and checks a release, and resolves versions: pip install --require-hashes -r FILE\n",
}
PLATFORM = "manylinux_2_28_x86_64"
"""For which torch's build for CPUs is locked."""
COMPILE = "uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate"


def main() -> None:
    packages = resolve(["--extra", "dev", "pyproject.toml"], ALL, CUDA)
    write(CUDA, [package for package in packages if OF_CUDA.match(package)])
    write(ALL, [package for package in packages if not OF_CUDA.match(package)])
    write(RELEASE, resolve(["--group", "release"], RELEASE))
    follow_torch(ALL, CPU)


def resolve(what: list[str], *locks: Path) -> list[str]:
    """All packages that this wants, each with the lines of its hashes, in the versions of the locks where it can be."""
    with tempfile.TemporaryDirectory() as scratch:
        whole = Path(scratch) / "whole.txt"
        whole.write_text("".join(path.read_text() for path in locks if path.exists()))  # from which uv keeps versions
        command = [*COMPILE.split(), "--output-file", str(whole), *sys.argv[1:], *what]
        subprocess.run(command, cwd=LOCKS.parent, check=True, stdout=subprocess.DEVNULL)
        return re.findall(r"^[^\s#].*\n(?: .*\n)*", whole.read_text(), re.MULTILINE)


def write(lock: Path, packages: list[str]) -> None:
    lock.write_text(f"{HEADS[lock]}# Written by tools/lock.py (make lock).\n{''.join(packages)}")


def follow_torch(whole: Path, cpu: Path) -> None:
    """Give torch's build for CPUs the version that the lock has, with the hash of the file that pip finds."""
    (version,) = re.findall(r"^torch==([^ ;]+)", whole.read_text(), re.MULTILINE)
    if f"\ntorch=={version} " in (text := cpu.read_text()):
        return
    find = f"pip download -q --no-index --no-deps --python-version 3.11 --platform {PLATFORM} torch=={version}"
    with tempfile.TemporaryDirectory() as scratch:
        subprocess.run([sys.executable, "-m", *find.split(), "--dest", scratch], check=False, stderr=subprocess.DEVNULL)
        hashes = [hashlib.sha256(file.read_bytes()).hexdigest() for file in Path(scratch).glob("*+cpu-*.whl")]
    head = "".join(line for line in text.splitlines(keepends=True) if line.startswith("#"))
    cpu.write_text(head + "".join(f"torch=={version} --hash=sha256:{one}\n" for one in hashes))
    if not hashes:
        print(f"pip finds no build of torch {version} for CPUs: {cpu.name} is left empty", file=sys.stderr)


if __name__ == "__main__":
    main()
