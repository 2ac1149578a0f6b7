"""What is kept of a run is what its engine has judged, of every signal and of every rank."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest

from sentinel import wire
from sentinel.daemon.counts import Counts
from sentinel.daemon.historian import Historian
from sentinel.engine.evaluation.values import Source
from sentinel.engine.layout import Axis
from sentinel.engine.run import RunEngine
from sentinel.engine.step import JudgedStep
from sentinel.signals import CATALOG
from sentinel.store.history_row import ALONE, by_rank
from sentinel.wire import Frame, Hello, Series
from tests.store.past import RUN, Kept

SERIES = (
    *map(Series, ("loss", "step_seconds", "tokens_per_second", "summed_grad_norm", "lr")),
    *(Series("layer_update_norm", f"layers.{at}") for at in range(3)),
    *(Series("layer_weight_norm", f"layers.{at}") for at in range(3)),
    *(Series("collective_seconds", kind) for kind in ("all_reduce", "all_gather")),
    Series("tensor_grad_norm", "layers.0.weight"),
)
LATER = (Series("layer_update_norm", "layers.3"), Series("host_memory_used_bytes"))


class Witness(Historian):
    """One that also remembers what each step was."""

    def __init__(self, run: str, kept: Kept, **options: int) -> None:
        super().__init__(run, kept.history, Counts(), **options)
        self.judged: dict[int, Mapping[Series, float]] = {}

    def stepped(self, source: Source, axes: Mapping[str, Axis], step: int, now: float) -> None:
        """See `Observer`."""
        super().stepped(source, axes, step, now)
        assert isinstance(source, JudgedStep)
        self.judged[step] = dict(source.all)


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Kept]:
    kept = Kept(tmp_path)
    yield kept
    kept.close()


def hello(rank: int, ranks: int) -> Hello:
    return Hello(
        version=wire.VERSION,
        run=RUN,
        rank=rank,
        world_size=ranks,
        incarnation=str(rank),
        host="node",
        pid=rank,
        device="cpu",
        trainer="test",
        step=0,
        series=SERIES,
    )


def frame(step: int, sequence: int, values: list[float], missing: set[int]) -> Frame:
    bits = np.zeros(8 * ((len(values) + 7) // 8), np.uint8)
    bits[[*missing]] = 1
    packed = np.packbits(bits, bitorder="little").tobytes() if missing else b""
    return Frame(step, sequence, float(step), np.array(values).tobytes(), packed)


def test_every_step_is_kept_as_it_was_judged(kept: Kept) -> None:
    """Of three ranks that leave things out, find more, measure NaN, and go back."""
    chance = random.Random(3)
    engine, ranks = RunEngine(RUN, []), 3
    witness = Witness(RUN, kept)
    engine.watch(witness)
    for rank in range(ranks):
        engine.feed(rank, hello(rank, ranks), 0.0)
    series, own = SERIES, {rank: dict[int, float]() for rank in range(ranks)}
    for sequence, step in enumerate((*range(1, 120), *range(60, 150)), 1):
        if sequence == 40:
            series = (*SERIES, *LATER)
            for rank in range(ranks):
                engine.feed(rank, wire.Extension(LATER), 0.0)
        for rank in range(ranks):
            values = [chance.choice((1.5, 2.25, chance.random(), 0.0)) for _ in series]
            missing = {at for at in range(1, len(series)) if chance.random() < 0.1}
            if chance.random() < 0.05:
                values[chance.randrange(len(series))] = chance.choice((math.nan, math.inf))
            own[rank][step] = values[0]
            engine.feed(rank, frame(step, sequence, values, missing), float(sequence))
        if sequence in (30, 100):
            kept.reopen()
            witness._history = kept.history  # the daemon has restarted, its engine has not
    assert engine.step == 149

    known = {one for step in witness.judged.values() for one in step}
    for one in known:
        if CATALOG[one.signal].label == "tensor":
            continue
        sheet, column = (one.signal, one.label) if one.label else (ALONE, one.signal)
        found = _read(kept, sheet, column)
        told = {step: all_of[one] for step, all_of in witness.judged.items() if one in all_of}
        assert found == {step: _single(value) for step, value in told.items()}, one
    for rank in range(ranks):
        found = _read(kept, by_rank("loss"), str(rank))
        assert found == {step: _single(value) for step, value in own[rank].items()}
    look = kept.reader.look(RUN)
    assert look is not None
    assert not any(one.sheet == "tensor_grad_norm" for one in look.columns())


def _read(kept: Kept, sheet: str, column: str) -> dict[int, float | str]:
    bins = kept.read(column, sheet)
    found: dict[int, float | str] = {}
    for at, step in enumerate(bins.starts.tolist()):
        if bins.count[at, 0]:
            found[step] = float(bins.low[at, 0])
        elif bins.odd[at, 0]:
            found[step] = {1: "nan", 2: "inf", 4: "-inf"}[int(bins.kinds[at, 0])]
    return found


def _single(value: float) -> float | str:
    return float(np.float32(value)) if math.isfinite(value) else str(float(value))


def test_of_many_ranks_the_greatest_of_a_few_steps_is_kept_and_none_is_lost(kept: Kept) -> None:
    engine, ranks = RunEngine(RUN, []), 40
    witness = Witness(RUN, kept, cells=32)  # of 40 ranks and three signals: every fourth step
    engine.watch(witness)
    for rank in range(ranks):
        engine.feed(rank, hello(rank, ranks), 0.0)
    for step in range(1, 41):
        for rank in range(ranks):
            values = [1.0] * len(SERIES)
            if (rank, step) == (17, 22):
                values[1] = 9.0
            engine.feed(rank, frame(step, step, values, set()), float(step))

    slow = kept.read("17", by_rank("step_seconds"))
    assert slow.starts.tolist() == [*range(4, 41, 4)]
    assert slow.high[:, 0].tolist() == [9.0 if step == 24 else 1.0 for step in slow.starts]
    every = kept.read("step_seconds")
    assert every.high[:, 0].tolist() == [9.0 if step == 22 else 1.0 for step in range(1, 41)]
    assert every.rank[21, 0] == 17, "which rank it was is known of every step"


def test_a_fault_of_the_history_disturbs_no_judging(kept: Kept) -> None:
    class Broken:
        def append(self, run: str, row: object) -> None:
            raise RuntimeError("no room")

    counts = Counts()
    engine = RunEngine(RUN, [])
    engine.watch(Historian(RUN, Broken(), counts))
    engine.feed(0, hello(0, 1), 0.0)
    for step in (1, 2):
        engine.feed(0, frame(step, step, [1.0] * len(SERIES), set()), float(step))
    assert (engine.step, counts.faults) == (2, 2)
