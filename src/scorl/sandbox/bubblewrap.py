"""The sandbox: what a process may see and use, by bubblewrap and control groups where there are any.

Two levels. `full`: bubblewrap gives the process own namespaces (no network, no other processes) and a file
system of the interpreter and an empty folder; memory and the number of processes are limited for the whole
group. `reduced`: an own session, an empty environment and resource limits; the program sees the machine's
files and its network.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from scorl.sandbox.cgroups import ControlGroup
from scorl.sandbox.seccomp import seccomp_filter

__all__ = ["Level", "detect_level", "make_command", "make_environment"]

ENVIRONMENT = {"PYTHONHASHSEED": "0", "PATH": "/nowhere", "HOME": "/tmp", "TMPDIR": "/tmp", "LANG": "C.UTF-8"}
"""All that a program finds in its environment; the fixed seed makes the order of sets the same every time."""
FLAGS = ("-s", "-S", "-P", "-B", "-X", "utf8")
"""Nothing of site-packages, of the user or of the current folder is imported (`-I` would ignore the seed)."""
SCRATCH = str(64 << 20)
"""Bytes of the work folder, and of shared memory."""
BOOT = (
    "import marshal, posix\n"
    "def read(n):\n"
    "    data = b''\n"
    "    while len(data) < n:\n"
    "        data += posix.read(0, n - len(data)) or posix._exit(3)\n"
    "    return data\n"
    "import sys\n"
    "for name, code in marshal.loads(read(int.from_bytes(read(4), 'big'))):\n"
    "    module = type(sys)(name)\n"
    "    sys.modules[name] = module\n"
    "    exec(code, module.__dict__)\n"
    "module.main()\n"
)
"""Takes the modules of our side over the pipe, so that no file of ours need be visible."""


@dataclass(frozen=True)
class Level:
    """How well programs are held, and why not better."""

    name: str
    """`full` or `reduced`."""
    reason: str
    bubblewrap: str | None
    groups: bool
    """Whether control groups limit memory and processes."""

    @property
    def full(self) -> bool:
        """Whether nothing is missing."""
        return self.name == "full"


@cache
def detect_level() -> Level:
    """What this machine can do; tried, not guessed."""
    groups = ControlGroup.is_possible()
    bubblewrap = shutil.which("bwrap")
    if bubblewrap is None:
        return Level(
            "reduced",
            "bubblewrap is not installed (apt-get install bubblewrap); files and network are open",
            None,
            groups,
        )
    with seccomp_filter() as seccomp:
        line = make_command(Level("full", "", bubblewrap, groups), seccomp, program="pass")
        try:
            done = subprocess.run(line, env={}, pass_fds=seccomp, capture_output=True, text=True, timeout=60)
        except subprocess.TimeoutExpired:
            return Level("reduced", "bubblewrap does not come back", None, groups)
    if done.returncode:
        return Level("reduced", f"bubblewrap does not work here: {done.stderr.strip()[:200]}", None, groups)
    if not groups and os.getuid() == 0:
        reason = "the number of root's processes cannot be limited without control groups; run as another user"
        return Level("reduced", reason, bubblewrap, groups)
    how = "control groups" if groups else "resource limits per process"
    return Level(
        "full", f"bubblewrap, {how}, {'seccomp' if seccomp else 'no seccomp on this processor'}", bubblewrap, groups
    )


def make_command(level: Level, seccomp: Sequence[int], program: str = BOOT) -> list[str]:
    """The command that starts an interpreter in a sandbox; it is to be started with `make_environment`."""
    if level.bubblewrap is None:
        return [find_interpreter(), *FLAGS, "-c", program]
    # --disable-userns: in a user namespace of its own making a program would be root, before the part of the kernel in
    # which most of its escapes have been found.
    line = [level.bubblewrap, "--unshare-all", "--unshare-user", "--disable-userns", "--uid", "65534", "--gid", "65534"]
    line += ["--die-with-parent", "--new-session", "--hostname", "sandbox", "--clearenv"]
    for name, value in {**ENVIRONMENT, "LD_LIBRARY_PATH": "/python/lib"}.items():
        line += ["--setenv", name, value]
    for source, place in find_libraries():
        line += ["--ro-bind", source, place]
    if (hidden := find_site_packages()) is not None:
        line += ["--tmpfs", hidden, "--remount-ro", hidden]
    for device in ("null", "zero", "random", "urandom"):
        line += ["--dev-bind", f"/dev/{device}", f"/dev/{device}"]
    # Bounded, since without control groups nobody is charged for what lies in a file system in memory.
    line += ["--size", SCRATCH, "--tmpfs", "/dev/shm", "--size", SCRATCH, "--tmpfs", "/tmp"]
    line += ["--remount-ro", "/", "--chdir", "/tmp"]
    if seccomp:
        line += ["--seccomp", str(seccomp[0])]
    return [*line, "--", "/python/bin/python3", *FLAGS, "-c", program]


def make_environment(folder: str | None) -> dict[str, str]:
    """The environment to start it with, `folder` being the work folder of a process that sees the machine's files.

    That of bubblewrap itself is empty, since a process in the sandbox could read it."""
    return {**ENVIRONMENT, "HOME": folder, "TMPDIR": folder} if folder else {}


def find_interpreter() -> str:
    """The interpreter itself, not the link in a virtual environment."""
    return os.path.realpath(getattr(sys, "_base_executable", sys.executable))


@cache
def find_libraries() -> tuple[tuple[str, str], ...]:
    """The interpreter, its standard library and the system's shared libraries: (source, place in the sandbox)."""
    prefix = Path(sys.base_prefix).resolve()
    stdlib = Path(os.__file__).resolve().parent
    mounts = [(Path(find_interpreter()), "/python/bin/python3")]
    if str(prefix) in ("/usr", "/usr/local"):
        mounts.append((stdlib, f"/python/lib/{stdlib.name}"))
        library = prefix / "lib" / str(sysconfig.get_config_var("INSTSONAME"))
        mounts += [(library, f"/python/lib/{library.name}")] if library.is_file() else []
    else:
        mounts.append((prefix / "lib", "/python/lib"))
    # At the places where the dynamic linker looks, or the interpreter would not start.
    triplet = str(sysconfig.get_config_var("MULTIARCH") or "")
    folders = [f"/lib/{triplet}", f"/usr/lib/{triplet}"] if Path(f"/lib/{triplet}").is_dir() and triplet else ["/lib"]
    mounts += [(Path(place).resolve(), place) for place in (*folders, "/lib64", "/usr/lib64") if Path(place).is_dir()]
    return tuple((str(source), place) for source, place in mounts)


def find_site_packages() -> str | None:
    """Where the sandbox has to hide installed packages."""
    stdlib = Path(os.__file__).resolve().parent
    return f"/python/lib/{stdlib.name}/site-packages" if (stdlib / "site-packages").is_dir() else None
