"""What is marked on every chart of a run: what befell it, and what was done to it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal, TypedDict

from sentinel.daemon.service import Service
from sentinel.engine.checkpoint import Checkpoint
from sentinel.store.shapes import ActionRow, IncidentJSON
from sentinel.store.store import Store

_ROLLED_BACK = "rolled back to "  # see `control.record.describe`

Kind = Literal["incident", "hold", "resume", "checkpoint", "rollback"]


class MarkJSON(TypedDict):
    """Something that happened at a step. `incident` is whose it was, if it was one's."""

    step: int
    kind: Kind
    text: str
    incident: str | None
    severity: str | None


async def marks(service: Service, run: str) -> list[MarkJSON]:
    """All marks of a run, by step. Raises `StateError`."""
    living = service.runs.get(run)

    def read(store: Store) -> tuple[list[IncidentJSON], list[ActionRow], list[Checkpoint]]:
        saved = store.checkpoints(run) if living is None else []
        return store.incidents(run), store.actions(run), saved

    incidents, actions, saved = await service.reader.call(read)
    if living is not None:
        saved = living.engine.checkpoints.all()
    found = [*_of_incidents(incidents), *_of_actions(actions), *_of_checkpoints(saved)]
    return sorted(found, key=lambda one: one["step"])


def _of_incidents(incidents: Iterable[IncidentJSON]) -> Iterator[MarkJSON]:
    for one in incidents:
        cause = one["cause"]
        where = "" if cause["rank"] is None else f" on rank {cause['rank']}"
        text = f"{cause['rule']}: {cause['signal']}{where}"
        yield MarkJSON(
            step=cause["step"],
            kind="incident",
            text=text,
            incident=one["id"],
            severity=one["severity"],
        )


def _of_actions(actions: Iterable[ActionRow]) -> Iterator[MarkJSON]:
    for one in actions:
        if one.state != "done" or one.action not in ("pause", "resume"):
            continue
        kind: Kind = "hold" if one.action == "pause" else "resume"
        text = f"held by {one.by}" if kind == "hold" else f"resumed by {one.by}"
        told = f"{one.reason} {one.detail}"
        if kind == "resume" and _ROLLED_BACK in told:
            kind, text = "rollback", f"{text}: {(one.detail or one.reason).strip()}"
        yield MarkJSON(step=one.step, kind=kind, text=text, incident=one.incident, severity=None)


def _of_checkpoints(saved: Iterable[Checkpoint]) -> Iterator[MarkJSON]:
    for one in saved:
        if one.step is not None:
            text = f"checkpoint {one.tag}: {one.state}"
            yield MarkJSON(
                step=one.step, kind="checkpoint", text=text, incident=None, severity=None
            )
