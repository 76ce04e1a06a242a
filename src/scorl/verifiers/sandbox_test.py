"""Proof that the sandbox holds: programs that try what is forbidden, judged like any other."""

from __future__ import annotations

from collections.abc import Mapping

from scorl.sandbox.pool import SandboxError, examine_all
from scorl.verifiers.program import Examination, task

__all__ = ["ACTS", "held"]

ACTS: Mapping[str, str] = {
    "read /etc/passwd": "open('/etc/passwd').read()",
    "list /home and /root": "import os; os.listdir('/home'); os.listdir('/root')",
    "write outside of its folder": "open('/python/x', 'w')",
    "reach the network": "import socket; socket.create_connection(('1.1.1.1', 53), 1)",
    "see other processes": "import os; assert len([p for p in os.listdir('/proc') if p.isdigit()]) > 3",
    "be root": "import os; os.setuid(0)",
    "make a user namespace": "import ctypes; assert ctypes.CDLL(None).unshare(0x10000000) == 0",
    "trace its parent": "import ctypes, os; assert ctypes.CDLL(None).ptrace(0x4206, os.getppid(), 0, 0) == 0",
    "raise its limits": "import resource; resource.setrlimit(resource.RLIMIT_AS, (-1, -1))",
    "use 2 GB of memory": "x = bytearray(2 << 30)",
    "start 200 processes": "import os\n        for _ in range(200):\n            if os.fork() == 0: os._exit(0)",
}
"""What is tried, and the code that does it; it raises where it is refused."""
PROGRAM = """
def attempt():
    try:
        {act}
    except BaseException:
        return 'refused'
    return 'done'
"""


def held() -> dict[str, bool]:
    """Whether each act was refused, or ended with its program.

    Raises:
        SandboxError: not even a program that does nothing forbidden runs, so that refusals would prove nothing.
    """
    test = Examination(tests=("assert attempt() == 'done'",), timeout=3.0)
    control, *answers = examine_all(
        [task(PROGRAM.format(act=act), test) for act in ("pass", *ACTS.values())], "preferred"
    )
    if control.verdict != "passed":
        raise SandboxError(f"a program that does nothing does not run: {control.verdict}, {control.reason}")
    return {name: answer.verdict != "passed" for name, answer in zip(ACTS, answers, strict=True)}
