"""What befell a run while its incident was open, as evidence."""

from __future__ import annotations

from sentinel.engine.transition import Evidence


def restarted(step: int, front: int) -> Evidence:
    """New processes took the places of the ranks, and go on after `step`."""
    text = f"it had come to step {front} before" if front else ""
    return Evidence("history", f"the run was restarted at step {step}", text)


def went_back(step: int, front: int) -> Evidence:
    """The same processes are back at what they were after `step`."""
    return Evidence("history", f"the run went back from step {front} to step {step}")
