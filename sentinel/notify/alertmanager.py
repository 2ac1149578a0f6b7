"""Alertmanager as a receiver, by its API v2: an incident is one alert, firing until it is resolved.

An alert is known by its labels, so sending it again changes nothing. Labels change when an
incident becomes more severe, or when its cause turns out to be another: then Alertmanager is asked
for what else it has of this incident, and that is resolved in the same request.

Alertmanager takes an alert for resolved when its end has passed, and keeps alerts in memory alone.
So an open one ends `LIFETIME` after it was last sent, and is sent again every minute.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, TypeVar
from urllib.parse import quote

import msgspec

from sentinel import clock
from sentinel.errors import DeliveryError, SentinelError
from sentinel.notify import request, sentence
from sentinel.notify.message import plain
from sentinel.notify.notice import Notice
from sentinel.notify.one_by_one import one_by_one
from sentinel.notify.receiver import Letter, Posted

T = TypeVar("T")

_log = logging.getLogger(__name__)

LIFETIME: Final = 86_400.0  # s after which an open incident of which nothing is heard ends
_EVERY = 60.0  # s after which what is open is sent again
_MAX_OPEN = 1000  # incidents that are sent again; beyond them, the latest
_MAX_LABELS = 40
_LABEL = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")


@dataclass(frozen=True)
class Alert:
    """One alert as Alertmanager knows it; times are in seconds since 1970."""

    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    starts: float
    ends: float
    page: str = ""

    def as_json(self) -> dict[str, object]:
        """As the API has it."""
        return {
            **({"generatorURL": self.page} if self.page else {}),
            "labels": self.labels,
            "annotations": self.annotations,
            "startsAt": clock.isoformat(self.starts),
            "endsAt": clock.isoformat(max(self.starts, self.ends)),
        }


class _Known(msgspec.Struct):
    """What is read of an alert that Alertmanager has."""

    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    startsAt: str = ""  # noqa: N815 (the API's name)


class _VersionInfo(msgspec.Struct):
    version: str


class _Status(msgspec.Struct):
    versionInfo: _VersionInfo  # noqa: N815 (the API's name)


class AlertmanagerReceiver:
    """Keeps one alert for each open incident."""

    folds = True  # of what comes late, the present state is enough

    def __init__(
        self,
        name: str,
        url: str,
        labels: Mapping[str, str] | None = None,
        *,
        timeout: float = request.TIMEOUT,
        every: float = _EVERY,
    ) -> None:
        """`url`: where its pages are, without `/api`; `labels` are added to each alert.

        Raises `SentinelError` for a URL or a label that cannot be used.
        """
        self.name = name
        self._url = request.checked(url, f"the Alertmanager {name}")
        self._more = dict(labels or {})
        for label in self._more:
            if not _LABEL.fullmatch(label):
                raise SentinelError(f"{name}: {label!r} is no label: expected {_LABEL.pattern}")
        self._timeout = timeout
        self._every = every
        self._open: dict[str, Alert] = {}
        self._turn = asyncio.Lock()  # nothing is sent again while something new is on its way
        self._again: asyncio.Task[None] | None = None

    async def check(self) -> str:
        """Ask for its version. Raises `DeliveryError`."""
        answer = await self._ask("GET", "status")
        status = self._decoded(answer, _Status)
        return f"alerts to Alertmanager {plain(status.versionInfo.version, 40)}"

    async def deliver(self, letter: Letter) -> Posted:
        """Bring the incident's alert to the state that it has now. Raises `DeliveryError`."""
        self._begin()
        async with self._turn:
            news = {one.incident.id: self._alert(one) for one in one_by_one(letter.notice)}
            others = []
            for incident, alert in news.items():
                known = self._open.pop(incident, None)
                changed = letter.head is not None if known is None else known.labels != alert.labels
                others += await self._others(alert) if changed else []
            await self._post([*news.values(), *others])
            now = clock.wall()
            self._open |= {key: alert for key, alert in news.items() if alert.ends > now}
            for oldest in [*self._open][:-_MAX_OPEN]:
                del self._open[oldest]
        return Posted(self.name, letter.notice.incident.id)

    async def find(self, letter: Letter, since: float) -> Posted | None:
        """Never: what is sent again does no harm, since the labels are the same."""
        return None

    async def refresh(self, letter: Letter) -> None:
        """Each letter has done so."""

    async def close(self) -> None:
        """Send nothing again any more. What is open stays so for `LIFETIME`."""
        if self._again is not None:
            self._again.cancel()
            await asyncio.gather(self._again, return_exceptions=True)
            self._again = None

    def _alert(self, notice: Notice) -> Alert:
        incident, now = notice.incident, clock.wall()
        annotations = {
            "summary": sentence.summary(notice),
            "description": f"{sentence.where(notice)}. {sentence.advice(notice)}".rstrip(". ")
            + ".",
            "action": sentence.done(notice),
        }
        return Alert(
            labels=self._labels(notice),
            annotations={name: text for name, text in annotations.items() if text},
            starts=min(sentence.onset(notice), now),
            ends=now + LIFETIME if incident.state == "open" else min(notice.at, now),
            page=notice.page,
        )

    def _labels(self, notice: Notice) -> dict[str, str]:
        incident, cause = notice.incident, notice.incident.cause
        own = {
            "alertname": cause.rule or "Sentinel",
            "run": incident.run,
            "severity": incident.severity,
            "incident": incident.id,
            "rank": "" if cause.rank is None else str(cause.rank),
            "host": cause.host or "",
            "device": cause.device or "",
            "module": cause.module or "",
        }
        leading = next((a.labels for a in notice.alerts if a.rule == cause.rule), {})
        known = {k: v for k, v in leading.items() if _LABEL.fullmatch(k)}
        first = {name: text for name, value in own.items() if (text := plain(value))}
        rest = {name: text for name, value in known.items() if (text := plain(value))}
        return dict([*(first | {**rest, **self._more, **first}).items()][:_MAX_LABELS])

    async def _others(self, alert: Alert) -> list[Alert]:
        """Under which other labels this incident is firing, resolved."""
        incident = alert.labels["incident"]
        escaped = incident.replace("\\", "\\\\").replace('"', '\\"')
        wanted = quote(f'incident="{escaped}"', safe="")
        answer = await self._ask("GET", f"alerts?filter={wanted}")
        now = clock.wall()
        return [
            Alert(one.labels, one.annotations, _moment(one.startsAt, alert.starts), now)
            for one in self._decoded(answer, list[_Known])
            if one.labels != alert.labels and one.labels.get("incident") == incident
        ]

    async def _post(self, alerts: Sequence[Alert]) -> None:
        body = msgspec.json.encode([alert.as_json() for alert in alerts])
        answer = await self._ask("POST", "alerts", body)
        if answer.body.strip():  # it has nothing to say; a page would be somebody else's
            self._decoded(answer, object)

    async def _ask(self, method: str, path: str, body: bytes | None = None) -> request.Answer:
        answer = await request.ask(
            self._who,
            method,
            f"{self._url}/api/v2/{path}",
            body=body,
            headers={} if body is None else {"Content-Type": "application/json"},
            timeout=self._timeout,
        )
        if not 200 <= answer.status < 300:
            said = plain(answer.body[:1000].decode(errors="replace"))
            raise request.refusal(
                self._who,
                answer.status,
                answer.headers,
                detail=said if answer.status == 400 else "",
                changes=False,
            )
        return answer

    @property
    def _who(self) -> str:
        return f"the Alertmanager {self.name}"

    def _decoded(self, answer: request.Answer, shape: type[T]) -> T:
        try:
            return msgspec.json.decode(answer.body, type=shape)
        except msgspec.MsgspecError:
            raise self._stranger() from None

    def _stranger(self) -> DeliveryError:
        return DeliveryError(f"{self._who}: what answers there is something else, look at the URL")

    def _begin(self) -> None:
        if self._again is None:
            self._again = asyncio.create_task(self._send_again())

    async def _send_again(self) -> None:
        """For ever: that what is open is open."""
        failing = False
        while True:
            await asyncio.sleep(self._every)
            async with self._turn:
                ends = clock.wall() + LIFETIME
                alerts = [replace(alert, ends=ends) for alert in self._open.values()]
                if not alerts:
                    continue
                try:
                    await self._post(alerts)
                    failing = False
                except DeliveryError as error:
                    if not failing:  # said once, not every minute
                        _log.warning("what is open cannot be sent again: %s", error)
                    failing = True


def _moment(text: str, otherwise: float) -> float:
    try:
        return clock.timestamp(text)
    except ValueError:
        return otherwise
