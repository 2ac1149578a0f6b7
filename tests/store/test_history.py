"""The history gives back what was judged, whatever happened to the run and to the daemon."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from sentinel.errors import StateError
from sentinel.store.bins import NOBODY, Bins
from sentinel.store.history_row import ALONE, greatest
from sentinel.store.sheet import pack_bins, pack_rows, unpack_bins, unpack_rows
from tests.store import jobs
from tests.store.past import LAYERS, RUN, Kept, Values, measured, row, shaped

ANY = st.one_of(
    st.none(),
    st.floats(-(2.0**100), 2.0**100, width=32),
    st.sampled_from([math.nan, math.inf, -math.inf, 0.0, -1.5, 2.0]),
)
# A stretch of training: how far the run goes back before it, how many steps it does (and by how
# much their numbers rise), how many layers there are by then, and what happens afterwards.
STRETCHES = st.lists(
    st.tuples(
        st.one_of(st.just(0), st.integers(0, 150), st.just(1 << 30)),
        st.integers(1, 130),
        st.integers(1, 3),
        st.integers(0, 2),
        st.sampled_from(["nothing", "flush", "restart"]),
        st.lists(ANY, min_size=3, max_size=7),
    ),
    min_size=1,
    max_size=4,
)


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Kept]:
    kept = Kept(tmp_path)
    yield kept
    kept.close()


@settings(max_examples=25, deadline=None, phases=(Phase.explicit, Phase.reuse, Phase.generate))
@given(STRETCHES, st.sampled_from([1, 2, 16, 64, 128, 4096]))
def test_what_is_read_is_what_was_judged_last(
    stretches: list[tuple[int, int, int, int, str, list[float | None]]], length: int
) -> None:
    judged: dict[int, Values] = {}
    with tempfile.TemporaryDirectory() as name:
        kept, step, layers = Kept(Path(name)), 0, 1
        for back, count, apart, more, then, values in stretches:
            step, layers = max(0, step - back), layers + more
            done = range(step + 1, step + 1 + count * apart, apart)
            if done[0] <= 1:
                judged.clear()
            each = [
                measured(
                    values[at % len(values)],
                    layers,
                    (float(at % 5), float(values[at % len(values)] or 0.0)),
                )
                for at in done
            ]
            judged |= dict(zip(done, each, strict=True))
            for one in shaped(done, each):
                kept.history.append(RUN, one)
            step = done[-1]
            if then == "flush":
                kept.history.flush(everything=True)
            elif then == "restart":
                kept.reopen()
        for key in [*next(reversed(judged.values()))]:
            if key[1] != greatest("loss"):
                _compare(kept, key, judged, length)
        kept.close()


def _compare(kept: Kept, key: tuple[str, str], judged: dict[int, Values], length: int) -> None:
    stretches: dict[int, list[int]] = {}
    for step in sorted(judged):
        stretches.setdefault(step // length, []).append(step)
    found = kept.read(key[1], key[0], length)
    place = {int(start) // length: at for at, start in enumerate(found.starts)}
    assert len(place) == len(found)
    for stretch, steps in stretches.items():
        told = [value for step in steps if (value := judged[step].get(key)) is not None]
        finite = [value for value in told if math.isfinite(value)]
        at = place.get(stretch)
        if at is None:  # nobody measured anything on this sheet then
            assert not told
            continue
        assert found.count[at, 0] == len(finite)
        assert found.odd[at, 0] == len(told) - len(finite)
        if finite:
            assert found.low[at, 0] == np.float32(min(finite))
            assert found.high[at, 0] == np.float32(max(finite))
            assert found.mean[at, 0] == pytest.approx(
                np.mean(finite), rel=1e-5, abs=1e-3 * max(map(abs, finite))
            )
        if key == (ALONE, "loss") and finite:
            tops = [step for step in steps if judged[step][key] == max(finite)]
            assert found.rank[at, 0] in {judged[top][ALONE, greatest("loss")] for top in tops}
    assert set(place) <= {*stretches}


def test_missing_is_not_nan_and_what_is_finite_stays_finite(kept: Kept) -> None:
    told = [None, math.nan, math.inf, -math.inf, 1e300, -1e300, 1e-300, 0.1]
    for step, value in enumerate(told, 1):
        kept.history.append(RUN, row(step, measured(value)))
    for _ in range(2):  # from memory, then from the file
        bins = kept.read()
        assert bins.odd[:, 0].tolist() == [0, 1, 1, 1, 0, 0, 0, 0]
        assert bins.kinds[:, 0].tolist() == [0, 1, 2, 4, 0, 0, 0, 0]
        assert bins.count[:, 0].tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
        largest = float(np.finfo(np.float32).max)
        assert bins.low[4:, 0].tolist() == [largest, -largest, 0.0, np.float32(0.1)]
        kept.reopen()


def test_a_run_that_begins_again_does_not_show_what_another_of_its_name_has_left(
    kept: Kept,
) -> None:
    for step in range(1, 300):
        kept.history.append(RUN, row(step, measured(1.0, layers=3)))
    kept.reopen()
    for step in range(1, 4):
        kept.history.append(RUN, row(step, measured(2.0, layers=1)))
    assert kept.values() == {1: 2.0, 2: 2.0, 3: 2.0}
    kept.reopen()
    assert kept.values() == {1: 2.0, 2: 2.0, 3: 2.0}
    look = kept.reader.look(RUN)
    assert look is not None
    assert [one.name for one in look.columns() if one.sheet == LAYERS] == ["layers.0"]


def test_what_was_done_before_a_rollback_is_shown_until_it_is_done_again(kept: Kept) -> None:
    for step in range(1, 201):
        kept.history.append(RUN, row(step, measured(1.0)))
    kept.history.flush(everything=True)
    for step in range(50, 61):
        kept.history.append(RUN, row(step, measured(2.0)))
    values = kept.values()
    assert [step for step, value in values.items() if value == 2.0] == [*range(50, 61)]
    assert len(values) == 200


def test_a_label_may_be_called_as_columns_of_ranks_are(kept: Kept) -> None:
    values: Values = {("logged", "best"): 1.0, ("logged", greatest("best")): 7.0}
    for one in shaped(range(1, 301), [values] * 300):
        kept.history.append(RUN, one)
    for length in (1, 128):
        bins = kept.read(greatest("best"), "logged", length)
        assert bins.high[:, 0].tolist() == [7.0] * len(bins)
        assert (kept.read("best", "logged", length).rank == NOBODY).all()
        kept.reopen()


def test_runs_are_kept_apart(kept: Kept) -> None:
    for step in range(1, 150):
        kept.history.append("one", row(step, measured(1.0)))
        kept.history.append("two", row(step + 1000, measured(2.0)))
    kept.reopen()
    assert kept.read(run="one").starts[[0, -1]].tolist() == [1, 149]
    assert kept.read(run="two").starts[[0, -1]].tolist() == [1001, 1149]
    assert kept.reader.look("three") is None


def test_pieces_of_a_block_give_way_to_the_whole(kept: Kept) -> None:
    for step in range(1, 131):
        kept.history.append(RUN, row(step, measured(float(step))))
        kept.history.flush(everything=True)
    found = kept.recording.database.rows(
        "SELECT count(*) AS n, sum(whole) AS w FROM history_blocks"
    )
    assert found[0]["w"] == 1
    assert int(str(found[0]["n"])) <= 17  # the whole, and what there is of the next
    assert len(kept.values()) == 130
    kept.history.close_run(RUN)
    kept.history.flush()
    assert kept.history.runs() == []
    assert len(kept.values()) == 130


def test_the_disk_it_takes_is_bounded_and_what_matters_most_stays(tmp_path: Path) -> None:
    noise = np.random.default_rng(0)
    kept = Kept(tmp_path, limit=300_000)
    for run in ("old", RUN):
        for step in range(1, 3001):
            kept.history.append(run, row(step, measured(float(noise.random()), layers=40)))
            if step % 500 == 0:
                kept.history.flush(everything=True)
        if run == "old":
            assert len(kept.read(run="old")) == 3000
            kept.history.close_run("old")
            kept.history.flush()

    (size,) = kept.recording.database.rows(
        "SELECT sum(length(coarse) + coalesce(length(body), 0)) AS n FROM history_sheets"
    )
    assert int(str(size["n"])) <= 300_000
    assert kept.reader.look("old") is None, "the oldest run goes first"
    assert len(kept.read()) == 3000, "signals without a label stay exact"
    look = kept.reader.look(RUN)
    assert look is not None
    bins, length = look.bins(LAYERS, ["layers.7"], 1, 3000, 1)
    assert length == 64, "of labels, stretches stay for the whole run"
    assert bins.starts.tolist() == [1, *range(64, 3000, 64)]
    bins, length = look.bins(LAYERS, ["layers.7"], 2950, 3000, 1)
    assert (len(bins), length) == (51, 1), "and what is newest stays exact"
    kept.close()

    smaller = Kept(tmp_path, limit=20_000)
    smaller.history.append("new", row(1, measured(1.0)))
    smaller.history.flush(everything=True)
    assert smaller.reader.look(RUN) is None
    assert len(smaller.read(run="new")) == 1
    smaller.close()


def test_what_cannot_be_written_waits_in_bounded_memory_and_is_counted(tmp_path: Path) -> None:
    said = json.loads(jobs.run("history_job.py", tmp_path, "full"))
    assert "telemetry.db" in said["refused"]
    assert said["waiting"] <= 20_000
    assert said["dropped"] > 50
    assert said["readable"] == 1000 - said["dropped"], "what waits can be read"
    assert said["afterwards"] == 1000 - said["dropped"]


def test_only_the_last_seconds_are_lost_when_the_daemon_is_killed(tmp_path: Path) -> None:
    with jobs.started("history_job.py", tmp_path, "endless") as job:
        for _ in range(30):
            flushed = int(jobs.line(job))
        job.kill()
        job.wait()
    kept = Kept(tmp_path)
    values = kept.values()
    assert len(values) >= flushed
    assert [*values] == [*range(1, len(values) + 1)]
    assert all(value == step for step, value in values.items())
    step = len(values) + 1
    kept.history.append(RUN, row(step, measured(float(step))))
    assert len(kept.values()) == step, "history goes on"
    kept.close()


def test_a_fault_of_ours_is_told_once_and_costs_its_own_steps_only(kept: Kept) -> None:
    kept.history.append(RUN, row(1, measured(1.0)))
    kept.history.append("odd", row(1 << 70, measured(1.0)))
    with pytest.raises(OverflowError):
        kept.history.flush(everything=True)
    assert kept.history.dropped == 2
    kept.history.append(RUN, row(2, measured(2.0)))
    kept.history.flush(everything=True)
    assert kept.values() == {2: 2.0}


@given(st.binary(max_size=200))
def test_damaged_sheets_are_refused_and_never_crash(packed: bytes) -> None:
    for unpack in (unpack_rows, unpack_bins):
        with pytest.raises(StateError):
            unpack(packed)


def test_a_sheet_that_was_cut_short_is_refused() -> None:
    at, values = np.arange(4, dtype=np.int32), np.ones((4, 4), np.float32)
    whole = pack_rows(at, at, values)
    bins = pack_bins(at, Bins.of(np.arange(4), np.arange(4.0), values, None))
    for end in range(len(whole)):
        with pytest.raises(StateError):
            unpack_rows(whole[:end])
    for end in range(len(bins)):
        with pytest.raises(StateError):
            unpack_bins(bins[:end])
