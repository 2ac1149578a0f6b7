"""Talks to a daemon: over the `api.sock` of its state directory, or over the network."""

from __future__ import annotations

import http.client
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast
from urllib.parse import quote, urlencode

import msgspec

from sentinel import address, tls
from sentinel.cli.place import Place, Remote
from sentinel.engine.coverage import RunCoverage
from sentinel.errors import ControlError, NoDaemonError, SentinelError

if TYPE_CHECKING:  # the store takes a second to import, and a client does not need it
    from sentinel.store.outbox_json import OutboxJSON
    from sentinel.store.shapes import BecameJSON, GivenJSON, IncidentJSON, StatusJSON
    from sentinel.store.shelf import CheckpointJSON
    from sentinel.store.silences import MadeSilenceJSON, SilenceJSON

TIMEOUT = 10.0  # s
_UNSENT = "sentinel_daemon_outbox_pending"
_UNDELIVERED = "sentinel_daemon_outbox_failed"


class _Connection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=TIMEOUT)
        self._path = path

    def connect(self) -> None:
        """See `HTTPConnection`."""
        self.sock = address.connect(address.UnixAddress(self._path), TIMEOUT)


class Client:
    """One daemon. All methods raise `NoDaemonError` when none answers there, `ControlError` when
    an order is refused, and `SentinelError` for anything else that was not done."""

    def __init__(self, place: Place) -> None:
        self.place = place

    def status(self, run: str | None = None) -> list[StatusJSON]:
        """Runs as they are now."""
        return cast("list[StatusJSON]", self._get("/api/v1/status", run=run))

    def coverage(self, run: str | None = None) -> list[RunCoverage]:
        """What can be seen of runs."""
        return msgspec.convert(self._get("/api/v1/coverage", run=run), list[RunCoverage])

    def incidents(self, run: str | None = None) -> list[IncidentJSON]:
        """Incidents, newest last."""
        return cast("list[IncidentJSON]", self._get("/api/v1/incidents", run=run))

    def unsent(self) -> int:
        """How many messages to people have not been sent yet."""
        return self._metric(_UNSENT)

    def undelivered(self) -> int:
        """How many messages to people could not be delivered."""
        return self._metric(_UNDELIVERED)

    def outbox(self) -> list[OutboxJSON]:
        """Messages that have not arrived, in the order of being written."""
        return cast("list[OutboxJSON]", self._get("/api/v1/outbox"))

    def resend(self, ids: Sequence[str] | None) -> list[str]:
        """Have failed messages sent again, None: all of them; returns their ids."""
        body = {"all": True} if ids is None else {"ids": ids}
        answer = self.request("POST", "/api/v1/outbox/resend", msgspec.json.encode(body))
        return msgspec.json.decode(answer, type=list[str])

    def checkpoints(self, run: str | None = None) -> list[CheckpointJSON]:
        """Checkpoints of runs, in the order of saving."""
        return cast("list[CheckpointJSON]", self._get("/api/v1/checkpoints", run=run))

    def order(self, run: str, action: str, body: dict[str, object]) -> GivenJSON:
        """Give an order."""
        path = f"/api/v1/runs/{quote(run, safe='')}/{action}"
        answer = self.request("POST", path, msgspec.json.encode(body))
        return cast("GivenJSON", msgspec.json.decode(answer))

    def became(self, action_id: int) -> BecameJSON:
        """What became of an order."""
        return cast("BecameJSON", self._get(f"/api/v1/actions/{action_id}"))

    def _metric(self, name: str) -> int:
        """A metric of the daemon's; 0 where it is of a version that has none by that name."""
        text = self.request("GET", "/metrics").decode()
        found = re.findall(rf"^{name} (\S+)$", text, re.MULTILINE)
        return int(float(found[0])) if found else 0

    def acknowledge(self, incident: str) -> str:
        """Acknowledge an incident; returns what there is to say."""
        path = f"/api/v1/incidents/{quote(incident, safe='')}/acknowledge"
        return msgspec.json.decode(self.request("POST", path), type=dict[str, str])["said"]

    def silence(self, matchers: list[str], seconds: float, comment: str) -> MadeSilenceJSON:
        """Make a silence."""
        body = {"matchers": matchers, "seconds": seconds, "comment": comment}
        answer = self.request("POST", "/api/v1/silences", msgspec.json.encode(body))
        return cast("MadeSilenceJSON", msgspec.json.decode(answer))

    def silences(self, *, ended: bool) -> list[SilenceJSON]:
        """Silences in force, or all that ever were."""
        return cast(
            "list[SilenceJSON]", self._get("/api/v1/silences", ended="1" if ended else None)
        )

    def end_silence(self, silence_id: str) -> SilenceJSON:
        """End a silence."""
        answer = self.request("DELETE", f"/api/v1/silences/{quote(silence_id, safe='')}")
        return cast("SilenceJSON", msgspec.json.decode(answer))

    def _get(self, path: str, **query: str | None) -> object:
        given = urlencode({key: value for key, value in query.items() if value is not None})
        answer: object = msgspec.json.decode(
            self.request("GET", f"{path}?{given}" if given else path)
        )
        return answer

    def request(self, method: str, path: str, body: bytes | None = None) -> bytes:
        """Ask, and be answered."""
        status, data = self._exchange(method, path, body)
        return _done(status, data)

    def read_if_known(self, path: str) -> bytes | None:
        """What is at this path; None where the daemon is of a version that knows of no such."""
        status, data = self._exchange("GET", path, None)
        return None if status == 404 else _done(status, data)

    def _exchange(self, method: str, path: str, body: bytes | None) -> tuple[int, bytes]:
        connection, headers = _connection(self.place)
        try:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            return response.status, response.read()
        except TimeoutError as error:
            raise SentinelError(
                f"the daemon of {self.place} does not answer within {TIMEOUT:g} s: it is stopped "
                "or overloaded"
            ) from error
        except (OSError, http.client.HTTPException) as error:
            raise _absence(self.place, error) from error
        finally:
            connection.close()


def _done(status: int, data: bytes) -> bytes:
    if status == 200:
        return data
    reason = _reason(data)
    raise ControlError(reason) if status == 409 else SentinelError(reason)


def _connection(place: Place) -> tuple[http.client.HTTPConnection, dict[str, str]]:
    headers = {"Content-Type": "application/json"}
    if isinstance(place, Path):
        return _Connection(place / "api.sock"), headers
    headers["Authorization"] = f"Bearer {place.token}"
    if not place.encrypted:
        return http.client.HTTPConnection(place.host, place.port, timeout=TIMEOUT), headers
    context = tls.client_context(place.ca)
    return (
        http.client.HTTPSConnection(place.host, place.port, timeout=TIMEOUT, context=context),
        headers,
    )


def _absence(place: Place, error: Exception) -> NoDaemonError:
    if isinstance(place, Remote):
        why = tls.why(error) if isinstance(error, OSError) else str(error)
        return NoDaemonError(f"no daemon answers at {place} ({why})")
    return NoDaemonError(
        f"no daemon answers in {place}: start one with `sentinel daemon --state {place}`, or name "
        "another directory with --state or $SENTINEL_STATE"
    )


def _reason(data: bytes) -> str:
    try:
        return msgspec.json.decode(data, type=dict[str, str])["error"]
    except (msgspec.MsgspecError, KeyError):
        return data[:200].decode(errors="replace")
