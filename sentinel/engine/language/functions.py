"""The functions that rules can call: what each takes, with an example, and remembers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import get_args

from sentinel.engine.detectors import DETECTORS, Detector
from sentinel.engine.language.expression import Missing, NonFinite, Score, StatisticName, Window

STATISTICS: Mapping[str, StatisticName] = {
    name: name for name in get_args(StatisticName) if name != "quantile"
}
TESTS: Mapping[str, type[NonFinite | Missing]] = {"nonfinite": NonFinite, "missing": Missing}


def _of_detector(name: str, kind: type[Detector]) -> str:
    if not kind.parameters:
        return f"one number, such as {name}(loss)"
    first, parameter = next(iter(kind.parameters.items()))
    return (
        f"a number and {', '.join(kind.parameters)}, "
        f"such as {name}(loss, {first}={parameter.default:g})"
    )


_TAKES: Mapping[str, str] = {
    **{name: f"a window, such as {name}(loss[200])" for name in STATISTICS},
    "quantile": "a window and a share from 0 to 1, such as quantile(loss[200], 0.9)",
    **{name: _of_detector(name, kind) for name, kind in DETECTORS.items()},
    "steps_until": "a window and a number that it may come to, such as "
    "steps_until(host_memory_used_bytes[200], host_memory_limit_bytes)",
    "by_rank": "the name of one signal, such as by_rank(loss)",
    "rank_outlier": "the name of one signal, such as rank_outlier(data_seconds)",
    "disagrees": "the name of one signal and a relative tolerance from 0 to 1, such as "
    "disagrees(grad_norm, tolerance=1e-5)",
    "seconds_since": 'the name of one signal, such as seconds_since(logged["val_loss"])',
    "nonfinite": "one number, such as nonfinite(loss)",
    "missing": "one number, such as missing(loss)",
}
USAGE: Mapping[str, str] = {name: f"{name} takes {takes}" for name, takes in _TAKES.items()}


def held(node: Window | Score) -> int:
    """How many values it remembers of each element."""
    if isinstance(node, Window):
        return node.length
    known = DETECTORS[node.detector].parameters
    return sum(int(value) for key, value in node.parameters if known[key].whole)
