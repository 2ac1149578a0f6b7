"""Memory that a log has in per cent, as bytes in use and their limit."""

from __future__ import annotations

from sentinel.replay.names import DEVICE_PERCENT, HOST_PERCENT
from sentinel.wire import Series

# What a percentage becomes: bytes in use, and of how many.
USED_AND_LIMIT = {
    HOST_PERCENT: (Series("host_memory_used_bytes"), Series("host_memory_limit_bytes")),
    DEVICE_PERCENT: (Series("device_memory_used_bytes"), Series("device_memory_limit_bytes")),
}
_MIB = 1 << 20


class Share:
    """One memory, whose limit follows from the first row that has what it takes.

    A limit does not change while a job runs, but its estimate from a rounded percentage would, from
    row to row. Where only the percentage is logged the limit is 100 and what is in use the
    percentage, so that whatever compares the two holds.
    """

    def __init__(self, of: Series) -> None:
        self._of_host = of == HOST_PERCENT
        self._limit = 0.0

    def in_bytes(self, percent: float, other: float | None) -> tuple[float, float]:
        """Bytes in use and the limit; `other` is what the log has besides the percentage.

        For the host that is the available MiB, for a device the bytes in use.
        """
        if not self._limit:
            self._limit = self._estimate(percent, other or 0.0)
        return self._limit * percent / 100, self._limit

    def _estimate(self, percent: float, other: float) -> float:
        if not (other > 0 and 0 < percent <= 100):
            return 100.0
        if not self._of_host:
            return other * 100 / percent
        return other * _MIB * 100 / (100 - percent) if percent < 100 else 100.0
