"""The part of the HTTP interface that tells all of one incident, with the black boxes it led to."""

from __future__ import annotations

import asyncio
from functools import partial

from aiohttp import web

from sentinel.daemon.boxes import BlackBoxJSON, Boxes, BoxJSON
from sentinel.daemon.endpoint import Endpoint, endpoint, number
from sentinel.daemon.operator import NotFoundError
from sentinel.daemon.service import Service
from sentinel.store import timeline
from sentinel.store.store import Store
from sentinel.store.timeline import DetailJSON


class WholeIncidentJSON(DetailJSON):
    """An incident with its whole course, and the black boxes that ranks have handed over.

    `receivers` is how many there are to be told of incidents. While the run is held, `bad_weights`
    names the first weight that is not finite, "" where every rank has looked at its own and found
    none; null is not known.
    """

    blackboxes: list[BoxJSON]
    receivers: int
    bad_weights: str | None


def incident_endpoints(service: Service) -> list[Endpoint]:
    """The endpoints."""
    api, one = _IncidentApi(service), "/api/v1/incidents/{incident}"
    return [
        endpoint("GET", one, api.incident, errors=(404,)),
        endpoint("GET", one + "/blackbox/{rank}", api.blackbox, errors=(404,)),
    ]


class _IncidentApi:
    """The handlers."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._boxes = Boxes(service.store.state_dir)

    async def incident(self, request: web.Request) -> WholeIncidentJSON:
        """One incident, whole: what moved first, what was noticed, done and said."""
        wanted = request.match_info["incident"]
        detail = await self._detail(wanted)
        await self._service.quieting.why_quiet([detail])
        boxes = await asyncio.to_thread(self._boxes.of, wanted)
        return WholeIncidentJSON(
            **detail,
            blackboxes=boxes,
            receivers=len(self._service.settings.receivers),
            bad_weights=self._bad_weights(detail["run"]),
        )

    def _bad_weights(self, name: str) -> str | None:
        run = self._service.runs.get(name)
        if run is None or run.state != "held":
            return None
        told = run.orders.control.weights
        bad = [told[rank] for rank in sorted(told) if told[rank]]
        return bad[0] if bad else "" if len(told) == run.world_size else None

    async def blackbox(self, request: web.Request) -> BlackBoxJSON:
        """The last steps of one rank, from the black box that it has handed over."""
        incident, rank = request.match_info["incident"], request.match_info["rank"]
        await self._detail(incident)
        which, found = number(rank), None
        if which is not None:
            found = await asyncio.to_thread(self._boxes.read, incident, which)
        if found is None:
            raise NotFoundError(f"there is no black box of rank {rank} with incident {incident}")
        return found

    async def _detail(self, incident: str) -> DetailJSON:
        def look(store: Store) -> DetailJSON:
            return store.look(partial(timeline.detail, incident_id=incident))

        try:
            return await self._service.reader.call(look)
        except LookupError:
            raise NotFoundError(f"there is no incident {incident!r}") from None
