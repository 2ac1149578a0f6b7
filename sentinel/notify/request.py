"""One HTTP request to a server that may be down, slow or rude: bounded, and led nowhere else.

No redirect is followed, certificates are checked, no more is read than `LIMIT`, and no error says
more of an address than the name that the server goes by, since an address may be a secret.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

import aiohttp

from sentinel import __version__, clock
from sentinel.errors import DeliveryError, SentinelError

LIMIT = 256 * 1024  # bytes of an answer that are read
TIMEOUT = 10.0  # s for one request, its answer included
_CONNECT = 5.0  # s of it for the connection: what ends there has certainly not arrived
LONGEST_QUIET = 3600.0  # s that a server may ask to be left alone
USER_AGENT = f"sentinel/{__version__}"

_PASSING = frozenset((408, 425, 429))  # of all that begin with 4: the request was right
_ADVICE = {
    401: "it does not take the token or password",
    403: "the token or password does not allow this",
    404: "nothing is there: look at the URL",
    410: "what was there is gone for good",
    413: "the message is too large for it",
}
_NOTHING: Mapping[str, str] = {}


@dataclass(frozen=True)
class Answer:
    """What a server said. `headers` have lower-case names; `body` is at most `LIMIT` long."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def checked(url: str, what: str) -> str:
    """This URL without a slash at its end. Raises `SentinelError` where it cannot be used."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        usable = False
    if not usable or not url.isprintable() or " " in url:
        raise SentinelError(f"{what} has no usable URL: expected https://HOST[:PORT]/...")
    return url.rstrip("/")


def is_loopback(url: str) -> bool:
    """Whether it leads to this machine, where no proxy of the environment may stand between."""
    return urlsplit(url).hostname in ("127.0.0.1", "::1", "localhost")


async def ask(
    name: str,
    method: str,
    url: str,
    *,
    body: bytes | None = None,
    headers: Mapping[str, str] = _NOTHING,
    timeout: float = TIMEOUT,
    changes: bool = False,
) -> Answer:
    """The answer of the server that goes by `name`, whatever it says.

    Raises `DeliveryError` when there is none; `doubtful` if the request `changes` something and
    may have arrived.
    """
    sent = {"User-Agent": USER_AGENT, "Accept-Encoding": "identity", **headers}
    try:
        async with (
            aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=timeout, sock_connect=min(timeout, _CONNECT)),
                cookie_jar=aiohttp.DummyCookieJar(),
                trust_env=not is_loopback(url),
            ) as session,
            session.request(
                method, url, data=body, headers=sent, allow_redirects=False
            ) as response,
        ):
            found = {key.lower(): value for key, value in response.headers.items()}
            return Answer(response.status, found, await _read(response))
    except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
        raise DeliveryError(f"{name} cannot be reached: {_why(error)}") from None
    except aiohttp.ClientHttpProxyError as error:
        raise DeliveryError(f"{name} cannot be reached: the proxy said {error.status}") from None
    except (aiohttp.ClientError, asyncio.TimeoutError, OSError, ValueError) as error:
        why = "no answer in time" if isinstance(error, asyncio.TimeoutError) else _why(error)
        raise DeliveryError(f"{name} did not answer: {why}", doubtful=changes) from None


async def _read(response: aiohttp.ClientResponse) -> bytes:
    """As much of the body as there is, within the limits: by then the status has been said."""
    parts: list[bytes] = []
    left = LIMIT
    try:
        while left > 0 and (part := await response.content.read(left)):
            parts.append(part)
            left -= len(part)
    except (aiohttp.ClientError, asyncio.TimeoutError, OSError):
        pass
    return b"".join(parts)


def _why(error: Exception) -> str:
    """The reason, without the address that aiohttp's own words have."""
    if isinstance(error, asyncio.TimeoutError):
        return "no connection in time"
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        inner = error.certificate_error
        why = inner.verify_message if isinstance(inner, ssl.SSLCertVerificationError) else "bad"
        return f"its certificate is not trusted: {why}"
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "its name has no address"
    if isinstance(error, aiohttp.ClientSSLError):
        return "TLS failed"
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno)
    return type(error).__name__


def refusal(
    name: str, status: int, headers: Mapping[str, str], *, detail: str = "", changes: bool = True
) -> DeliveryError:
    """What a status other than 2xx means for a message; its `code` is the status.

    `detail` is what the server says of it. Permanent are redirects, which are not followed, and
    all that blames the request.
    """
    code = str(status)
    said = f"HTTP {status}{f' ({detail})' if detail else ''}"
    retry_after = seconds_to_wait(headers.get("retry-after", ""))
    if status == 429:
        return DeliveryError(f"{name}: rate limit", retry_after=retry_after, code=code)
    if 300 <= status < 400:
        why = f"{name} is elsewhere ({said}): redirects are not followed, give the final URL"
        return DeliveryError(why, permanent=True, code=code)
    if 400 <= status < 500 and status not in _PASSING:
        advice = f": {_ADVICE[status]}" if status in _ADVICE else ""
        return DeliveryError(f"{name} refused: {said}{advice}", permanent=True, code=code)
    return DeliveryError(
        f"{name} failed: {said}",
        doubtful=changes and status >= 500,
        retry_after=retry_after,
        code=code,
    )


def seconds_to_wait(retry_after: str) -> float | None:
    """What a header `Retry-After` asks for: seconds, or a date; None where it says neither."""
    text = retry_after.strip()
    if text.isascii() and text.isdigit() and len(text) < 10:
        seconds = float(text)
    else:
        try:
            seconds = parsedate_to_datetime(text).timestamp() - clock.wall()
        except (ValueError, OverflowError):
            return None
    return min(LONGEST_QUIET, max(0.0, seconds))
