"""grafana-api made safe: the library follows redirects and reads answers without an end.

So its session speaks through an adapter of ours, which bounds what is read and for how long, and
tells errors apart.
"""

from __future__ import annotations

import io
from urllib.parse import urlsplit

import msgspec
import requests
from grafana_api.grafana_face import GrafanaFace
from requests.adapters import HTTPAdapter

from sentinel import clock
from sentinel.errors import DeliveryError
from sentinel.notify import request
from sentinel.notify.message import plain
from sentinel.notify.request import LIMIT, refusal

Timeout = float | tuple[float | None, float | None] | None
Certificate = str | tuple[str, str] | None

_PART = 1024  # bytes that are read at once, between looks at the clock


class _Error(msgspec.Struct):
    message: str


def connect(
    url: str, token: str, who: str, timeout: float, *, limit: int = LIMIT, ca: str | None = None
) -> GrafanaFace:
    """A Grafana whose pages are at `url`, by the name that errors give it.

    An answer may have `limit` bytes and take `timeout` seconds. `ca` is a PEM file of the
    authorities to trust instead of the usual ones. All calls raise `DeliveryError`, or `ValueError`
    for an answer that is no JSON.
    """
    parts = urlsplit(url)
    prefix = parts.path.lstrip("/")
    grafana = GrafanaFace(
        token,
        host=parts.netloc,
        url_path_prefix=f"{prefix}/" if prefix else "",
        protocol=parts.scheme,
        verify=ca or True,
        timeout=timeout / 2,  # for the connection, and for each part of an answer
    )
    session = grafana.api.s
    session.headers["Accept-Encoding"] = "identity"
    adapter = _Bounded(who, timeout, limit)
    session.mount("http://", adapter)
    session.mount("https://", adapter)
    session.trust_env = not request.is_loopback(url)
    return grafana


class _Bounded(HTTPAdapter):
    """Makes every answer a small one, and every refusal a `DeliveryError`."""

    def __init__(self, who: str, timeout: float, limit: int) -> None:
        super().__init__()
        self._who = who
        self._timeout = timeout
        self._limit = limit

    def send(
        self,
        request: requests.PreparedRequest,
        stream: bool = False,
        timeout: Timeout = None,
        verify: bool | str = True,
        cert: Certificate = None,
        proxies: dict[str, str] | None = None,
    ) -> requests.Response:
        """See `HTTPAdapter`. Raises `DeliveryError`."""
        try:
            answer = super().send(request, True, timeout, verify, cert, proxies)
            with answer:
                body = self._read(answer)
        except requests.RequestException as error:
            raise self._silence(error) from None
        headers = {name.lower(): value for name, value in answer.headers.items()}
        if not 200 <= answer.status_code < 300:
            raise refusal(self._who, answer.status_code, headers, detail=_said(body))
        whole = requests.Response()
        whole.status_code = answer.status_code
        whole.request = request
        whole.raw = io.BytesIO(body)
        return whole

    def _read(self, answer: requests.Response) -> bytes:
        deadline = clock.monotonic() + self._timeout
        body = bytearray()
        for part in answer.iter_content(_PART):
            body += part
            if len(body) > self._limit or clock.monotonic() > deadline:
                raise DeliveryError(f"{self._who} does not come to an end", doubtful=True)
        return bytes(body)

    def _silence(self, error: requests.RequestException) -> DeliveryError:
        """Why there is no answer, without the address that the library's own words have."""
        # What ended before anything was sent comes wrapped, with the reason inside.
        unsent = error.args and hasattr(error.args[0], "reason")
        if isinstance(error, requests.exceptions.SSLError):
            return DeliveryError(f"{self._who} cannot be reached: its certificate is not trusted")
        if isinstance(error, requests.ConnectTimeout) or unsent:
            return DeliveryError(f"{self._who} cannot be reached")
        return DeliveryError(f"{self._who} did not answer", doubtful=True)


def _said(body: bytes) -> str:
    """The message in an error of Grafana's."""
    try:
        return plain(msgspec.json.decode(body, type=_Error).message)
    except msgspec.MsgspecError:
        return ""
