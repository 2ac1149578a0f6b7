"""What the receivers write to, on 127.0.0.1 and in memory: of each as much as they use of it."""

from __future__ import annotations

import json
from types import TracebackType
from typing import Any, cast

from aiohttp import web

JSON = dict[str, Any]


class Loopback:
    """`async with ...() as server:`; `bodies` are all that came, whether it was taken or not.

    `refuses`: a status that the next requests get, in its own words.
    """

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.headers: list[dict[str, str]] = []
        self.refuses = 0
        self._app = web.Application(middlewares=[self._note])
        self._port = 0
        self.routes(self._app.router)

    def routes(self, router: web.UrlDispatcher) -> None:
        """What it answers."""
        raise NotImplementedError

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._port}"

    async def __aenter__(self) -> Any:
        self._runner = web.AppRunner(self._app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self._port).start()
        self._port = self._runner.addresses[0][1]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._runner.cleanup()

    @web.middleware
    async def _note(self, request: web.Request, handler: Any) -> web.StreamResponse:
        self.bodies.append(await request.read())
        self.headers.append({key.lower(): value for key, value in request.headers.items()})
        if self.refuses:
            return web.json_response({"message": "refused"}, status=self.refuses)
        return cast(web.StreamResponse, await handler(request))


class LoopbackWebhook(Loopback):
    """Takes everything that is posted to /hook."""

    def routes(self, router: web.UrlDispatcher) -> None:
        async def take(request: web.Request) -> web.Response:
            return web.Response(status=204)

        router.add_post("/hook", take)

    @property
    def events(self) -> list[JSON]:
        """What was posted."""
        return [json.loads(body) for body in self.bodies]


class LoopbackAlertmanager(Loopback):
    """Keeps alerts by their labels. The real one is in test_alertmanager.py."""

    def __init__(self) -> None:
        self.alerts: dict[str, JSON] = {}
        super().__init__()

    def routes(self, router: web.UrlDispatcher) -> None:
        async def post(request: web.Request) -> web.Response:
            for alert in await request.json():
                self.alerts[json.dumps(alert["labels"], sort_keys=True)] = alert
            return web.Response()

        async def alerts(request: web.Request) -> web.Response:
            return web.json_response([*self.alerts.values()])

        async def status(request: web.Request) -> web.Response:
            return web.json_response({"versionInfo": {"version": "0.0"}})

        router.add_post("/api/v2/alerts", post)
        router.add_get("/api/v2/alerts", alerts)
        router.add_get("/api/v2/status", status)


class LoopbackGrafana(Loopback):
    """The annotations of Grafana's HTTP API, as its documentation and its own code have them.

    Source: grafana.com/docs/grafana/latest/developers/http_api/annotations, and for the errors
    pkg/api/annotations.go of grafana/grafana.
    """

    def __init__(self, token: str, dashboards: tuple[str, ...] = ("train",)) -> None:
        self.annotations: dict[int, JSON] = {}
        self._token = token
        self._dashboards = dashboards
        super().__init__()

    def routes(self, router: web.UrlDispatcher) -> None:
        router.add_post("/api/annotations", self._post)
        router.add_get("/api/annotations", self._get)
        router.add_patch("/api/annotations/{number}", self._patch)
        router.add_put("/api/annotations/{number}", self._put)

    def _refused(self, request: web.Request) -> web.Response | None:
        if request.headers.get("Authorization") != f"Bearer {self._token}":
            return web.json_response({"message": "Invalid API key"}, status=401)
        return None

    async def _post(self, request: web.Request) -> web.Response:
        if refused := self._refused(request):
            return refused
        fields = await request.json()
        known = {"dashboardUID", "dashboardId", "panelId", "time", "timeEnd", "tags", "text"}
        if not fields.get("text") or not isinstance(fields.get("time"), int) or set(fields) - known:
            return web.json_response({"message": "Failed to save annotation"}, status=400)
        if fields.get("dashboardUID", "train") not in self._dashboards:
            message = "Invalid dashboard UID in annotation request"
            return web.json_response({"message": message}, status=400)
        number = 1 + len(self.annotations)
        self.annotations[number] = {"id": number, **fields}
        return web.json_response({"message": "Annotation added", "id": number})

    async def _get(self, request: web.Request) -> web.Response:
        wanted = set(request.query.getall("tags", []))
        found = [one for one in self.annotations.values() if wanted <= set(one["tags"])]
        newest = sorted(found, key=lambda one: -one["time"])
        refused = self._refused(request)
        return refused or web.json_response(newest[: int(request.query.get("limit", "100"))])

    async def _patch(self, request: web.Request) -> web.Response:
        return await self._changed(request, "Annotation patched")

    async def _put(self, request: web.Request) -> web.Response:
        return await self._changed(request, "Annotation updated")

    async def _changed(self, request: web.Request, message: str) -> web.Response:
        if refused := self._refused(request):
            return refused
        number = int(request.match_info["number"])
        if number not in self.annotations:
            return web.json_response({"message": "Annotation not found"}, status=404)
        fields = await request.json()
        if set(fields) - {"time", "timeEnd", "tags", "text"}:
            return web.json_response({"message": "bad request data"}, status=400)
        self.annotations[number] |= {name: value for name, value in fields.items() if value}
        return web.json_response({"message": message})
