"""HTTP over TCP: the same interface as on `api.sock` for those who bring a token, and the pages.

A token is sent by programs and never by a browser of its own accord, so that no page of another
site can order anything; what a page sends across sites is refused all the same. The pages are not
on `api.sock`: who forwards that to a browser would let every site in with this user's rights.
"""

from __future__ import annotations

from collections.abc import Sequence

from aiohttp import web

from sentinel import bearer
from sentinel.address import is_loopback
from sentinel.daemon.access import ForbiddenError
from sentinel.daemon.answer import respond, secure
from sentinel.daemon.api import MAX_BODY, endpoints, errors_as_json
from sentinel.daemon.endpoint import Endpoint, Handler
from sentinel.daemon.pages import PAGES, Pages
from sentinel.daemon.service import Service
from sentinel.errors import AccessError
from sentinel.store.tokens import Role

OPEN = ("/metrics", "/healthz")  # to everybody on this machine, where it is served on loopback
_READING = ("GET", "HEAD")


def remote_application(service: Service, *, loopback: bool) -> web.Application:
    """Everything, for those with a token. `loopback`: only this machine can reach it."""
    known = endpoints(service)
    guard = _Guard(service, known, loopback)
    app = web.Application(middlewares=[errors_as_json, guard.watch], client_max_size=MAX_BODY)
    app.on_response_prepare.append(secure)
    app.add_routes([*(one.route() for one in known), *Pages().routes()])
    return app


class _Guard:
    """Looks at every request before anything else does."""

    def __init__(self, service: Service, known: Sequence[Endpoint], loopback: bool) -> None:
        self._service = service
        self._loopback = loopback
        self._public = _netloc(service.settings.page_url)  # where a proxy serves the same
        self._roles: dict[tuple[str, str], Role] = {
            (one.method, one.path): one.role for one in known
        }

    @web.middleware
    async def watch(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Pass on what may be asked. What may not is answered before its body is read."""
        if why := self._strange(request):
            return self._turn_away(request, why)
        if not self._is_open(request):
            try:
                token = self._service.access.check(
                    _presented(request), self._wanted(request), **_described(request)
                )
            except AccessError as error:
                return _refused(str(error), 403 if isinstance(error, ForbiddenError) else 401)
            request["by"], request["token"] = f"token {token.name}", token
        return await handler(request)

    def _is_open(self, request: web.Request) -> bool:
        """Whether everybody may ask for this."""
        of_this_machine = self._loopback and is_loopback(_host_of(request.headers["Host"]))
        return _route(request) in PAGES or (of_this_machine and request.path in OPEN)

    def _wanted(self, request: web.Request) -> Role:
        """The role that is enough; where there is nothing, as for what is beside it."""
        reading = request.method in _READING
        method = "GET" if reading else request.method
        known = self._roles.get((method, _route(request)))
        return known or ("viewer" if reading else "operator")

    def _strange(self, request: web.Request) -> str:
        """Why this comes from a page of another site, if it seems to."""
        host = request.headers.get("Host", "")
        if self._loopback and host != self._public and not is_loopback(_host_of(host)):
            return "reached by a name that is not this machine's"
        origin = request.headers.get("Origin")
        if origin is not None and _netloc(origin) not in (host, self._public or host):
            return "asked for by a page of another site"
        return ""

    def _turn_away(self, request: web.Request, why: str) -> web.Response:
        by = f"somebody from {request.remote}"
        self._service.access.refusals.note("site", by, _asked(request), why)
        return _refused(why, 403)


def _route(request: web.Request) -> str:
    """The path of the table that was found for a request, or nothing."""
    resource = request.match_info.route.resource
    return resource.canonical if resource is not None else ""


def _refused(why: str, status: int) -> web.Response:
    response = respond({"error": why}, status)
    if status == 401:
        response.headers["WWW-Authenticate"] = "Bearer"
    response.force_close()  # who is not let in holds no connection either
    return response


def _presented(request: web.Request) -> str | None:
    given = request.headers.getall("Authorization", [])
    if len(given) != 1:
        return None
    scheme, _, token = given[0].partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None


def _described(request: web.Request) -> dict[str, str]:
    """Who asks what of whom, for the record."""
    run = request.match_info.get("run", "")
    is_order = run and request.method not in _READING
    return {
        "address": str(request.remote),
        "asked": request.path.rpartition("/")[2] if is_order else _asked(request),
        "run": run,
    }


def _asked(request: web.Request) -> str:
    """Without the query, and without a token where somebody has put one into the path."""
    path = request.rel_url.raw_path
    return f"{request.method} {'...' if bearer.looks_like(path) else path}"


def _netloc(url: str) -> str:
    """`HOST:PORT` of a URL, as browsers send it; nothing of nothing."""
    return url.partition("://")[2]


def _host_of(header: str) -> str:
    """The host in a `Host` header, without its port."""
    if header.startswith("["):
        return header[1:].partition("]")[0]
    return header.rpartition(":")[0] if ":" in header else header
