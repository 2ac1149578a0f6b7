"""What Sentinel knows of the ranks and of itself, and what scripts log."""

from __future__ import annotations

from sentinel.signals.signal import Reduction, Signal, Stage

_MEAN, _MAX = Reduction.MEAN, Reduction.MAX
_AROUND = Stage.AROUND

DROPS = ("queue full", "no daemon")  # why a rank drops frames: the labels of `monitor_dropped`

OURSELVES = (
    Signal("monitor_seconds", "s", _MAX, _AROUND, "time spent in Sentinel's own code"),
    Signal("monitor_share", "1", _MAX, _AROUND, "the same over the time of the step"),
    Signal("monitor_queue", "frames", _MAX, _AROUND, "frames that wait to be sent"),
    Signal("monitor_dropped", "frames", _MAX, _AROUND, "frames dropped, by reason", label="reason"),
    Signal("silence", "s", _MAX, _AROUND, "since a rank was last heard from", made_by="engine"),
    Signal(
        "stall",
        "s",
        _MAX,
        _AROUND,
        "since a rank last did a step or entered a collective, or stood to save or on hold",
        made_by="engine",
    ),
    Signal(
        "collective_lag",
        "1",
        _MAX,
        _AROUND,
        "collectives that a rank has not entered and others of its group have",
        made_by="engine",
    ),
    Signal(
        "collective_hang",
        "s",
        _MAX,
        _AROUND,
        "for which all ranks of a group have stood in the same collective, completed by none",
        made_by="engine",
    ),
    Signal(
        "lost",
        "1",
        _MAX,
        _AROUND,
        "1 once a rank's connection ended without a farewell and did not come back",
        made_by="engine",
    ),
    Signal(
        "failed",
        "1",
        _MAX,
        _AROUND,
        "1 once a rank's script has ended with an exception",
        made_by="engine",
    ),
    Signal(
        "last_good_at_risk",
        "1",
        _MAX,
        _AROUND,
        "1 while the next save is likely to remove the newest healthy checkpoint, too early",
        made_by="engine",
    ),
    Signal(
        "last_good_gone",
        "1",
        _MAX,
        _AROUND,
        "1 while no checkpoint is healthy, since the script has removed what was or would be",
        made_by="engine",
    ),
)

LOGGED = (
    Signal(
        "logged",
        "1",
        _MEAN,
        _AROUND,
        "what the script gave to watch.log",
        label="name",
        sporadic=True,
    ),
)
