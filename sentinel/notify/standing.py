"""How a run stands because of an incident: what was done to it, and by whom, in few words."""

from __future__ import annotations

from sentinel.notify.notice import Action, Notice
from sentinel.notify.plain import PROSE, plain


def latest(notice: Notice) -> Action | None:
    """The action that says how the run stands now."""
    if notice.about is not None:
        return notice.about
    last: Action | None = None
    for action in notice.actions:
        # Several rules may ask for the same pause: all but the first get nothing of their own.
        if last and _pauses(last) and _asks_again(action):
            continue
        last = action
    return last


def is_held(notice: Notice) -> bool:
    """Whether the run stands still, or is being brought to."""
    last = latest(notice)
    return notice.hold is not None or (last is not None and _pauses(last))


def has_stopped(notice: Notice) -> bool:
    """Whether the run was stopped, or is being."""
    last = latest(notice)
    return last is not None and last.action == "stop"


def standing(notice: Notice) -> str:
    """How the run stands now, whatever the last thing was that somebody tried."""
    hold, last = notice.hold, latest(notice)
    if hold is None:
        return done(notice)
    held = f"All ranks are held at step {hold.step}; nothing is torn down."
    if last is None or _pauses(last) or _asks_again(last):
        return held
    return f"{held} {done(notice)}"


def done(notice: Notice) -> str:
    """What Sentinel, or a person, has done to the run last, or has not."""
    action = latest(notice)
    if action is None:
        return "Sentinel only warns: it has not touched the run."
    detail = plain(action.detail, PROSE)
    because = f": {detail}" if detail else "."
    by = plain(action.by)
    sentences = {
        ("pause", "requested"): "Sentinel is bringing all ranks to a stand at the same step.",
        ("pause", "done"): f"All ranks are held at step {action.step}; nothing is torn down.",
        ("pause", "refused"): f"Sentinel did not pause the run{because}",
        ("pause", "failed"): f"The run could not be paused{because}",
        ("pause", "lapsed"): f"The pause lapsed and all ranks went on{because}",
        ("checkpoint", "requested"): "All ranks save a checkpoint after the same step, and go on.",
        ("checkpoint", "done"): f"All ranks saved a checkpoint after step {action.step}.",
        ("resume", "requested"): f"{by} has asked the run to go on.",
        ("resume", "done"): f"The run goes on from step {action.step}, by {by}{because}",
        ("stop", "requested"): f"{by} has asked the run to stop.",
        ("stop", "done"): f"The run was stopped at step {action.step}, by {by}.",
    }
    other = f"{plain(action.action)} (by {by}): {plain(action.state)}{because}"
    return sentences.get((action.action, action.state), other)


def _pauses(action: Action) -> bool:
    return action.action == "pause" and action.state in ("requested", "done")


def _asks_again(action: Action) -> bool:
    return action.action == "pause" and action.state in ("requested", "refused")
