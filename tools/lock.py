"""Writes locks/requirements.txt and locks/cuda.txt: exact versions for Python 3.11 and later on every platform, each
with the hashes of its files.

python tools/lock.py [--upgrade]     (make lock; wants uv). Without --upgrade, versions stay where they can.
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

LOCKS = Path(__file__).parents[1] / "locks"
ALL, CUDA = LOCKS / "requirements.txt", LOCKS / "cuda.txt"
OF_CUDA = re.compile(r"(nvidia|cuda)-|triton==")
"""Packages that torch's build for GPUs alone wants."""
HEADS = {
    ALL: "# What `make setup` installs, but for CUDA's libraries: pip install --require-hashes --no-deps -r FILE\n",
    CUDA: "# What torch's build for GPUs wants besides; `make setup` installs it where `pip check` misses it.\n",
}
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


if __name__ == "__main__":
    main()
