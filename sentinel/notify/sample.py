"""A sample incident, with which receivers are tried: it says of itself that it is none."""

from __future__ import annotations

from uuid import uuid4

import msgspec

from sentinel import clock
from sentinel.errors import DeliveryError
from sentinel.notify.notice import Alert, Cause, Incident, Notice
from sentinel.notify.receiver import Letter, Receiver

RUN = "sentinel-notify-test"
RULE = "NotifyTest"


async def try_out(receiver: Receiver) -> str:
    """Send a sample, and that it is over; says as whom. Raises `DeliveryError`."""
    notice = _sample()
    whom = await receiver.check()
    first = Letter(uuid4().hex, "opened", notice, None)
    posted = await receiver.deliver(first)
    over = msgspec.structs.replace(
        notice,
        at=clock.wall(),
        incident=msgspec.structs.replace(notice.incident, state="resolved"),
        alerts=tuple(msgspec.structs.replace(one, state="resolved") for one in notice.alerts),
    )
    last = Letter(uuid4().hex, "resolved", over, posted)
    await receiver.deliver(last)
    try:
        await receiver.refresh(last)
    except DeliveryError as error:
        raise DeliveryError(f"messages arrive but cannot be changed later: {error}") from error
    return whom


def _sample() -> Notice:
    identity = f"test-{uuid4().hex[:12]}"
    summary = "This is a test of notifications: nothing is wrong, and nothing has to be done."
    cause = Cause(RULE, "loss", step=1)
    return Notice(
        at=clock.wall(),
        incident=Incident(identity, RUN, "open", "info", 1, cause),
        alerts=(Alert(RULE, severity="info", step=1, summary=summary),),
        alert_count=1,
        summary=summary,
        advice="If you can read this, incidents would have arrived here.",
    )
