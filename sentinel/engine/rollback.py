"""Which checkpoint a person means, and whether it may be gone back to."""

from __future__ import annotations

from collections.abc import Sequence

from sentinel.engine.checkpoint import Checkpoint, newest_healthy
from sentinel.errors import ControlError
from sentinel.signals import did_you_mean

LAST_GOOD = "last-good"
_REFUSED = ("gone", "tainted", "incomplete")
_NAMED = 5  # checkpoints in an error


def target(run: str, known: Sequence[Checkpoint], wanted: str, *, force: bool) -> str:
    """The tag to load for `wanted`, which is a tag or "last-good".

    Raises `ControlError` when there is none, or when it is not good to go back to; what is only
    known to be bad, or not known at all, is taken with `force`: the ranks look for themselves.
    """
    if wanted == LAST_GOOD:
        good = newest_healthy(known)
        if good is None:
            raise ControlError(f"run {run} has no healthy checkpoint: {_listed(known)}")
        return good.tag
    found = [one for one in known if one.tag == wanted]
    if force:
        return wanted
    if not found:
        tags = [one.tag for one in reversed(known)]
        raise ControlError(
            f"run {run} has no checkpoint {wanted!r}{did_you_mean(wanted, tags)}: {_listed(known)}"
        )
    if found[-1].state in _REFUSED:
        raise ControlError(
            f"checkpoint {wanted} of run {run} is {found[-1].state}: {found[-1].why}; "
            "name another one, or use --force"
        )
    return wanted


def steps_back(checkpoint: Checkpoint, step: int) -> str:
    """How far it is from this step to the checkpoint, in words."""
    back = step - (checkpoint.step or 0)
    return f"{back} step{'s' * (back != 1)} back" if back >= 0 else f"{-back} steps ahead"


def _listed(known: Sequence[Checkpoint]) -> str:
    """What there is, the newest first, and why each is as it is."""
    there = [one for one in reversed(known) if one.state != "gone"]
    if not there:
        return "none is known" if not known else "all that were saved are gone from their folder"
    told = [f"{one.tag} is {one.state} ({one.why})" for one in there[:_NAMED]]
    more = f" and {len(there) - _NAMED} more" if len(there) > _NAMED else ""
    return "; ".join(told) + more
