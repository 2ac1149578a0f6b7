"""One GET, for checks: bounded, and without a word of the address, which may hold a password."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from urllib.parse import urlsplit

from sentinel.notify.request import Answer, ask

_NOTHING: Mapping[str, str] = {}


def get(name: str, url: str, within: float, headers: Mapping[str, str] = _NOTHING) -> Answer:
    """The answer, whatever its status. Raises `DeliveryError` when there is none."""
    return asyncio.run(ask(name, "GET", url, headers=headers, timeout=within))


def shown(url: str) -> str:
    """The part of a URL that may be shown."""
    parts = urlsplit(url)
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{parts.hostname}{port}"
