"""Streaming statistics, one a file: a class for one series, `update(value) -> score`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Protocol, TypeVar

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
    all else scores a number, which may be infinite. What it is made of is numbers and what has a
    method `copy`: a copy goes on as the original would. It holds at most 64 values and twice the
    sum of its whole parameters.
    """

    parameters: ClassVar[Mapping[str, Parameter]]

    def update(self, value: float) -> float:
        """Score one value, then learn from it."""
        ...


class Deferring(Detector, Protocol):
    """A detector that can learn from a value without working out its score, which takes longer.

    `learn` and `score` together are the same as `update`.
    """

    def learn(self, value: float) -> float:
        """Learn from a value. Returns what its score is not above, NaN if it has none."""
        ...

    def score(self) -> float:
        """The score of the last value that was finite, which has one."""
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


_Detector = TypeVar("_Detector", bound=Detector)


def copied(detector: _Detector) -> _Detector:
    """A copy that goes on as the original would, and apart from it."""
    other: _Detector = object.__new__(type(detector))
    vars(other).update(
        (name, value.copy() if hasattr(value, "copy") else value)
        for name, value in vars(detector).items()
    )
    return other
