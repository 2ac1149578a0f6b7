"""Streaming statistics, one a file: a class for one series, `update(value) -> score`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Protocol

from sentinel.engine.detectors.parameter import Parameter
from sentinel.engine.detectors.robust_z import RobustZ


class Detector(Protocol):
    """What every detector is. The contract test runs over all of them.

    It is made with its parameters by name, each within its bounds. Values that are not finite
    never enter a baseline and score NaN, and so does whatever comes before the detector is warm;
    all else scores a number, which may be infinite.
    """

    parameters: ClassVar[Mapping[str, Parameter]]

    def update(self, value: float) -> float:
        """Score one value, then learn from it."""
        ...


DETECTORS: Mapping[str, type[Detector]] = {"robust_z": RobustZ}


def build(name: str, parameters: Mapping[str, float]) -> Detector:
    """A new detector; what is not given is as the detector itself has it."""
    kind = DETECTORS[name]
    given = {
        key: int(value) if kind.parameters[key].whole else value
        for key, value in parameters.items()
    }
    return kind(**given)
