"""A history as it should be read: every value in plain dictionaries."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from sentinel.store import Recording
from sentinel.store.bins import Bins, singles
from sentinel.store.history import History
from sentinel.store.history_reading import HistoryReader
from sentinel.store.history_row import ALONE, Form, Part, Row, by_rank, greatest

LAYERS = "layer_grad_norm"
Values = Mapping[tuple[str, str], float | None]  # by sheet and column; None: missing
RUN = "gpt"


def row(step: int, values: Values) -> Row:
    """A row of these values, at a time that follows from its step."""
    return shaped([step], [values])[0]


def shaped(steps: Iterable[int], each: Iterable[Values]) -> list[Row]:
    """Rows; those with the same columns share their form, as a run's do."""
    forms: dict[tuple[tuple[str, str], ...], Form] = {}
    found = []
    for step, values in zip(steps, each, strict=True):
        keys = tuple(values)
        if keys not in forms:
            sheets: dict[str, list[tuple[str, int]]] = {}
            for at, (sheet, column) in enumerate(keys):
                sheets.setdefault(sheet, []).append((column, at))
            forms[keys] = Form(
                tuple(
                    Part(
                        sheet,
                        tuple(column for column, _ in named),
                        np.array([at for _, at in named], np.intp),
                    )
                    for sheet, named in sheets.items()
                )
            )
        told = np.array([math.nan if one is None else one for one in values.values()])
        missing = np.array([one is None for one in values.values()])
        found.append(Row(step, 100.0 + step, singles(told, missing), forms[keys]))
    return found


def measured(
    loss: float | None, layers: int = 2, ranks: tuple[float, float] = (1.0, 2.0)
) -> Values:
    """A step of two ranks and so many layers."""
    return {
        (ALONE, "loss"): loss,
        (ALONE, greatest("loss")): float(np.argmax(ranks)),
        **{
            (LAYERS, f"layers.{at}"): None if loss is None else loss * (1 + at / 7)
            for at in range(layers)
        },
        **{(by_rank("loss"), str(rank)): value for rank, value in enumerate(ranks)},
    }


class Kept:
    """A history in a directory, and what reads it."""

    def __init__(self, state: Path, *, rows: int = 100, **limits: int) -> None:
        state.mkdir(exist_ok=True)
        self.state = state
        self._rows, self._limits = rows, limits
        self._open()

    def _open(self) -> None:
        self.recording = Recording.open(self.state)
        self.history = History(self.recording.database, rows=self._rows, **self._limits)
        self.reader = HistoryReader(Recording.look_into(self.state), self.history)

    def reopen(self) -> None:
        """As a daemon does that ends and starts again."""
        self.history.flush(everything=True)
        self.close()
        self._open()

    def close(self) -> None:
        """As a daemon does that is killed: nothing more is written."""
        self.reader.close()
        self.recording.close()

    def read(
        self, column: str = "loss", sheet: str = ALONE, length: int = 1, run: str = RUN
    ) -> Bins:
        """One column of all steps."""
        look = self.reader.look(run)
        if look is None:
            return Bins.none(1)
        bins, _ = look.bins(sheet, [column], *look.extent, length)
        return bins

    def values(self, column: str = "loss", sheet: str = ALONE) -> dict[int, float]:
        """The finite values of one column by step."""
        bins = self.read(column, sheet)
        kept = bins.at(bins.count[:, 0] > 0)
        return dict(zip(kept.starts.tolist(), kept.low[:, 0].tolist(), strict=True))
