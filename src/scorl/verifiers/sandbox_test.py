"""Tests the sandbox of this machine: programs that try what is forbidden, judged like any other."""

from __future__ import annotations

import os
from collections.abc import Mapping

from scorl.sandbox import SandboxError
from scorl.verifiers.program import Examination, broker_pool, make_request

__all__ = ["ACTS", "try_forbidden_acts"]

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


def try_forbidden_acts() -> dict[str, bool]:
    """Whether each act was refused, or ended with its program.

    Raises:
        SandboxError: not even a program that does nothing forbidden runs, so that refusals would prove nothing.
    """
    test = Examination(tests=("assert attempt() == 'done'",), timeout=3.0)
    requests = [make_request(PROGRAM.format(act=act), test) for act in ("pass", *ACTS.values())]
    control, *judgements = broker_pool(os.getpid()).examine(requests, "preferred")
    if control.outcome != "passed":
        raise SandboxError(f"a program that does nothing does not run: {control.outcome}, {control.reason}")
    return {act: judgement.outcome != "passed" for act, judgement in zip(ACTS, judgements, strict=True)}
