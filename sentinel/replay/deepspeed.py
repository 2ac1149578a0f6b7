"""The lines that DeepSpeed prints by itself.

`step=10, skipped=0, lr=[0.001], mom=[...]` every `steps_per_print` steps, with the number of steps
skipped so far; the pipeline engine's `steps: 10 loss: 2.3 iter time (s): 0.5 samples/sec: 64`; and
"OVERFLOW!" or "Overflow detected" from the loss scaler, which says nothing of the step: it is
counted for the next line that does.
"""

from __future__ import annotations

import re

_STEP = re.compile(r"\bstep=(\d{1,16}), skipped=(\d{1,16}), lr=\[([^],]*)")
_PIPELINE = re.compile(
    r"\bsteps: (\d{1,16}) loss: (\S+) iter time \(s\): (\S+)(?: samples/sec: (\S+))?"
)
_OVERFLOW = re.compile(r"OVERFLOW!|Overflow detected\. Skipping step|Grad overflow on iteration")
_SCALE = re.compile(r"[Aa]ttempted loss scale: [\d.e+]+, (?:but hysteresis|reducing to ([\d.e+]+))")


class Lines:
    """Knows these lines, and what was skipped up to the last one."""

    def __init__(self) -> None:
        self._skipped = 0
        self._overflowed = False
        self._scales = False  # whether a loss scaler has been heard of
        self._scale: float | None = None

    def cells(self, line: str) -> dict[str, object] | None:
        """What a line of DeepSpeed says, or None."""
        if "step" not in line and "verflow" not in line:
            return None
        if _OVERFLOW.search(line):
            self._overflowed = self._scales = True
            scale = _SCALE.search(line)
            if scale is not None and scale[1]:
                self._scale = _number(scale[1])
            return {}
        if found := _STEP.search(line):
            return self._progress(int(found[1]), int(found[2]), _number(found[3]))
        if found := _PIPELINE.search(line):
            return {
                "step": int(found[1]),
                "loss": _number(found[2]),
                "step_seconds": _number(found[3]),
            }
        return None

    def _progress(self, step: int, skipped: int, lr: float | None) -> dict[str, object]:
        cells: dict[str, object] = {"step": step, "lr": lr}
        more = skipped > self._skipped
        cells["skipped"] = float(more and not self._overflowed)
        if self._scales:
            cells["overflow"] = float(self._overflowed)
            cells["loss_scale"] = self._scale
        self._skipped, self._overflowed = skipped, False
        return cells


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
