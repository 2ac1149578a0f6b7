"""A run as others see it: rows for the record, JSON for people and programs."""

from __future__ import annotations

from sentinel.daemon.run import Run
from sentinel.store.shapes import RankJSON, RankRow, RunRow, StatusJSON, hold_json


def rows_of(run: Run) -> tuple[RunRow, list[RankRow]]:
    """What is on record about a run."""
    return row_of(run), ranks_of(run)


def row_of(run: Run) -> RunRow:
    """The same without its ranks, of which there may be thousands."""
    return RunRow(
        name=run.name,
        state=run.state,
        step=run.engine.step,
        world_size=run.world_size,
        started=run.started,
        ended=run.ended,
        command=run.command,
        hold=run.hold(),
    )


def ranks_of(run: Run) -> list[RankRow]:
    """The ranks of a run, by rank.

    A rank that stands is shown as standing at once, not only when its next heartbeat says so:
    the run is called held only when all of them do.
    """
    hold = run.hold()
    held = hold.step if hold and run.state in ("held", "resuming") else None
    rows = []
    for rank, state in sorted(run.ranks.items()):
        stands = held is not None and rank in run.connected
        step, phase = (held or 0, "held") if stands else (state.step, state.phase)
        rows.append(
            RankRow(
                rank,
                state.host,
                state.pid,
                state.device,
                step,
                phase,
                state.last_seen,
                state.collectives,
            )
        )
    return rows


def status_of(run: Run, now: float) -> StatusJSON:
    """A run as `status --json` shows it."""
    hold = run.hold()
    ranks = [
        RankJSON(
            rank=row.rank,
            host=row.host,
            pid=row.pid,
            step=row.step,
            phase=row.phase,
            last_seen_s=round(max(0.0, now - row.last_seen), 3),
            collectives={group: list(ends) for group, ends in row.collectives.items()},
        )
        for row in ranks_of(run)
    ]
    return StatusJSON(
        run=run.name,
        state=run.state,
        step=run.engine.step,
        world_size=run.world_size,
        ranks=ranks,
        hold=hold_json(hold, now) if hold else None,
    )
