"""HTTP: the JSON interface, as the command line finds it on `api.sock`.

The kernel opens that socket to this user and root alone, who may do everything. `remote` serves the
same over TCP.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Annotated, TypeVar

import msgspec
from aiohttp import web
from msgspec import Meta, Struct

from sentinel import __version__, clock, wire
from sentinel.control.record import Action
from sentinel.daemon.answer import respond as _json
from sentinel.daemon.answer import who
from sentinel.daemon.metrics import CONTENT_TYPE, exposition
from sentinel.daemon.operator import NotFoundError, Operator
from sentinel.daemon.orders import Request
from sentinel.daemon.outbox_api import outbox_routes
from sentinel.daemon.quiet_api import quiet_routes
from sentinel.daemon.service import Service
from sentinel.daemon.session import is_welcome, peer_of
from sentinel.daemon.token_api import token_routes
from sentinel.daemon.view import status_of
from sentinel.engine.rule import Unattended
from sentinel.errors import AccessError, ControlError, NotifyError, StateError
from sentinel.store.shapes import StatusJSON
from sentinel.store.shelf import CheckpointJSON, as_json

MAX_BODY = 64 * 1024  # bytes

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class PauseBody(Struct, forbid_unknown_fields=True):
    """What may be said with any order. `by` counts only where the kernel names nobody."""

    by: Annotated[str, Meta(max_length=100)] = ""


class HoldBody(PauseBody, forbid_unknown_fields=True):
    """What may be said with a pause: for how long, in seconds, and what comes then."""

    hold_for: Annotated[float, Meta(ge=wire.SHORTEST_HOLD, le=wire.LONGEST_HOLD)] = wire.HOLD_FOR
    unattended: Unattended = "resume"


class ResumeBody(PauseBody, forbid_unknown_fields=True):
    """What may be said with a resume; see `wire.Remedies`."""

    lr_scale: Annotated[float, Meta(gt=0, le=1000)] = 1.0
    skip_batches: Annotated[int, Meta(ge=0, le=1_000_000)] = 0
    rollback: Annotated[str, Meta(max_length=512)] = ""
    checkpoint: bool = False
    rewind: bool = False
    force: bool = False

    def remedies(self) -> wire.Remedies:
        """What is to be done before training goes on."""
        return wire.Remedies(
            self.lr_scale, self.skip_batches, self.rollback, self.checkpoint, self.rewind
        )


Body = TypeVar("Body", bound=PauseBody)


def application(service: Service) -> web.Application:
    """Everything, for `api.sock`."""
    app = web.Application(middlewares=[errors_as_json, _only_this_user], client_max_size=MAX_BODY)
    app.add_routes(routes(service))
    return app


def routes(service: Service) -> list[web.RouteDef]:
    """All that there is. What only reads is to be a GET, and what changes anything never is."""
    api = Api(service)
    return [
        web.get("/api/v1/status", api.status),
        web.get("/api/v1/coverage", api.coverage),
        web.get("/api/v1/incidents", api.incidents),
        web.get("/api/v1/checkpoints", api.checkpoints),
        web.get("/api/v1/actions/{id}", api.action),
        web.post("/api/v1/runs/{run}/{action}", api.order),
        *outbox_routes(service),
        *quiet_routes(service),
        *token_routes(service),
        *_readable(service),
    ]


def _readable(service: Service) -> list[web.RouteDef]:
    async def metrics(_: web.Request) -> web.Response:
        return web.Response(body=exposition(service), headers={"Content-Type": CONTENT_TYPE})

    async def healthz(_: web.Request) -> web.Response:
        return _json({"status": "ok", "pid": os.getpid(), "version": __version__})

    return [web.get("/metrics", metrics), web.get("/healthz", healthz)]


class Api:
    """The handlers."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._operator = Operator(service)

    async def status(self, request: web.Request) -> web.Response:
        """All runs that are known, or one."""
        wanted, now = request.query.get("run"), clock.steady()
        stored = await self._service.ledger.call(lambda: self._service.store.status(now, wanted))
        living = self._service.runs
        shown: dict[str, StatusJSON] = {entry["run"]: entry for entry in stored}
        for name, run in living.items():
            if wanted in (None, name):
                shown[name] = status_of(run, now)
        if wanted is not None and not shown:
            raise await self._operator.no_such(wanted)
        return _json([*shown.values()])

    async def coverage(self, request: web.Request) -> web.Response:
        """What can be seen of all runs that are known, or of one."""
        wanted = request.query.get("run")
        store = self._service.store
        reports = await self._service.ledger.call(lambda: store.coverage(wanted))
        shown = {report.run: report for report in reports}
        for name, run in self._service.runs.items():
            if wanted in (None, name):
                shown[name] = run.engine.coverage()
        if wanted is not None and not shown and wanted not in await self._operator.names():
            raise await self._operator.no_such(wanted)
        return _json([*shown.values()])

    async def incidents(self, request: web.Request) -> web.Response:
        """All incidents, or those of one run."""
        wanted = request.query.get("run")
        if wanted is not None and wanted not in await self._operator.names():
            raise await self._operator.no_such(wanted)
        found = await self._service.ledger.call(lambda: self._service.store.incidents(wanted))
        await self._service.quieting.why_quiet(found)
        return _json(found)

    async def checkpoints(self, request: web.Request) -> web.Response:
        """The checkpoints of all runs that are known, or of one, in the order of saving."""
        wanted, names = request.query.get("run"), await self._operator.names()
        if wanted is not None and wanted not in names:
            raise await self._operator.no_such(wanted)
        shown: list[CheckpointJSON] = []
        for name in names if wanted is None else [wanted]:
            run = self._service.runs.get(name)
            if run is not None:
                known = run.engine.checkpoints.all()
            else:
                known = await self._service.ledger.call(
                    partial(self._service.store.checkpoints, name)
                )
            shown += as_json(name, known)
        return _json(shown)

    async def action(self, request: web.Request) -> web.Response:
        """What became of one action."""
        wanted = request.match_info["id"]
        rows = await self._service.ledger.call(self._service.store.actions)
        for row in rows:
            if str(row.id) == wanted:
                return _json(
                    {
                        "id": row.id,
                        "run": row.run,
                        "action": row.action,
                        "state": row.state,
                        "step": row.step,
                        "by": row.by,
                        "detail": row.detail,
                    }
                )
        raise NotFoundError(f"there is no action {wanted}")

    async def order(self, request: web.Request) -> web.Response:
        """Give an order to a run: `{"id": ..., "action": ..., "run": ..., "rollback": ...}`."""
        run_name, action = request.match_info["run"], request.match_info["action"]
        if action == "resume":
            resume = await _body(request, ResumeBody)
            asked = Request("resume", _who(request, resume), resume.remedies(), resume.force)
        elif action == "pause":
            pause = await _body(request, HoldBody)
            asked = Request(
                "pause",
                _who(request, pause),
                hold_for=pause.hold_for,
                unattended=pause.unattended,
            )
        elif action == "stop" or action == "checkpoint":
            named: Action = "stop" if action == "stop" else "checkpoint"
            asked = Request(named, _who(request, await _body(request, PauseBody)))
        else:
            raise NotFoundError(
                f"there is no action {action!r}: expected pause, resume, stop or checkpoint"
            )
        action_id, given = await self._operator.order(run_name, asked)
        rollback = given.remedies.rollback
        return _json({"id": action_id, "action": action, "run": run_name, "rollback": rollback})


async def _body(request: web.Request, kind: type[Body]) -> Body:
    data = await request.read()
    return msgspec.json.decode(data or b"{}", type=kind)


def _who(request: web.Request, body: PauseBody) -> str:
    return who(request, body.by)


@web.middleware
async def errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Errors as `{"error": ...}` with a status that fits."""
    try:
        return await handler(request)
    except web.HTTPException as error:
        return _json({"error": error.reason}, error.status)
    except NotFoundError as error:
        return _json({"error": str(error)}, 404)
    except (ControlError, AccessError) as error:
        return _json({"error": str(error)}, 409)
    except NotifyError as error:
        return _json({"error": str(error)}, 400)
    except msgspec.MsgspecError as error:
        return _json({"error": f"malformed request: {error}"}, 400)
    except StateError as error:
        return _json({"error": f"{error}; nothing was done"}, 503)


@web.middleware
async def _only_this_user(request: web.Request, handler: Handler) -> web.StreamResponse:
    if request.transport is None or not is_welcome(peer_of(request.transport)[1]):
        raise web.HTTPForbidden(reason="another user's daemon")
    return await handler(request)
