"""A Grafana on 127.0.0.1 and in memory: folders, dashboards, datasources and health of its API.

Source: grafana.com/docs/grafana/latest/developer-resources/api-reference/http-api/api-legacy, and
for the errors pkg/api/dashboard.go, pkg/services/dashboards/errors.go, pkg/api/apierrors and
pkg/services/accesscontrol/middleware.go of grafana/grafana.
"""

from __future__ import annotations

import copy
from typing import Any

from aiohttp import web

from tests.notify.loopbacks import JSON, Loopback

PROMETHEUS: JSON = {"id": 1, "uid": "prom", "name": "Metrics", "type": "prometheus"}
LOGS: JSON = {"id": 2, "uid": "logs", "name": "Logs", "type": "loki"}

NEEDED = {
    ("GET", "/api/datasources"): "datasources:read",
    ("POST", "/api/folders"): "folders:create",
    ("POST", "/api/dashboards/db"): "dashboards:write",
}


class LoopbackGrafana(Loopback):
    """Dashboards by UID, as stored: with `id` and `version`, and where they lie in `places`.

    `lacks`: permissions that the token does not have. `meanwhile` is called before a dashboard is
    saved, as if somebody else were faster. `version` empty: hidden from strangers.
    """

    def __init__(self, token: str, *, prefix: str = "") -> None:
        self.version = "12.3.0"
        self.datasources = [LOGS, PROMETHEUS]
        self.folders: dict[str, str] = {}
        self.dashboards: dict[str, JSON] = {}
        self.places: dict[str, str] = {}
        self.provisioned: set[str] = set()
        self.lacks: set[str] = set()
        self.messages: list[str] = []
        self.meanwhile: Any = None
        self._token = token
        self._prefix = prefix
        super().__init__()

    def routes(self, router: web.UrlDispatcher) -> None:
        at = f"{self._prefix}/api"
        router.add_get(f"{at}/health", self._health)
        router.add_get(f"{at}/datasources", self._list_datasources)
        router.add_get(f"{at}/folders", self._list_folders)
        router.add_post(f"{at}/folders", self._make_folder)
        router.add_get(f"{at}/folders/{{uid}}", self._folder)
        router.add_get(f"{at}/dashboards/uid/{{uid}}", self._dashboard)
        router.add_post(f"{at}/dashboards/db", self._save)

    @property
    def url(self) -> str:
        """Where it listens."""
        return super().url + self._prefix

    def _check(self, request: web.Request) -> None:
        if request.headers.get("Authorization") != f"Bearer {self._token}":
            said = {"message": "Invalid API key", "messageId": "api-key.invalid", "statusCode": 401}
            raise web.HTTPUnauthorized(text=_text(said), content_type="application/json")
        needed = NEEDED.get((request.method, request.path.removeprefix(self._prefix)), "")
        if needed in self.lacks:
            said = {
                "title": "Access denied",
                "message": "You'll need additional permissions to perform this action. "
                f"Permissions needed: {needed}",
                "accessErrorId": "ACE0123456789",
            }
            raise web.HTTPForbidden(text=_text(said), content_type="application/json")

    async def _health(self, request: web.Request) -> web.Response:
        version = {"version": self.version, "commit": "0123"} if self.version else {}
        return web.json_response({"database": "ok", **version})

    async def _list_datasources(self, request: web.Request) -> web.Response:
        self._check(request)
        return web.json_response([{"orgId": 1, "isDefault": False, **d} for d in self.datasources])

    async def _list_folders(self, request: web.Request) -> web.Response:
        self._check(request)
        size, page = int(request.query["limit"]), int(request.query["page"])
        known = [{"id": 1, "uid": uid, "title": name} for uid, name in self.folders.items()]
        return web.json_response(known[(page - 1) * size : page * size])

    async def _folder(self, request: web.Request) -> web.Response:
        self._check(request)
        uid = request.match_info["uid"]
        if uid not in self.folders:
            return web.json_response({"message": "folder not found"}, status=404)
        return web.json_response({"id": 1, "uid": uid, "title": self.folders[uid]})

    async def _make_folder(self, request: web.Request) -> web.Response:
        self._check(request)
        body = await request.json()
        if body["uid"] in self.folders:
            said = "a folder/dashboard with the same uid already exists"
            return web.json_response({"message": said}, status=409)
        self.folders[body["uid"]] = body["title"]
        return web.json_response({"id": 1, **body, "version": 1})

    async def _dashboard(self, request: web.Request) -> web.Response:
        self._check(request)
        uid = request.match_info["uid"]
        if uid not in self.dashboards:
            return web.json_response({"message": "Dashboard not found"}, status=404)
        meta = {
            "folderUid": self.places.get(uid, ""),
            "provisioned": uid in self.provisioned,
            "version": self.dashboards[uid]["version"],
            "url": f"{self._prefix}/d/{uid}/slug",
        }
        return web.json_response({"meta": meta, "dashboard": self.dashboards[uid]})

    async def _save(self, request: web.Request) -> web.Response:
        self._check(request)
        if self.meanwhile:
            self.meanwhile()
        body = await request.json()
        wanted = body["dashboard"]
        uid, folder = wanted["uid"], body.get("folderUid", "")
        there = self.dashboards.get(uid)
        if folder and folder not in self.folders:
            return web.json_response({"message": "folder not found"}, status=400)
        if uid in self.provisioned:
            return web.json_response({"message": "Cannot save provisioned dashboard"}, status=400)
        if there and not body["overwrite"] and wanted.get("version", 0) != there["version"]:
            said = "The dashboard has been changed by someone else"
            return web.json_response({"status": "version-mismatch", "message": said}, status=412)
        version = there["version"] + 1 if there else 1
        self.dashboards[uid] = _as_stored(wanted, version)
        self.places[uid] = folder
        self.messages.append(body["message"])
        url = f"{self._prefix}/d/{uid}/slug"
        answer = {"id": 1, "uid": uid, "url": url, "status": "success", "version": version}
        return web.json_response(answer)


def _as_stored(wanted: JSON, version: int) -> JSON:
    """With what Grafana adds, and without some of what it takes for granted."""
    stored = copy.deepcopy(wanted) | {"id": 7, "version": version, "weekStart": ""}
    for panel in stored["panels"]:
        panel["pluginVersion"] = "12.3.0"
        if panel.get("panels") == []:
            del panel["panels"]
    return stored


def _text(said: JSON) -> str:
    return str(web.json_response(said).text)
