"""Streaming statistics, one a file: `update(values) -> scores`, vectorized over elements."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from sentinel.engine.detectors.robust_z import RobustZ


class Detector(Protocol):
    """What every detector is. The contract test runs over all of them.

    Values that are not finite never enter a baseline and score NaN, and so does whatever comes
    before the detector is warm; all else scores a number, which may be infinite.
    """

    default_window: ClassVar[int]

    def __init__(self, window: int) -> None: ...

    def update(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Score one value of each element, then learn from it."""
        ...


DETECTORS: Mapping[str, type[Detector]] = {"robust_z": RobustZ}
