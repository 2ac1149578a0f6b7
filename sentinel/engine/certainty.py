"""How sure it is that an incident's cause is what it names, in one line that a person can weigh.

It begins with "measured", "inferred" or "not known", and goes on with the reason.
"""

from __future__ import annotations

from collections.abc import Mapping

from sentinel.engine.comparison import compares, is_of_agreement
from sentinel.engine.language.expression import Expression
from sentinel.engine.transition import Cause
from sentinel.signals import CATALOG, Stage

HERE = "measured on this rank"
NO_MAJORITY = "not known which rank: they differ, and no more than half of them agree"

# Of what the engine knows by itself. The signal is the first that the rule names.
_BY_ENGINE: Mapping[str, str] = {
    "silence": "measured: nothing is heard of this rank any more; why is not known",
    "lost": "measured: this rank left without a word; why is not known",
    "failed": "measured: its script said so itself, before any other rank's did",
    "stall": "inferred: it is alive, and has not entered the collective that others wait in",
    "collective_lag": "inferred: it has not entered the collective that others wait in",
}
_BY_ENGINE_OF_ALL: Mapping[str, str] = {
    "collective_hang": "not known which rank: all stand in the same collective, none is behind",
}


def certainty(expression: Expression, cause: Cause) -> str:
    """What can be said of a cause that an alert of a rule with this expression names."""
    signal = CATALOG[expression.signal]
    if cause.rank is None:
        return _of_all(cause, by_engine=signal.made_by == "engine")
    if signal.made_by == "engine":
        return _BY_ENGINE.get(signal.name, HERE)
    if is_of_agreement(expression):
        return "inferred: most of those that should say the same do, and this rank does not"
    if signal.name == "exposed_communication_seconds" and compares(expression):
        return "inferred: the others wait in collectives, and this rank waits least"
    if signal.stage in (Stage.REDUCTION, Stage.OPTIMIZER):
        return f"{HERE}, but after gradients were combined: it may have come from another"
    return HERE


def _of_all(cause: Cause, *, by_engine: bool) -> str:
    if by_engine:
        return _BY_ENGINE_OF_ALL.get(cause.signal, "measured of the whole run")
    where = f"measured in {cause.module}, " if cause.module else ""
    return f"{where}not known on which rank: the number is of all ranks together"


def with_others(said: str, others: int) -> str:
    """The same, where the alert began for so many other ranks at the same step."""
    if not others or not said.startswith(HERE):
        return said
    return f"{said} (and on {others} other{'s' * (others != 1)} at the same step)"
