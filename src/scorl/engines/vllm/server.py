"""vLLM's own HTTP server in a process of its own, on a socket that nobody else reaches."""

from __future__ import annotations

import atexit
import http.client
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from scorl.engines.vllm.client import HttpServer
from scorl.errors import GuardError

__all__ = ["SOCKET", "Server", "server_environment"]

SOCKET = "socket"
LOG = "log"
GRACE_SECONDS = 30.0
"""Between the request to end and the end by force."""
LOG_LINES = 20
"""Lines of the server's log that an error repeats."""
LAUNCHER_PREFIXES = ("RANK", "WORLD_SIZE", "MASTER_", "LOCAL_", "GROUP_", "ROLE_", "TORCHELASTIC_", "TORCH_NCCL_")
"""Beginnings of the variables by which torchrun speaks to its processes; the server is none of them."""
ALLOCATOR = {"PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF"}
"""Variables with options of torch's allocator of GPU memory."""


def server_environment(variables: Mapping[str, str], own_python: bool) -> dict[str, str]:
    """The server's environment variables, out of this process's.

    Args:
        variables: this process's.
        own_python: the server runs in another environment, which this one's import path is none of.
    """
    dropped = (*LAUNCHER_PREFIXES, *(("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV") if own_python else ()))
    kept = {name: value for name, value in variables.items() if not name.startswith(dropped)}
    for name in ALLOCATOR & kept.keys():  # good for the learner; vLLM's memory that sleeps does not work with it
        kept[name] = re.sub(r"(^|,)\s*expandable_segments:[^,]*", "", kept[name]).strip(",")
    defaults = {
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_CI_ENV": "1",
        "VLLM_NO_USAGE_STATS": "1",
    }
    needed = {
        "VLLM_SERVER_DEV_MODE": "1",  # the routes for weights, sleep and the prefix cache
        "VLLM_ALLOW_INSECURE_SERIALIZATION": "1",  # IPC handles cross as pickles; nobody else can reach the socket
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",  # the routes for adapters
    }
    return {**defaults, **kept, **needed}


class Server(HttpServer):
    """A server process that listens on a socket in a folder, and ends with this process or before it.

    Args:
        command: what to start.
        folder: its own, for the socket and the log; removed with the server.
        timeout: seconds that the start, or any one answer, may take.
        variables: the environment.
    """

    def __init__(self, command: Sequence[str], folder: Path, timeout: float, variables: Mapping[str, str]) -> None:
        super().__init__(timeout)
        self.folder = folder
        with (folder / LOG).open("wb") as log:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,  # closes when this process ends, however it ends
                stdout=log,
                stderr=subprocess.STDOUT,
                env=dict(variables),
                start_new_session=True,
            )
        atexit.register(self.close)
        try:
            self._wait_until_ready()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End the server and remove its folder."""
        atexit.unregister(self.close)
        if self.process.stdin and not self.process.stdin.closed:
            self.process.stdin.close()
        try:
            self.process.wait(timeout=GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _wait_until_ready(self) -> None:
        end = time.monotonic() + self.timeout
        while not self.is_healthy():
            if self.process.poll() is not None:
                raise self._error("did not start")
            if time.monotonic() > end:
                raise self._error(f"was not ready within {self.timeout:g} s (engine.timeout)")
            time.sleep(0.2)

    def _connection(self, seconds: float) -> http.client.HTTPConnection:
        return _SocketConnection(self.folder / SOCKET, seconds)

    def _error(self, what: str) -> GuardError:
        """What happened, whether the process still lives, and its log, of which a copy stays."""
        code = self.process.poll()
        state = "" if code is None else f"; the process ended with code {code}"
        log = (self.folder / LOG).read_text(errors="replace")
        copy = Path(tempfile.gettempdir()) / f"{self.folder.name}.log"
        copy.write_text(log)
        lines = log.splitlines()[-LOG_LINES:]
        return GuardError("\n  ".join([f"the vLLM server {what}{state}. Its log is in {copy}, and ends:", *lines]))


class _SocketConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket, which no other machine and no other user reaches."""

    def __init__(self, path: Path, seconds: float) -> None:
        super().__init__("vllm", timeout=seconds)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))
