"""Grafana as a receiver, through grafana-api: an incident is one annotation, from onset to end.

The library blocks, so its calls run beside the event loop. Of its annotations only the change by
PATCH is used: it knows dashboards by number alone, which Grafana has given up for the UID.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from typing import TypeVar
from urllib.parse import urlencode

from grafana_api.grafana_face import GrafanaFace

from sentinel import clock
from sentinel.errors import DeliveryError
from sentinel.notify import request, sentence
from sentinel.notify.aside import Aside
from sentinel.notify.grafana_session import connect
from sentinel.notify.message import plain
from sentinel.notify.notice import Notice
from sentinel.notify.one_by_one import one_by_one
from sentinel.notify.receiver import Letter, Posted

T = TypeVar("T")

_TAG = 100  # characters that Grafana keeps of a tag
_MAX_TAGS = 40


class GrafanaReceiver:
    """Marks each incident on a dashboard, or, without one, where annotations are asked by tag."""

    folds = True  # of what comes late, the present state is enough

    def __init__(
        self,
        name: str,
        url: str,
        token: str,
        dashboard_uid: str | None = None,
        tags: Sequence[str] = (),
        *,
        timeout: float = request.TIMEOUT,
    ) -> None:
        """`url`: where its pages are, without `/api`; `token`: of a service account that may read
        and write annotations; `tags` are added to those of the incident.

        Raises `SentinelError` for a URL that cannot be used.
        """
        self.name = name
        self._who = f"Grafana ({name})"
        self._url = request.checked(url, self._who)
        self._token = token
        self._dashboard = dashboard_uid
        self._tags = [plain(tag, _TAG) for tag in tags]
        self._timeout = timeout
        self._aside = Aside(self._who, timeout)

    async def check(self) -> str:
        """Whether annotations may be read. Raises `DeliveryError`."""
        await self._call(lambda grafana: self._listed(grafana, ["sentinel"]))
        return f"annotations on {self._dashboard or 'no dashboard of their own'}"

    async def deliver(self, letter: Letter) -> Posted:
        """Make the incident's annotation, or bring it up to date. Raises `DeliveryError`."""
        notice, *others = one_by_one(letter.notice)
        for other in others:
            if await self._find(other) is None:
                await self._made(other)
        number = await self._updated(letter)
        return self._posted(notice, number or await self._made(notice))

    async def _made(self, notice: Notice) -> str:
        return await self._call(lambda grafana: self._make(grafana, notice), changes=True)

    async def find(self, letter: Letter, since: float) -> Posted | None:
        """By the incident's tag. A change is done again: that does no harm."""
        if letter.head is not None:
            return None
        number = await self._find(letter.notice)
        return None if number is None else self._posted(letter.notice, number)

    async def refresh(self, letter: Letter) -> None:
        """Each letter has done so."""

    async def close(self) -> None:
        """Nothing is held between requests."""

    def _posted(self, notice: Notice, number: str) -> Posted:
        return Posted(self._dashboard or "", f"{notice.incident.id}/{number}")

    async def _updated(self, letter: Letter) -> str | None:
        """The annotation of an incident that has been told, up to date; None if there is none."""
        if letter.head is None:
            return None
        incident, _, number = letter.head.ts.rpartition("/")
        is_its_own = incident == letter.notice.incident.id
        if is_its_own and await self._is_changed(number, letter.notice):
            return number
        other = await self._find(letter.notice)  # made anew after somebody had deleted the first
        return other if other and await self._is_changed(other, letter.notice) else None

    async def _is_changed(self, number: str, notice: Notice) -> bool:
        """Whether it was there to be changed."""
        try:
            await self._call(lambda grafana: self._change(grafana, number, notice))
        except DeliveryError as error:
            if error.code == "404":
                return False
            raise
        return True

    async def _find(self, notice: Notice) -> str | None:
        tag = _tag("incident", notice.incident.id)
        return await self._call(lambda grafana: self._listed(grafana, [tag]))

    # In a thread.

    def _make(self, grafana: GrafanaFace, notice: Notice) -> str:
        fields = self._fields(notice)
        if self._dashboard:
            fields["dashboardUID"] = self._dashboard
        made = grafana.api.POST("/annotations", json=fields)
        number = made.get("id") if isinstance(made, dict) else None
        if not isinstance(number, int):
            raise ValueError(made)
        return str(number)

    def _change(self, grafana: GrafanaFace, number: str, notice: Notice) -> None:
        fields = self._fields(notice)
        grafana.annotations.partial_update_annotation(
            int(number),
            time_from=fields["time"],
            time_to=fields["timeEnd"],
            tags=fields["tags"],
            text=fields["text"],
        )

    def _listed(self, grafana: GrafanaFace, tags: Sequence[str]) -> str | None:
        query = urlencode([*(("tags", tag) for tag in tags), ("limit", "1")])
        found = grafana.api.GET(f"/annotations?{query}")
        if not isinstance(found, list):
            raise ValueError(found)
        numbers = [one.get("id") for one in found if isinstance(one, dict)]
        return str(numbers[0]) if numbers else None

    def _fields(self, notice: Notice) -> dict[str, object]:
        incident = notice.incident
        own = [
            "sentinel",
            _tag("run", incident.run),
            _tag("severity", incident.severity),
            _tag("rule", incident.cause.rule),
            _tag("incident", incident.id),
        ]
        starts = min(sentence.onset(notice), clock.wall())
        return {
            "time": int(starts * 1000),
            "timeEnd": int(max(starts, notice.at) * 1000),
            "tags": [*dict.fromkeys([*own, *self._tags])][:_MAX_TAGS],
            "text": _text(notice),
        }

    async def _call(self, work: Callable[[GrafanaFace], T], *, changes: bool = False) -> T:
        def call() -> T:
            grafana = self._client()
            try:
                return work(grafana)
            finally:
                grafana.api.s.close()

        try:
            return await self._aside.call(call)
        except DeliveryError as error:
            error.doubtful = error.doubtful and changes
            raise
        except (ValueError, TypeError):  # also JSON that is none
            why = f"{self._who}: what answers there is something else, look at the URL"
            raise DeliveryError(why, doubtful=changes) from None

    def _client(self) -> GrafanaFace:
        return connect(self._url, self._token, self._who, self._timeout)


def _tag(name: str, value: str) -> str:
    return plain(f"{name}:{value}", _TAG)


def _text(notice: Notice) -> str:
    """As Grafana shows it, which takes some HTML."""
    incident = notice.incident
    lines = [
        f"{plain(incident.cause.rule)} ({plain(incident.severity)}, {plain(incident.state)})",
        sentence.summary(notice),
        sentence.where(notice),
        sentence.done(notice),
        sentence.advice(notice),
    ]
    shown = [html.escape(line, quote=False) for line in lines if line]
    if notice.page:
        shown.append(f'<a href="{html.escape(notice.page)}">all of the incident</a>')
    return "\n".join(shown)
