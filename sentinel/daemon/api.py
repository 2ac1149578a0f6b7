"""HTTP: the JSON interface, as the command line finds it on `api.sock`.

The kernel opens that socket to this user and root alone, who may do everything. `remote` serves the
same over TCP, and the pages with it.
"""

from __future__ import annotations

import os
from functools import cache
from typing import TypedDict

from aiohttp import web

from sentinel import __version__
from sentinel.daemon.answer import respond, secure
from sentinel.daemon.audit_api import audit_endpoints
from sentinel.daemon.endpoint import BadRequestError, Endpoint, Handler, endpoint
from sentinel.daemon.event_api import event_endpoints
from sentinel.daemon.incident_api import incident_endpoints
from sentinel.daemon.metrics import Exposition
from sentinel.daemon.metrics.page import content_type
from sentinel.daemon.openapi import document
from sentinel.daemon.operator import NotFoundError
from sentinel.daemon.order_api import order_endpoints
from sentinel.daemon.outbox_api import outbox_endpoints
from sentinel.daemon.overview_api import overview_endpoints
from sentinel.daemon.quiet_api import quiet_endpoints
from sentinel.daemon.series_api import series_endpoints
from sentinel.daemon.service import Service
from sentinel.daemon.session import is_welcome, peer_of
from sentinel.daemon.status_api import status_endpoints
from sentinel.daemon.streams import TooManyError, TooManyOfOneError
from sentinel.daemon.token_api import token_endpoints
from sentinel.errors import AccessError, ControlError, NotifyError, StateError

MAX_BODY = 64 * 1024  # bytes


class HealthJSON(TypedDict):
    """That the daemon answers, and which it is."""

    status: str
    pid: int
    version: str


def application(service: Service) -> web.Application:
    """Everything, for `api.sock`."""
    app = web.Application(middlewares=[errors_as_json, _only_this_user], client_max_size=MAX_BODY)
    app.on_response_prepare.append(secure)
    app.add_routes([one.route() for one in endpoints(service)])
    return app


def endpoints(service: Service) -> list[Endpoint]:
    """All that there is. What only reads is to be a GET, and what changes anything never is."""
    found = [
        *status_endpoints(service),
        *order_endpoints(service),
        *quiet_endpoints(service),
        *outbox_endpoints(service),
        *token_endpoints(service),
        *overview_endpoints(service),
        *incident_endpoints(service),
        *audit_endpoints(service),
        *series_endpoints(service),
        *event_endpoints(service),
        *_readable(service),
    ]
    return [*found, _described(found)]


def _described(known: list[Endpoint]) -> Endpoint:
    """All of these, and this one, as an OpenAPI document."""

    @cache
    def whole() -> dict[str, object]:
        return document([*known, itself])

    async def openapi(_: web.Request) -> dict[str, object]:
        """This document."""
        return whole()

    itself = endpoint("GET", "/api/v1/openapi.json", openapi)
    return itself


def _readable(service: Service) -> list[Endpoint]:
    exposition = Exposition(service)

    async def metrics(request: web.Request) -> web.Response:
        """Everything that Prometheus may scrape, in its text format or in OpenMetrics."""
        form = content_type(request.headers.get("Accept", ""))
        body = await exposition.text(form)
        return web.Response(body=body, headers={"Content-Type": form, "Vary": "Accept"})

    async def healthz(_: web.Request) -> HealthJSON:
        """Whether the daemon answers."""
        return HealthJSON(status="ok", pid=os.getpid(), version=__version__)

    return [
        endpoint("GET", "/metrics", metrics, media="text/plain"),
        endpoint("GET", "/healthz", healthz),
    ]


@web.middleware
async def errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Errors as `{"error": ...}` with a status that fits."""
    try:
        return await handler(request)
    except web.HTTPException as error:
        response = respond({"error": error.reason}, error.status)
        if "Allow" in error.headers:
            response.headers["Allow"] = error.headers["Allow"]
        return response
    except NotFoundError as error:
        return respond({"error": str(error)}, 404)
    except (ControlError, AccessError) as error:
        return respond({"error": str(error)}, 409)
    except (NotifyError, BadRequestError) as error:
        return respond({"error": str(error)}, 400)
    except TooManyOfOneError as error:
        return respond({"error": str(error)}, 429)
    except TooManyError as error:
        return respond({"error": str(error)}, 503)
    except StateError as error:
        return respond({"error": f"{error}; nothing was done"}, 503)


@web.middleware
async def _only_this_user(request: web.Request, handler: Handler) -> web.StreamResponse:
    if request.transport is None or not is_welcome(peer_of(request.transport)[1]):
        raise web.HTTPForbidden(reason="another user's daemon")
    return await handler(request)
