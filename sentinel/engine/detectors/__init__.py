"""Streaming statistics, one a file: a class for one series, `update(value) -> score`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Protocol

from sentinel.engine.detectors.cusum import Cusum
from sentinel.engine.detectors.ewma_z import EwmaZ
from sentinel.engine.detectors.parameter import Parameter
from sentinel.engine.detectors.plateau import Plateau
from sentinel.engine.detectors.rising import Rising
from sentinel.engine.detectors.robust_z import RobustZ
from sentinel.engine.detectors.spike_score import SpikeScore
from sentinel.engine.detectors.surge import Surge


class Detector(Protocol):
    """What every detector is. The contract test runs over all of them.

    It is made with its parameters by name, each within its bounds. Values that are not finite
    never enter a baseline and score NaN, and so does whatever comes before the detector is warm;
    all else scores a number, which may be infinite. A deep copy goes on as the original would.
    It holds at most 64 values and twice the sum of its whole parameters.
    """

    parameters: ClassVar[Mapping[str, Parameter]]

    def update(self, value: float) -> float:
        """Score one value, then learn from it."""
        ...


DETECTORS: Mapping[str, type[Detector]] = {
    "robust_z": RobustZ,
    "ewma_z": EwmaZ,
    "cusum": Cusum,
    "spike_score": SpikeScore,
    "surge": Surge,
    "rising": Rising,
    "plateau": Plateau,
}


def build(name: str, parameters: Mapping[str, float]) -> Detector:
    """A new detector; what is not given is as the detector itself has it."""
    kind = DETECTORS[name]
    given = {
        key: int(value) if kind.parameters[key].whole else value
        for key, value in parameters.items()
    }
    return kind(**given)
