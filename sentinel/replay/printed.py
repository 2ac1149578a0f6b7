"""What training scripts print themselves: names and numbers, in any of the usual ways.

`step:10/1000 train_loss:6.9 step_avg:96ms`, `iter 10: loss 3.2, time 140ms`, `step 250: train loss
2.4, val loss 2.5`, `step 3 | loss: 9.8 | lr: 2.4000e-04 | norm: 8.2 | tokens/sec: 118193`, and the
dictionaries of the HF Trainer, `{'loss': 2.3, 'grad_norm': 1.0, 'learning_rate': 5e-05}`. Only
names that are known (see names) are taken, and only lines that have one besides the step.
"""

from __future__ import annotations

import re

from sentinel.replay.names import EPOCH, STEP, TIME, Meaning, meaning

# Every repetition has a limit, so that no line takes longer than its length accounts for.
_WORD = r"[A-Za-z_][A-Za-z0-9_./-]{0,63}"
_NUMBER = r"[-+]?(?:\d[\d,]{0,31}(?:\.\d{0,31})?(?:e[-+]?\d{1,4})?|\.\d{1,31}|nan|inf(?:inity)?)"
_PAIR = re.compile(
    rf"(?<![A-Za-z0-9_./-])(?P<name>{_WORD}(?: {_WORD}){{0,3}})"
    r"['\"]?\]?(?:\s{0,8}[:=]\s{0,8}|\s{1,8})['\"]?"
    rf"(?P<number>{_NUMBER})(?P<unit>ms|s)?(?!\w|\.\w)",
    re.IGNORECASE,
)
_HINT = re.compile(r"loss|norm", re.IGNORECASE)
_MAX_PAIRS = 64
_TIMES = frozenset({"time", "dt", "step_avg", "step_time", "iter_time"})


class Lines:
    """Knows such lines."""

    def cells(self, line: str) -> dict[str, object] | None:
        """What a line says of a step, or None."""
        if _HINT.search(line) is None:
            return None
        cells: dict[str, object] = {}
        for count, pair in enumerate(_PAIR.finditer(line)):
            if count == _MAX_PAIRS:
                break
            self._take(pair, cells)
        return cells if cells.keys() - {"step", "epoch"} else None

    def _take(self, pair: re.Match[str], cells: dict[str, object]) -> None:
        value = float(pair["number"].replace(",", ""))
        name, known = _longest_known(pair["name"])
        if pair["unit"]:
            if name in _TIMES:
                seconds = value * 1e-3 if pair["unit"].lower() == "ms" else value
                cells.setdefault("step_seconds", seconds)
            return
        if known is None or known.series == TIME:
            return
        if known.series == STEP:
            name = "step"  # all its names count the same steps
        elif known.series == EPOCH:
            name = "epoch"
        cells.setdefault(name, value)


def _longest_known(name: str) -> tuple[str, Meaning | None]:
    """The end of what stands before a number, as many words as make a known name."""
    words = name.split(" ")
    for start in range(len(words)):
        candidate = " ".join(words[start:])
        if (known := meaning(candidate)) is not None:
            return candidate, known
    return words[-1], None
