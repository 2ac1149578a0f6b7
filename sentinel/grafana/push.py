"""Bringing the dashboards to a Grafana, as often as wanted: what is there already is left alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from sentinel import __version__
from sentinel.errors import SentinelError
from sentinel.grafana.dashboard import OURS, Dashboard, Datasource
from sentinel.grafana.panel import Json
from sentinel.grafana.server import GrafanaServer, Stored

FOLDER = "Sentinel"

Change = Literal["created", "updated", "unchanged"]


@dataclass(frozen=True)
class Pushed:
    """What became of one dashboard."""

    uid: str
    title: str
    change: Change
    version: int
    url: str


def push(
    server: GrafanaServer,
    dashboards: Sequence[Dashboard],
    *,
    page_url: str,
    folder: str | None = None,
    datasource: str | None = None,
) -> Iterator[Pushed]:
    """What becomes of each dashboard, as it happens.

    1. Look whether it is a Grafana that is new enough, and choose its Prometheus.
    2. Look at the dashboards that are there: if one of ours cannot be put there, none is.
    3. Write those that differ. `folder` None: new ones go to `FOLDER`, others stay where they are.

    Raises `SentinelError`.
    """
    server.check()
    source = chosen(server.prometheuses(), datasource)
    there = {one.uid: server.dashboard(one.uid) for one in dashboards}
    for one in dashboards:
        _check_ours(one, there[one.uid])
    wanted = server.folder(folder) if folder is not None else None
    for one in dashboards:
        stored = there[one.uid]
        place = wanted
        if place is None:
            place = stored.folder if stored is not None else server.folder(FOLDER)
        yield _put(server, one, one.json(source, page_url), stored, place)


def chosen(known: Sequence[Datasource], wanted: str | None) -> Datasource:
    """The datasource with this UID or name; None: the only one. Raises `SentinelError`."""
    if not known:
        raise SentinelError(
            "Grafana has no Prometheus datasource that the token may see: add the Prometheus that "
            "scrapes Sentinel first (Connections, Data sources)"
        )
    every = ", ".join(f"{one.name!r} (uid {one.uid})" for one in known)
    if wanted is None:
        if len(known) == 1:
            return known[0]
        raise SentinelError(f"Grafana has several Prometheus: choose by --datasource from {every}")
    for one in known:
        if wanted in (one.uid, one.name):
            return one
    raise SentinelError(f"Grafana has no Prometheus {wanted!r}: expected one of {every}")


def _check_ours(dashboard: Dashboard, stored: Stored | None) -> None:
    if stored is None:
        return
    if OURS not in stored.tags:
        raise SentinelError(
            f"in Grafana the dashboard {stored.title!r} has the uid {dashboard.uid!r}, and is not "
            f"Sentinel's (it lacks the tag {OURS!r}): it is left alone; give it another uid, or "
            "remove it"
        )
    if stored.provisioned:
        raise SentinelError(
            f"the dashboard {stored.title!r} comes from files of that Grafana's own: write these "
            "with `sentinel dashboards export`"
        )


def _put(
    server: GrafanaServer, dashboard: Dashboard, json: Json, stored: Stored | None, folder: str
) -> Pushed:
    title = dashboard.title
    if stored is None:
        url, version = server.save(json, folder, _message())
        return Pushed(dashboard.uid, title, "created", version, url)
    if stored.folder == folder and has(stored.json, json):
        url = f"{server.url}/d/{dashboard.uid}"
        return Pushed(dashboard.uid, title, "unchanged", stored.version, url)
    # With the version that was looked at, so that nobody's change in between is lost unseen.
    url, version = server.save({**json, "version": stored.version}, folder, _message())
    return Pushed(dashboard.uid, title, "updated", version, url)


def _message() -> str:
    return f"sentinel dashboards push, version {__version__}"


def has(stored: object, wanted: object) -> bool:
    """Whether all that is wanted is there.

    Grafana adds what it likes, leaves out what is empty, and may put a default for a null.
    """
    if wanted is None:
        return True
    if stored is None:
        return wanted in ([], {}, "")
    if isinstance(wanted, dict):
        return isinstance(stored, dict) and all(
            has(stored.get(key), value) for key, value in wanted.items()
        )
    if isinstance(wanted, list) and isinstance(stored, list):
        return len(stored) == len(wanted) and all(map(has, stored, wanted))
    return stored == wanted and isinstance(stored, bool) == isinstance(wanted, bool)
