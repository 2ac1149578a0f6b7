"""Talks to the daemon of a state directory, over its `api.sock`."""

from __future__ import annotations

import http.client
import re
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, cast
from urllib.parse import quote, urlencode

import msgspec

from sentinel import address
from sentinel.engine.coverage import RunCoverage
from sentinel.errors import ControlError, NoDaemonError, SentinelError

if TYPE_CHECKING:  # the store takes a second to import, and a client does not need it
    from sentinel.store.shapes import IncidentJSON, StatusJSON
    from sentinel.store.shelf import CheckpointJSON

TIMEOUT = 10.0  # s
_UNSENT = "sentinel_daemon_outbox_pending"


class GivenJSON(TypedDict):
    """An order that was given; `rollback` is the tag of the checkpoint to be loaded, if any."""

    id: int
    action: str
    run: str
    rollback: str


class BecameJSON(TypedDict):
    """What became of an order."""

    id: int
    run: str
    action: str
    state: str
    step: int
    by: str
    detail: str


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

    def __init__(self, state_dir: Path) -> None:
        self.state_dir = state_dir

    def status(self, run: str | None = None) -> list[StatusJSON]:
        """Runs as they are now."""
        return cast("list[StatusJSON]", self._get("/api/status", run=run))

    def coverage(self, run: str | None = None) -> list[RunCoverage]:
        """What can be seen of runs."""
        return msgspec.convert(self._get("/api/coverage", run=run), list[RunCoverage])

    def incidents(self, run: str | None = None) -> list[IncidentJSON]:
        """Incidents, newest last."""
        return cast("list[IncidentJSON]", self._get("/api/incidents", run=run))

    def unsent(self) -> int:
        """How many messages to people have not been sent yet."""
        text = self._request("GET", "/metrics").decode()
        (value,) = re.findall(rf"^{_UNSENT} (\S+)$", text, re.MULTILINE)
        return int(float(value))

    def checkpoints(self, run: str | None = None) -> list[CheckpointJSON]:
        """Checkpoints of runs, in the order of saving."""
        return cast("list[CheckpointJSON]", self._get("/api/checkpoints", run=run))

    def order(self, run: str, action: str, body: dict[str, object]) -> GivenJSON:
        """Give an order."""
        path = f"/api/runs/{quote(run, safe='')}/{action}"
        answer = self._request("POST", path, msgspec.json.encode(body))
        return msgspec.json.decode(answer, type=GivenJSON)

    def became(self, action_id: int) -> BecameJSON:
        """What became of an order."""
        return cast("BecameJSON", self._get(f"/api/actions/{action_id}"))

    def _get(self, path: str, **query: str | None) -> object:
        given = urlencode({key: value for key, value in query.items() if value is not None})
        answer: object = msgspec.json.decode(
            self._request("GET", f"{path}?{given}" if given else path)
        )
        return answer

    def _request(self, method: str, path: str, body: bytes | None = None) -> bytes:
        socket_path = self.state_dir / "api.sock"
        connection = _Connection(socket_path)
        try:
            connection.request(method, path, body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            data, status = response.read(), response.status
        except TimeoutError as error:
            raise SentinelError(
                f"the daemon of {self.state_dir} does not answer within {TIMEOUT:g} s: it is "
                "stopped or overloaded"
            ) from error
        except (OSError, http.client.HTTPException) as error:
            raise NoDaemonError(
                f"no daemon answers in {self.state_dir}: start one with `sentinel daemon --state "
                f"{self.state_dir}`, or name another directory with --state or $SENTINEL_STATE"
            ) from error
        finally:
            connection.close()
        if status == 200:
            return data
        reason = _reason(data)
        raise ControlError(reason) if status == 409 else SentinelError(reason)


def _reason(data: bytes) -> str:
    try:
        return msgspec.json.decode(data, type=dict[str, str])["error"]
    except (msgspec.MsgspecError, KeyError):
        return data[:200].decode(errors="replace")
