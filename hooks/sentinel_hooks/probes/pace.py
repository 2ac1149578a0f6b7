"""How often what is dear to read may be read."""

from __future__ import annotations

import math


class Pace:
    """A reading that may take one part in `share` of the time, and comes `least` seconds apart.

    >>> pace = Pace(share=200, least=5.0)
    >>> pace.due(10.0)
    True
    >>> pace.took(10.0, 10.1)
    >>> pace.due(29.0), pace.due(31.0)
    (False, True)
    """

    def __init__(self, *, share: float = 200.0, least: float = 0.0) -> None:
        self._share = share
        self._least = least
        self._again = -math.inf

    def due(self, now: float) -> bool:
        """Whether it is time, in seconds of any clock that never goes back."""
        return now >= self._again

    def took(self, began: float, ended: float) -> None:
        """It was read between these two times."""
        self._again = ended + max(self._least, self._share * (ended - began))
