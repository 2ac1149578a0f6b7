"""Links to the pages that let in whoever opens them: with a token of their own behind the `#`.

What stands there a browser keeps to itself: it is in no request, and so in no log of a server. The
page takes the token out of the address as soon as it is loaded.
"""

from __future__ import annotations

import re
import secrets
import socket
from typing import Literal, TypedDict
from urllib.parse import urlsplit

from sentinel import address, clock
from sentinel.clock import isoformat
from sentinel.daemon.service import Service
from sentinel.errors import AddressError, ControlError

PageRole = Literal["viewer", "operator"]
USUAL = 12 * 3600.0  # s that a link is good
_MAX_URL = 200  # characters
_PORTS = {"http": 80, "https": 443}  # which browsers leave out
_EVERYWHERE = ("0.0.0.0", "::")


class LinkJSON(TypedDict):
    """A link, told this once, and the token in it: its name, what it may do, and until when."""

    url: str
    name: str
    role: PageRole
    expires: str


def parse_page_url(text: str) -> str:
    """Where people have the pages, `https://HOST[:PORT]` or with http, as browsers spell it.

    Raises `AddressError` with what would be right.
    """
    url = text.removesuffix("/")
    wrong = AddressError(
        f"{text!r} is no address of pages: expected https://HOST or https://HOST:PORT, with no "
        "path behind it"
    )
    if len(url) > _MAX_URL or not re.fullmatch(r"https?://[A-Za-z0-9.:_\[\]-]+", url):
        raise wrong
    try:
        parts = urlsplit(url)
        if not parts.hostname or parts.username is not None or parts.port == 0:
            raise wrong
        host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        usual = parts.port in (None, _PORTS[parts.scheme])
        return f"{parts.scheme}://{host}{'' if usual else f':{parts.port}'}"
    except ValueError:
        raise wrong from None


def base_of(host: str, port: int, *, encrypted: bool) -> str:
    """Where the pages are when HTTP is served at this address."""
    reachable = socket.gethostname() if host in _EVERYWHERE else host
    scheme = "https" if encrypted else "http"
    return f"{scheme}://{address.join_host_port(reachable, port)}"


async def make_link(service: Service, role: PageRole, seconds: float, by: str) -> LinkJSON:
    """A link to the pages that is good for so many seconds.

    Raises `ControlError` where no pages are served, `StateError` when no token can be written.
    """
    base = service.settings.page_url or service.page_base
    if not service.page_base:
        raise ControlError(
            "this daemon serves no pages: start it with --http HOST:PORT, such as "
            "--http 127.0.0.1:9475"
        )
    name, now = f"page-{secrets.token_hex(5)}", clock.wall()
    tokens = service.access.tokens
    secret = await service.ledger.call(
        lambda: tokens.add(name, role, by=by, now=now, expires=now + seconds)
    )
    return LinkJSON(
        url=f"{base}/#token={secret}", name=name, role=role, expires=isoformat(now + seconds)
    )


async def withdraw_link(service: Service, link: LinkJSON, by: str) -> None:
    """The link lets nobody in any more. Raises `AccessError`, `StateError`."""
    now, tokens = clock.wall(), service.access.tokens
    await service.ledger.call(lambda: tokens.revoke(link["name"], by=by, now=now))
