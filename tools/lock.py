"""Writes locks/requirements.txt and locks/cuda.txt: exact versions for Python 3.11 and later on every platform, each
with the hashes of its files. locks/torch-cpu.txt follows torch's version where pip finds that build, and is left
empty where it does not: `make setup` then takes the build that PyPI has.

python tools/lock.py [--upgrade]     (make lock; wants uv). Without --upgrade, versions stay where they can.
"""

import hashlib
import re
import subprocess
import sys
import tempfile
from pathlib import Path

LOCKS = Path(__file__).parents[1] / "locks"
ALL, CUDA, CPU = (LOCKS / name for name in ("requirements.txt", "cuda.txt", "torch-cpu.txt"))
OF_CUDA = re.compile(r"(nvidia|cuda)-|triton==")
"""Packages that torch's build for GPUs alone wants."""
HEADS = {
    ALL: "# What `make setup` installs, but for CUDA's libraries: pip install --require-hashes --no-deps -r FILE\n",
    CUDA: "# What torch's build for GPUs wants besides; `make setup` installs it where `pip check` misses it.\n",
}
PLATFORM = "manylinux_2_28_x86_64"
"""For which torch's build for CPUs is locked."""
COMPILE = (
    "uv pip compile --quiet --universal --python-version 3.11 --extra dev --generate-hashes --no-header --no-annotate"
)


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        whole = Path(scratch) / "whole.txt"
        whole.write_text("".join(path.read_text() for path in HEADS if path.exists()))  # from which uv keeps versions
        command = [*COMPILE.split(), "--output-file", str(whole), *sys.argv[1:], str(LOCKS.parent / "pyproject.toml")]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        packages = re.findall(r"^[^\s#].*\n(?: .*\n)*", whole.read_text(), re.MULTILINE)
    for path, head in HEADS.items():
        mine = [package for package in packages if bool(OF_CUDA.match(package)) == (path == CUDA)]
        path.write_text(f"{head}# Written by tools/lock.py (make lock).\n{''.join(mine)}")
    follow_torch(ALL, CPU)


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
