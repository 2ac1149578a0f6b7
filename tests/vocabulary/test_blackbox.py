"""The form of a black box: what was written whole is read, and nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel import blackbox
from sentinel.blackbox import HEADER_SIZE, MAGIC, Header, Record, pack, plan, read
from sentinel.errors import BlackBoxError
from sentinel.wire import Frame, Series

SERIES = (Series("loss"), Series("layer_grad_norm", "head"))
HEADER = plan(Header("run", 1, 2, "abc", "host", 7, 1.0), len(SERIES))


def record(number: int) -> Record:
    return Record(number, Frame(number, number, 0.0, bytes(16)), ("b10c",), {"torch": b"state"})


def written(count: int) -> bytearray:
    """The file after so many steps."""
    data = bytearray(HEADER.size)
    head = pack(HEADER, HEADER_SIZE)
    table = pack(SERIES, HEADER.table_size)
    assert head
    assert table
    data[: len(MAGIC) + len(head)] = MAGIC + head
    data[HEADER_SIZE : HEADER_SIZE + len(table)] = table
    for number in range(count):
        slot = pack(record(number), HEADER.slot_size)
        assert slot
        place = HEADER.slot_place(number % HEADER.slots)
        data[place : place + len(slot)] = slot
    return data


@pytest.mark.parametrize(("count", "first"), [(0, 0), (1, 0), (64, 0), (65, 1), (200, 136)])
def test_the_last_64_records_are_read_in_order(count: int, first: int) -> None:
    box = read(bytes(written(count)))
    assert box.header == HEADER
    assert box.series == SERIES
    assert list(box.records) == [record(number) for number in range(first, count)]
    assert box.torn == 0


def test_a_slot_that_was_being_written_is_left_out_and_counted() -> None:
    data = written(70)
    place = HEADER.slot_place(5)  # holds record 69, of which only the beginning was written
    data[place + 20 : place + 30] = bytes(10)
    box = read(bytes(data))
    assert [one.number for one in box.records] == list(range(6, 69))
    assert box.torn == 1


WHOLE = bytes(written(66))


@given(st.integers(0, len(WHOLE)), st.binary(max_size=64))
def test_whatever_damage_is_done_records_are_read_as_they_were_or_not_at_all(
    place: int, garbage: bytes
) -> None:
    data = WHOLE[:place] + garbage + WHOLE[place + len(garbage) :]
    try:
        box = read(data)
    except BlackBoxError:
        assert place < HEADER_SIZE
        return
    assert all(one == record(one.number) for one in box.records)


@given(st.integers(0, len(WHOLE)))
def test_a_file_that_was_cut_off_shows_what_is_left(length: int) -> None:
    try:
        box = read(WHOLE[:length])
    except BlackBoxError:
        assert length < HEADER_SIZE
        return
    assert all(one == record(one.number) for one in box.records)


@pytest.mark.parametrize("data", [b"", b"SQLite format 3", MAGIC, MAGIC + bytes(100)])
def test_what_is_no_black_box_is_refused(data: bytes) -> None:
    with pytest.raises(BlackBoxError):
        read(data)


@pytest.mark.parametrize("series", [0, 100, 10_000, 65_536])
def test_a_file_never_exceeds_its_limit(series: int) -> None:
    header = plan(HEADER, series)
    assert header.size <= blackbox.MAX_FILE
    assert header.slots >= 32
    assert header.slot_size >= 8 * series + series // 8
