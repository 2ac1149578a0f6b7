"""Recordings give back every message as it came, within bounds of disk and memory."""

from __future__ import annotations

import math
import random
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sentinel import wire
from sentinel.errors import StateError
from sentinel.store import Recorded, Recording, Store
from sentinel.store.chunk import opens, pack, unpack

BODIES = st.none() | st.binary(max_size=2000)
ENTRIES = st.builds(
    Recorded,
    st.floats(allow_nan=False),
    st.integers(0, wire.MAX_RANKS - 1),
    BODIES,
)


def hello(rank: int, incarnation: str = "a") -> bytes:
    """The body of a real Hello."""
    message = wire.Hello(
        version=wire.VERSION,
        run="gpt",
        rank=rank,
        world_size=4,
        incarnation=incarnation,
        host="node-a",
        pid=1,
        device="cpu",
        trainer="test",
        step=0,
        series=(wire.Series("loss"),),
    )
    return wire.encode(message)[4:]


@pytest.fixture
def recording(tmp_path: Path) -> Iterator[Recording]:
    recording = Recording.open(tmp_path)
    yield recording
    recording.close()


@given(st.lists(ENTRIES, max_size=30))
def test_blocks_give_back_what_was_put_in(entries: list[Recorded]) -> None:
    assert list(unpack(*pack(entries))) == entries


@given(st.binary(max_size=300), st.integers(0, 1))
def test_damaged_blocks_are_refused_and_never_crash(block: bytes, codec: int) -> None:
    try:
        entries = list(unpack(codec, block))
    except StateError:
        return
    assert sum(16 + len(entry.body or b"") for entry in entries) == (
        len(block) if codec == 0 else 0
    )


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["a", "b"]), ENTRIES, st.booleans()), max_size=40))
def test_messages_come_back_in_order_whenever_they_were_flushed(
    appended: list[tuple[str, Recorded, bool]],
) -> None:
    with tempfile.TemporaryDirectory() as name:
        recording = Recording.open(Path(name))
        for run, (now, rank, body), flush in appended:
            recording.append(run, rank, now, body)
            if flush:
                recording.flush()
        recording.flush()
        for run in ("a", "b"):
            expected = [entry for its_run, entry, _ in appended if its_run == run]
            assert list(recording.messages(run)) == expected
        assert recording.runs() == list(dict.fromkeys(run for run, _, _ in appended))
        recording.close()


def test_runs_come_back_after_reopening(tmp_path: Path) -> None:
    Store.open(tmp_path).close()
    first = Recording.open(tmp_path)
    first.append("gpt", 3, 1.5, b"frame")
    first.append("gpt", 3, 2.5, None)
    assert first.flush() == 2
    assert first.flush() == 0
    first.close()

    second = Recording.open(tmp_path, readonly=True)
    assert list(second.messages("gpt")) == [Recorded(1.5, 3, b"frame"), Recorded(2.5, 3, None)]
    assert list(second.messages("unknown")) == []
    second.close()


def test_what_opens_a_connection_is_known_by_its_first_bytes() -> None:
    assert opens(hello(0))
    assert not opens(wire.encode(wire.Goodbye("finished", "hello"))[4:])
    assert not opens(None)


def test_the_disk_it_takes_is_bounded_and_what_is_left_can_be_read(tmp_path: Path) -> None:
    recording = Recording.open(tmp_path, limit=200_000)
    for incarnation in ("a", "b"):
        for rank in range(4):
            recording.append("gpt", rank, 0.0, hello(rank, incarnation))
    recording.flush()
    for n in range(400):
        recording.append("gpt", n % 4, float(n), random.Random(n).randbytes(2000))
        recording.flush()

    (row,) = recording._database.rows("SELECT sum(length(body)) AS total FROM blocks")
    assert 100_000 < int(str(row["total"])) <= 200_000
    left = list(recording.messages("gpt"))
    assert [entry.body for entry in left[:4]] == [hello(rank, "b") for rank in range(4)]
    times = [entry.now for entry in left[4:]]
    assert times == sorted(times)
    assert times[-1] == 399.0
    assert times[0] > 0.0
    recording.close()

    again = Recording.open(tmp_path, limit=50_000)
    again.append("gpt", 0, 400.0, b"x")
    again.flush()
    (row,) = again._database.rows("SELECT sum(length(body)) AS total FROM blocks")
    assert int(str(row["total"])) <= 50_000
    again.close()


def test_a_run_that_is_gone_from_the_disk_reads_as_its_openings(tmp_path: Path) -> None:
    recording = Recording.open(tmp_path, limit=1)
    recording.append("gpt", 0, 1.0, hello(0))
    recording.append("gpt", 0, 2.0, b"frame")
    recording.flush()

    assert list(recording.messages("gpt")) == [Recorded(1.0, 0, hello(0))]
    recording.close()


def test_appending_and_flushing_may_happen_at_the_same_time(recording: Recording) -> None:
    done = threading.Event()

    def flush() -> None:
        while not done.is_set():
            recording.flush()

    worker = threading.Thread(target=flush)
    worker.start()
    for n in range(20_000):
        recording.append("gpt", 0, float(n), b"frame")
    done.set()
    worker.join()
    recording.flush()

    assert [entry.now for entry in recording.messages("gpt")] == [float(n) for n in range(20_000)]
    assert recording.dropped == 0


def test_one_flush_of_much_makes_blocks_that_are_read_one_by_one(recording: Recording) -> None:
    for n in range(64):
        recording.append("gpt", 0, float(n), bytes(100_000))
    recording.flush()

    (row,) = recording._database.rows("SELECT count(*) AS n, max(entries) AS most FROM blocks")
    assert row == {"n": 6, "most": 11}
    assert len(list(recording.messages("gpt"))) == 64


def test_times_and_order_survive_as_they_are(recording: Recording) -> None:
    recording.append("gpt", 0, math.inf, b"")
    recording.append("gpt", 0, -0.0, b"")
    recording.flush()

    assert [str(entry.now) for entry in recording.messages("gpt")] == ["inf", "-0.0"]
