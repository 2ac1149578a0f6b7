"""A person's order to a run, with the checkpoint that it means made out."""

from __future__ import annotations

import shlex
from dataclasses import replace

import msgspec

from sentinel.daemon.orders import Request
from sentinel.daemon.run import Run
from sentinel.engine.rollback import LAST_GOOD, steps_back, target
from sentinel.errors import BadWeightsError, ControlError


async def ask(run: Run, asked: Request) -> tuple[int, Request]:
    """Give the order; returns the id of its row, and the order as it was given.

    "last-good" becomes the tag that it is now. Raises as `Orders.ask`; who may not go on with
    weights that are not finite is told the way back.
    """
    try:
        aimed = _aimed(run, asked)
    except ControlError as error:
        await run.orders.refuse(asked, run.position().step, str(error), run.incident)
        raise
    try:
        return await run.orders.ask(aimed, run.incident), aimed
    except BadWeightsError as error:
        raise BadWeightsError(f"{error}; {_way_back(run)}") from None


def _aimed(run: Run, asked: Request) -> Request:
    wanted = asked.remedies.rollback
    if not wanted:
        return asked
    tag = target(run.name, run.engine.checkpoints.all(), wanted, force=asked.force)
    named = f"roll back to {tag}" + (f", which is {LAST_GOOD}" if wanted == LAST_GOOD else "")
    remedies = msgspec.structs.replace(asked.remedies, rollback=tag)
    return replace(asked, remedies=remedies, reason=named)


def _way_back(run: Run) -> str:
    """What a person may type to go back, or where to look."""
    name, good = shlex.quote(run.name), run.engine.checkpoints.last_good
    if good is None:
        return f"no checkpoint is known to be healthy, see `sentinel checkpoints {name}`"
    back = steps_back(good, run.position().step)
    return f"the way back: `sentinel resume {name} --rollback {LAST_GOOD}`, now {good.tag}, {back}"
