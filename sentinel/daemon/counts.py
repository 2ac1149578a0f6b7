"""What the daemon counts about itself."""

from __future__ import annotations

from collections import Counter

from prometheus_client import Histogram

_FINE = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)
_COARSE = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Counts:
    """Counters and timings since the daemon started.

    `rejected` counts what was not taken from ranks, by reason, `refused` what was asked for by
    people and programs who may not; `last_frame` is when the newest frame came, on `steady()`.
    `ticks` counts the seconds for which the daemon's clock has done its work.
    """

    def __init__(self) -> None:
        self.connections = 0
        self.frames = 0
        self.last_frame: float | None = None
        self.ticks = 0
        self.rejected: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self.unrecorded = 0  # changes that could not be put on the record when they happened
        self.faults = 0  # errors inside the daemon that were caught
        self.judge = Histogram(
            "sentinel_daemon_judge_seconds",
            "Time to judge one message of a rank.",
            registry=None,
            buckets=_FINE,
        )
        self.lag = Histogram(
            "sentinel_daemon_lag_seconds",
            "How late the daemon's clock ticked.",
            registry=None,
            buckets=_COARSE,
        )
        self.order = Histogram(
            "sentinel_daemon_order_seconds",
            "From the frame that made a rule fire to its order leaving for the ranks.",
            registry=None,
            buckets=_FINE,
        )
