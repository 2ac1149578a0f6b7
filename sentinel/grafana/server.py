"""A Grafana over its HTTP API, as much of it as putting dashboards there takes.

Source: grafana.com/docs/grafana/latest/developer-resources/api-reference/http-api/api-legacy, which
every Grafana from 10 to 13 answers. What blocks here is for the command line, not for the daemon.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import TracebackType
from typing import TypeVar
from urllib.parse import quote, urlsplit

import msgspec
from grafana_api.grafana_face import GrafanaFace

from sentinel.errors import DeliveryError, SentinelError
from sentinel.grafana.dashboard import Datasource
from sentinel.grafana.panel import Json
from sentinel.notify.grafana_session import connect
from sentinel.notify.request import checked

T = TypeVar("T")

OLDEST = (10, 0)
TIMEOUT = 30.0  # s for one request, its answer included
LIMIT = 16 * 1024 * 1024  # bytes of an answer: a list of all that a large Grafana has
_PAGE = 1000  # folders that are listed at a time
_MOST_PAGES = 100

_RIGHTS = "the service account of the token needs the role Editor, or the permission that is named"


class _Health(msgspec.Struct):
    database: str
    version: str = ""


class _Source(msgspec.Struct):
    uid: str
    name: str
    type: str


class _Folder(msgspec.Struct):
    uid: str
    title: str


class _Meta(msgspec.Struct, rename="camel"):
    folder_uid: str = ""
    provisioned: bool = False


class _Full(msgspec.Struct):
    dashboard: dict[str, object]
    meta: _Meta


class _Saved(msgspec.Struct):
    url: str
    version: int


@dataclass(frozen=True)
class Stored:
    """A dashboard as Grafana has it; `folder` is a UID, empty at the root."""

    json: Json
    folder: str
    provisioned: bool

    @property
    def version(self) -> int:
        """Grows with each change."""
        found = self.json.get("version")
        return found if isinstance(found, int) else 0

    @property
    def title(self) -> str:
        """What people call it."""
        return str(self.json.get("title", ""))

    @property
    def tags(self) -> list[object]:
        """What it is found by."""
        found = self.json.get("tags")
        return found if isinstance(found, list) else []


class GrafanaServer(AbstractContextManager["GrafanaServer"]):
    """One Grafana; to be closed. All methods raise `SentinelError` with what is to be done."""

    def __init__(
        self, url: str, token: str, *, ca: str | None = None, timeout: float = TIMEOUT
    ) -> None:
        """`url`: where its pages are, without `/api`. Raises `SentinelError` for one that cannot
        be used, or a token that is none."""
        self.url = checked(url, "Grafana")
        parts = urlsplit(self.url)
        if parts.username is not None or parts.query or parts.fragment:
            raise SentinelError("the URL of Grafana is more than an address: expected https://HOST")
        if not token.isascii() or not token.isprintable() or not token or " " in token:
            raise SentinelError("the token for Grafana is none: expected one such as glsa_...")
        self._who = f"Grafana at {parts.netloc}"
        self._api = connect(self.url, token, self._who, timeout, limit=LIMIT, ca=ca)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._api.api.s.close()

    def check(self) -> None:
        """Whether it is a Grafana that can have the dashboards."""
        version = self._ask(lambda grafana: grafana.api.GET("/health"), _Health).version
        # One that is told to hide its version from strangers says none.
        found = re.match(r"(\d+)\.(\d+)", version)
        if found and (int(found[1]), int(found[2])) < OLDEST:
            raise SentinelError(
                f"{self._who} is version {version}: the dashboards need "
                f"{OLDEST[0]}.{OLDEST[1]} or newer"
            )

    def prometheuses(self) -> list[Datasource]:
        """Its datasources that are a Prometheus, in the order of their names."""
        found = self._ask(lambda grafana: grafana.datasource.list_datasources(), list[_Source])
        known = [Datasource(one.uid, one.name) for one in found if one.type == "prometheus"]
        return sorted(known, key=lambda one: one.name)

    def folder(self, name: str) -> str:
        """The UID of the folder that has this UID or title, which is made where there is none."""
        if found := self._find_folder(name):
            return found
        # By the same UID whoever makes it, so that two at once do not make two.
        uid = f"sentinel-{hashlib.sha256(name.encode()).hexdigest()[:12]}"
        try:
            made = self._ask(lambda grafana: grafana.folder.create_folder(name, uid), _Folder)
        except _RefusalError as refused:
            if refused.status in (409, 412) and self._find_folder(uid):
                return uid
            raise
        return made.uid

    def _find_folder(self, name: str) -> str:
        if re.fullmatch(
            r"[\w-]{1,40}", name, re.ASCII
        ):  # so it may be a UID, of a folder in another
            try:
                return self._ask(lambda grafana: grafana.folder.get_folder(name), _Folder).uid
            except _RefusalError as refused:
                if refused.status not in (403, 404):
                    raise
        for page in range(1, _MOST_PAGES + 1):
            known = self._folders(page)
            if found := next((one.uid for one in known if one.title == name), ""):
                return found
            if len(known) < _PAGE:
                break
        return ""

    def _folders(self, page: int) -> list[_Folder]:
        path = f"/folders?limit={_PAGE}&page={page}"
        return self._ask(lambda grafana: grafana.api.GET(path), list[_Folder])

    def dashboard(self, uid: str) -> Stored | None:
        """The dashboard of this UID, if there is one."""
        try:
            found = self._ask(lambda grafana: grafana.dashboard.get_dashboard(quote(uid)), _Full)
        except _RefusalError as refused:
            if refused.status == 404:
                return None
            raise
        return Stored(found.dashboard, found.meta.folder_uid, found.meta.provisioned)

    def save(self, dashboard: Json, folder: str, message: str) -> tuple[str, int]:
        """Make it, or change the version of it that it names; where it is now, and its version."""
        body = {
            "dashboard": dashboard,
            "folderUid": folder,
            "message": message,
            "overwrite": False,
        }
        saved = self._ask(lambda grafana: grafana.dashboard.update_dashboard(body), _Saved)
        host = urlsplit(self.url)
        return f"{host.scheme}://{host.netloc}{saved.url}", saved.version

    def _ask(self, work: Callable[[GrafanaFace], object], expected: type[T]) -> T:
        try:
            return msgspec.convert(work(self._api), expected)
        except DeliveryError as error:
            raise _RefusalError(_explained(error), int(error.code or 0)) from None
        except (ValueError, TypeError):  # also JSON that is none, or of another shape
            raise SentinelError(
                f"{self._who}: what answers there is no Grafana, look at the URL"
            ) from None


class _RefusalError(SentinelError):
    def __init__(self, reason: str, status: int) -> None:
        super().__init__(reason)
        self.status = status


def _explained(error: DeliveryError) -> str:
    """Why, and what to do about it."""
    if error.code == "401":
        return f"{error}: make a service account in Grafana, and give its token"
    if error.code == "403":
        return f"{error}: {_RIGHTS}"
    if error.code == "412":
        return f"{error}: somebody changed it at the same moment, or its name is taken; try again"
    return str(error)
