"""What is said of a message that comes late: it must not be taken for news."""

from __future__ import annotations

import time

from sentinel.notify.notice import Notice

TIME_TO_LIVE = 120.0  # s after it was due that a message is news


def remark(notice: Notice, opened: float | None, now: float) -> str:
    """A sentence or two for a message that is sent so late as `now`.

    `opened`: when its incident opened, if nothing was said of that before. Times are in seconds
    since the epoch.
    """
    over, then = notice.incident.state == "resolved", _moment(notice.at, now)
    if over and opened is not None:
        return (
            f"This is over: it was open from {_moment(opened, now)} to {then}. It could not be "
            "told while it lasted."
        )
    if over:
        return f"Told late: this has been over since {then}."
    since = "" if opened is None else f"open since {_moment(opened, now)}, "
    return (
        f"Told late: {since}this is how it stood at {then}. It could not be told before "
        f"{_moment(now, now)}."
    )


def _moment(at: float, now: float) -> str:
    """`02:10 UTC`, with the date where that is another day than today."""
    then, today = time.gmtime(at), time.gmtime(now)
    date = "" if then[:3] == today[:3] else time.strftime("%d %b ", then)
    return date + time.strftime("%H:%M UTC", then)
