"""The lines of Megatron-LM and of what grew from it (Megatron-DeepSpeed, GPT-NeoX).

What `training_log` prints: ` iteration 100/ 5000 | consumed samples: 1600 | ... | lm loss:
6.1E+00 | loss scale: 1.0 | grad norm: 1.2 | number of skipped iterations: 0 | number of nan
iterations: 0 |`. Losses are means over the iterations since the line before that were not skipped,
and one that is not above zero, or not a number, is left out of the line.
"""

from __future__ import annotations

import re

_ITERATION = re.compile(
    r"(?<!\w)iteration\s{1,16}(\d{1,16})\s{0,16}/\s{0,16}\d{1,16}\s{0,16}(?:\||$)"
)
_VALIDATION = re.compile(r"(?<!\w)validation loss at iteration (\d{1,16})\b")
_SKIPPED, _NAN = "number of skipped iterations", "number of nan iterations"
_TOTAL = frozenset({"lm loss", "lm_loss", "loss", "masked lm loss", "reduced_train_loss"})
_VALUE = " value"  # what the validation's lines put behind the name of a loss


class Lines:
    """Knows these lines, and what the loss was called in the last one."""

    def __init__(self) -> None:
        self._loss = "lm loss"

    def cells(self, line: str) -> dict[str, object] | None:
        """What a line of Megatron-LM says, or None."""
        if "iteration" not in line:
            return None
        if found := _ITERATION.search(line):
            return self._training(line, int(found[1]))
        if (found := _VALIDATION.search(line)) and "test set" not in line:
            values = _values(line[found.end() :])
            of_total = (name for name in values if name.removesuffix(_VALUE) in _TOTAL)
            loss = next((values[name] for name in of_total), None)
            return {"step": int(found[1]), "val_loss": loss}
        return None

    def _training(self, line: str, iteration: int) -> dict[str, object]:
        values = _values(line)
        skipped, nans = values.pop(_SKIPPED, None), values.pop(_NAN, None)
        self._loss = next((name for name in values if name in _TOTAL), self._loss)
        cells: dict[str, object] = {**values, "step": iteration}
        if nans:  # it names no value; the mean that it prints has none of these iterations
            cells[self._loss] = float("nan")
        if skipped is not None:
            cells[self._who_skipped(cells)] = float(skipped > 0)
        return cells

    def _who_skipped(self, cells: dict[str, object]) -> str:
        """A loss scaler that is at work skips what overflows; without one nobody should."""
        scale = cells.get("loss scale")
        return "skipped" if scale is None or scale == 1.0 else "overflow"


def _values(line: str) -> dict[str, float]:
    """The numbers of a line, by name; what another rank has printed into it is passed over."""
    values: dict[str, float] = {}
    for part in line.split("|"):
        name, colon, value = part.rpartition(":")
        if colon:
            try:
                values[name.strip()] = float(value)
            except ValueError:
                continue
    return values
