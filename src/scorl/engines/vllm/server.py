"""vLLM's own HTTP server in a process of its own; every wait has a limit, and says what it waited for."""

from __future__ import annotations

import atexit
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from scorl.errors import GuardError, UserError

__all__ = ["Poster", "Server", "check_installed", "server_environment"]

SOCKET = "socket"
LOG = "log"
GRACE_SECONDS = 30.0
"""Between the request to end and the end by force."""
LOG_LINES = 20
"""Lines of the server's log that an error repeats."""
LAUNCHER_PREFIXES = ("RANK", "WORLD_SIZE", "MASTER_", "LOCAL_", "GROUP_", "ROLE_", "TORCHELASTIC_", "TORCH_NCCL_")
"""Beginnings of the variables by which torchrun speaks to its processes; the server is none of them."""


def check_installed(python: str | None) -> None:
    """Whether a Python (None: this one) has vLLM, asked without importing it, which takes long.

    Raises:
        UserError: it has not, or is none.
    """
    program = "import importlib.util, sys; sys.exit(importlib.util.find_spec('vllm') is None)"
    try:
        missing = subprocess.run([python or sys.executable, "-c", program], check=False, capture_output=True).returncode
    except OSError as error:
        raise UserError(f"engine.python: cannot be run: {error}") from None
    if missing:
        raise UserError(
            f"engine.python: {python or sys.executable} has no vllm; make an environment for it as docs/vllm.md "
            "says, and name its Python"
        )


def server_environment(variables: Mapping[str, str], own_python: bool) -> dict[str, str]:
    """The server's environment variables, out of this process's.

    Args:
        variables: this process's.
        own_python: the server runs in another environment, which this one's import path is none of.
    """
    dropped = (*LAUNCHER_PREFIXES, *(("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV") if own_python else ()))
    kept = {name: value for name, value in variables.items() if not name.startswith(dropped)}
    defaults = {
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_CI_ENV": "1",
        "VLLM_NO_USAGE_STATS": "1",
    }
    needed = {
        "VLLM_SERVER_DEV_MODE": "1",  # the routes for weights, sleep and the prefix cache
        "VLLM_ALLOW_INSECURE_SERIALIZATION": "1",  # IPC handles cross as pickles; nobody else can reach the socket
    }
    return {**defaults, **kept, **needed}


class Poster(Protocol):
    """What the engine needs of a server."""

    folder: Path

    def post(self, path: str, body: Any = None) -> Any:
        """Post JSON, and return the JSON that is answered."""
        ...


class Server:
    """A server process that listens on a socket in a folder, and ends with this process or before it.

    Args:
        command: what to start.
        folder: its own, for the socket and the log; removed with the server.
        timeout: seconds that the start, or any one answer, may take.
        variables: the environment.
    """

    def __init__(self, command: Sequence[str], folder: Path, timeout: float, variables: Mapping[str, str]) -> None:
        self.folder, self.timeout = folder, timeout
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

    def post(self, path: str, body: Any = None) -> Any:
        """Post JSON, and return the JSON that is answered.

        Raises:
            GuardError: the server is dead, takes too long, or refuses.
        """
        try:
            status, answer = self._call("POST", path, json.dumps(body or {}), self.timeout)
        except TimeoutError:
            raise self._error(f"did not answer {path} within {self.timeout:g} s (engine.timeout)") from None
        except (OSError, http.client.HTTPException) as error:
            raise self._error(f"is gone: {path} got no answer ({type(error).__name__}: {error})") from None
        if status != http.client.OK:
            raise self._error(f"refused {path} with status {status}: {answer.decode(errors='replace')[:500]}")
        return json.loads(answer or b"null")

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
        while not self._healthy():
            if self.process.poll() is not None:
                raise self._error("did not start")
            if time.monotonic() > end:
                raise self._error(f"was not ready within {self.timeout:g} s (engine.timeout)")
            time.sleep(0.2)

    def _healthy(self) -> bool:
        try:
            return self._call("GET", "/health", None, 5.0)[0] == http.client.OK
        except (OSError, http.client.HTTPException):
            return False

    def _call(self, method: str, path: str, body: str | None, seconds: float) -> tuple[int, bytes]:
        connection = _Connection(self.folder / SOCKET, seconds)
        try:
            connection.request(method, path, body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def _error(self, what: str) -> GuardError:
        """What happened, whether the process still lives, and its log, of which a copy stays."""
        code = self.process.poll()
        state = "" if code is None else f"; the process ended with code {code}"
        log = (self.folder / LOG).read_text(errors="replace")
        copy = Path(tempfile.gettempdir()) / f"{self.folder.name}.log"
        copy.write_text(log)
        lines = log.splitlines()[-LOG_LINES:]
        return GuardError("\n  ".join([f"the vLLM server {what}{state}. Its log is in {copy}, and ends:", *lines]))


class _Connection(http.client.HTTPConnection):
    """HTTP over a Unix socket, which no other machine and no other user reaches."""

    def __init__(self, path: Path, seconds: float) -> None:
        super().__init__("vllm", timeout=seconds)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))
