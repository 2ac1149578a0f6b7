"""How much of a step Sentinel may take, and what is measured more rarely when it takes more.

Pure: it is fed with seconds and returns decisions.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from statistics import median

WINDOW = 50  # steps that a decision rests on: their medians, so that a hiccup decides nothing
CAP = 1000  # steps; nothing is measured more rarely than this
FEW = 5  # measurements of a probe, below which nothing is known of its cost
NEGLIGIBLE = 0.1  # of the budget: what costs less in all is not worth measuring more rarely


@dataclass(frozen=True)
class Decision:
    """From some step on, each of these probes measures the steps that its interval divides.

    `step_seconds` is how long a step takes at present.
    """

    every: Mapping[str, int]
    reason: str
    step_seconds: float


class Budget:
    """Watches what the probes of one rank take of its steps.

    What a step costs is taken to be the median of what is always spent, and for each probe that
    may be made rarer the median of what a measurement of it takes, over its interval. While that
    is past `share` of the median step, the interval of the dearest of them is doubled, up to
    `CAP`: until the whole is within the budget, or so little is left of these probes that the
    budget is exceeded by what is always measured. Nothing is ever measured more often again.
    """

    def __init__(self, share: float, window: int = WINDOW) -> None:
        self.share = share
        self._steps: deque[float] = deque(maxlen=window)
        self._fixed: deque[float] = deque(maxlen=window)
        self._spent: dict[str, deque[float]] = {}

    def observe(self, step: float, cost: float, spent: Mapping[str, float]) -> None:
        """A step took so many seconds, our code so many of them, and of these each of the probes
        that have measured it and may be made rarer so many."""
        self._steps.append(step)
        self._fixed.append(cost - sum(spent.values()))
        for probe, seconds in spent.items():
            known = self._spent.get(probe)
            if known is None:
                known = self._spent[probe] = deque(maxlen=self._steps.maxlen)
            known.append(seconds)

    def decide(self, every: Mapping[str, int]) -> Decision | None:
        """What is to change, once for each full window; `every` are the intervals now."""
        if len(self._steps) != self._steps.maxlen:
            return None
        step, fixed = max(median(self._steps), 1e-9), median(self._fixed)
        self._steps.clear()
        self._fixed.clear()
        each = {
            probe: median(self._spent[probe])
            for probe in every
            if len(self._spent.get(probe, ())) >= FEW
        }
        took = fixed + _amortized(each, every)
        chosen = dict(every)
        while self._is_worth_it(fixed, _amortized(each, chosen), step):
            dear = [probe for probe in each if chosen[probe] < CAP]
            if not dear:
                break
            dearest = max(dear, key=lambda probe: (each[probe] / chosen[probe], probe))
            chosen[dearest] = min(CAP, 2 * chosen[dearest])
        changed = {probe: n for probe, n in chosen.items() if n != every[probe]}
        if not changed:
            return None
        reason = f"over the budget of {_percent(self.share)}: took {_percent(took / step)}"
        return Decision(changed, f"{reason} of the step", step)

    def _is_worth_it(self, fixed: float, rest: float, step: float) -> bool:
        allowed = self.share * step
        return fixed + rest > allowed and rest > NEGLIGIBLE * allowed


def _amortized(each: Mapping[str, float], every: Mapping[str, int]) -> float:
    return sum(seconds / every[probe] for probe, seconds in each.items())


def _percent(share: float) -> str:
    return f"{100 * share:.2g}%"


def steps_ahead(seconds: float, step_seconds: float) -> int:
    """In how many steps a change can take effect, so that all ranks have heard of it by then."""
    return max(10, ceil(seconds / step_seconds))
