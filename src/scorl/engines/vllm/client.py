"""HTTP to a vLLM server; every wait has a limit, and says what it waited for."""

from __future__ import annotations

import http.client
import json
from abc import ABC, abstractmethod
from typing import Any, Protocol
from urllib.parse import urlsplit

from scorl.engines.vllm.installed import check_version
from scorl.errors import GuardError, UserError

__all__ = ["HttpServer", "OwnServer", "Poster"]


class Poster(Protocol):
    """What the engine needs of a server."""

    def post(self, path: str, body: Any = None) -> Any:
        """Post JSON, and return the JSON that is answered."""
        ...

    def get(self, path: str) -> Any:
        """The JSON that is answered."""
        ...


class HttpServer(ABC):
    """A server that is spoken to over HTTP.

    Args:
        timeout: seconds that any one answer may take.
    """

    def __init__(self, timeout: float) -> None:
        self.timeout = timeout

    def post(self, path: str, body: Any = None) -> Any:
        """Post JSON, and return the JSON that is answered.

        Raises:
            GuardError: the server is dead, takes too long, or refuses.
        """
        return self._ask("POST", path, json.dumps(body or {}))

    def get(self, path: str) -> Any:
        """The JSON that is answered, or the text where it is none; otherwise as `post`."""
        return self._ask("GET", path, None)

    def is_healthy(self) -> bool:
        """Whether it says that it is, which it must within seconds."""
        connection = self._connection(5.0)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == http.client.OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def _ask(self, method: str, path: str, body: str | None) -> Any:
        connection = self._connection(self.timeout)
        try:
            connection.request(method, path, body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            answer = response.read()
        except TimeoutError:
            raise self._error(f"did not answer {path} within {self.timeout:g} s (engine.timeout)") from None
        except (OSError, http.client.HTTPException) as error:
            raise self._error(f"is gone: {path} got no answer ({type(error).__name__}: {error})") from None
        finally:
            connection.close()
        if response.status != http.client.OK:
            raise self._error(f"refused {path} with status {response.status}: {answer.decode(errors='replace')[:500]}")
        return json.loads(answer) if response.headers.get_content_subtype() == "json" else answer.decode()

    @abstractmethod
    def _connection(self, seconds: float) -> http.client.HTTPConnection:
        """A connection whose every wait ends after so many seconds."""

    @abstractmethod
    def _error(self, what: str) -> GuardError:
        """What the server did, and what is known about why."""


class OwnServer(HttpServer):
    """A server that the user has started, and that ends when the user ends it.

    Raises:
        UserError: there is none at the URL, or it is of another version than this engine speaks with.
    """

    def __init__(self, url: str, timeout: float) -> None:
        super().__init__(timeout)
        self.url, self._parts = url, urlsplit(url)
        if not self.is_healthy():
            raise UserError(f"engine.url: no vLLM server answers at {url}; docs/vllm.md says how to start one")
        check_version(self.get("/version")["version"], f"engine.url: the server at {url}")

    def _connection(self, seconds: float) -> http.client.HTTPConnection:
        kind = http.client.HTTPSConnection if self._parts.scheme == "https" else http.client.HTTPConnection
        return kind(self._parts.hostname or "", self._parts.port, timeout=seconds)

    def _error(self, what: str) -> GuardError:
        return GuardError(f"the vLLM server at {self.url} {what}; its log is where it was started")
