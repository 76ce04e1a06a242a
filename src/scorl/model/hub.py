"""Whether the Hugging Face hub can be reached: its client tries for half a minute before it says that it cannot."""

from __future__ import annotations

import functools
import os
import socket
from urllib.parse import urlsplit

__all__ = ["hub_is_reachable"]

TIMEOUT = 5.0
"""Seconds."""


@functools.cache
def hub_is_reachable() -> bool:
    """Whether the hub, or HF_ENDPOINT in its place, takes a connection; asked once.

    Behind a proxy, or where HF_HUB_OFFLINE decides, it is taken to.
    """
    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "HF_HUB_OFFLINE")):
        return True
    hub = urlsplit(os.environ.get("HF_ENDPOINT") or "https://huggingface.co")
    port = hub.port or (80 if hub.scheme == "http" else 443)
    try:
        socket.create_connection((hub.hostname or "", port), TIMEOUT).close()
    except OSError:
        return False
    return True
