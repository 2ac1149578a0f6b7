"""Any HTTP server as a receiver, by signed POST requests.

They follow the Standard Webhooks specification 1.0.0 (standardwebhooks.com): the event's id, the
time of the attempt and a signature over both and the body travel in the headers `webhook-id`,
`webhook-timestamp` and `webhook-signature`. Any answer 2xx means that it has arrived. A retry has
the same id and body, a new time, and a new signature.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import logging
from collections.abc import Callable

from sentinel import clock
from sentinel.errors import DeliveryError, SentinelError
from sentinel.notify import event, request
from sentinel.notify.receiver import Letter, Posted

_log = logging.getLogger(__name__)
_PREFIX = b"whsec_"
_SHORT = 24  # bytes that the specification asks of a key at least


class WebhookReceiver:
    """Posts each letter as an event in JSON; see `event`."""

    folds = False  # whoever takes events is to have each, in order

    def __init__(
        self,
        name: str,
        url: str,
        secret: bytes | None = None,
        *,
        timeout: float = request.TIMEOUT,
        wall: Callable[[], float] = clock.wall,
    ) -> None:
        """Without a `secret` nothing is signed. For its form see `key_of`.

        Raises `SentinelError` for a URL or a secret that cannot be used.
        """
        self.name = name
        self._who = f"the webhook {name}"
        request.checked(url, self._who)
        self._url = url
        self._key = None if secret is None else key_of(secret, self._who)
        self._timeout = timeout
        self._wall = wall
        if self._key is not None and len(self._key) < _SHORT:
            _log.warning("%s: its secret is shorter than %d bytes", self._who, _SHORT)

    async def check(self) -> str:
        """Nothing that a server would have to take is asked of it."""
        return f"events, {'unsigned' if self._key is None else 'signed'}"

    async def deliver(self, letter: Letter) -> Posted:
        """Post a letter. Raises `DeliveryError`."""
        body = event.encode(letter)
        timestamp = str(int(self._wall()))
        headers = {
            "Content-Type": "application/json",
            "webhook-id": letter.event_id,
            "webhook-timestamp": timestamp,
        }
        if self._key is not None:
            headers["webhook-signature"] = signature(self._key, letter.event_id, timestamp, body)
        answer = await request.ask(
            self._who,
            "POST",
            self._url,
            body=body,
            headers=headers,
            timeout=self._timeout,
            changes=True,
        )
        if not 200 <= answer.status < 300:
            raise request.refusal(self._who, answer.status, answer.headers)
        return Posted(self.name, letter.event_id)

    async def find(self, letter: Letter, since: float) -> Posted | None:
        """Nobody can be asked. Whoever takes an event twice knows it by its id."""
        raise DeliveryError(f"{self._who} has no history that could be asked", permanent=True)

    async def refresh(self, letter: Letter) -> None:
        """What has been posted stays: each event says by itself how things stand."""

    async def close(self) -> None:
        """Nothing is held between requests."""


def key_of(secret: bytes, who: str) -> bytes:
    """The key: what `whsec_` stands before is base64, anything else is the key itself.

    Space and line ends around it, as files have them, do not count. Raises `SentinelError`.
    """
    given = secret.strip()
    if given.startswith(_PREFIX):
        encoded = given[len(_PREFIX) :]
        try:
            given = base64.b64decode(encoded + b"=" * (-len(encoded) % 4), validate=True)
        except binascii.Error:
            raise SentinelError(
                f"{who}: its secret cannot be used: after whsec_ expected base64"
            ) from None
    if not given:
        raise SentinelError(f"{who}: its secret is empty")
    return given


def signature(key: bytes, event_id: str, timestamp: str, body: bytes) -> str:
    """HMAC-SHA256 over `id.timestamp.body`, as `v1,` and base64."""
    signed = b".".join((event_id.encode(), timestamp.encode(), body))
    return "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
