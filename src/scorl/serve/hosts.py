"""Under which names the proxy may be called."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from scorl.serve.protocol import NoAnswerError, error_body

__all__ = ["HostCheck"]


class HostCheck:
    """Refuses requests to other names, in OpenAI's shape: by them a page in a browser might call (DNS rebinding)."""

    def __init__(self, app: ASGIApp, hosts: Sequence[str]) -> None:
        self.app, self.hosts = app, [host.lower() for host in hosts]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http" or "*" in self.hosts or _host(scope) in self.hosts:
            await self.app(scope, receive, send)
            return
        refusal = NoAnswerError(400, f"the Host header: this proxy is called {', '.join(self.hosts)}")
        await JSONResponse(error_body(refusal), refusal.status)(scope, receive, send)


def _host(scope: Scope) -> str | None:
    """The name in the Host header, without its port and brackets."""
    try:
        return urlsplit(f"//{Headers(scope=scope).get('host', '')}").hostname
    except ValueError:
        return None
