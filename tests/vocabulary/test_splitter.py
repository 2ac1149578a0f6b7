"""A stream becomes the same messages however it is cut."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel.errors import WireError
from sentinel.wire import MAX_MESSAGE, Goodbye, Splitter, decode_from_rank, encode


def framed(body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + body


def cut(stream: bytes, at: list[int]) -> list[bytes]:
    """The stream in pieces, some of them empty."""
    places = sorted(place % (len(stream) + 1) for place in at)
    return [stream[a:b] for a, b in zip([0, *places], [*places, len(stream)], strict=True)]


@given(bodies=st.lists(st.binary(max_size=64)), at=st.lists(st.integers(0, 10_000)))
def test_bodies_come_out_whole_and_in_order_whatever_the_pieces(
    bodies: list[bytes], at: list[int]
) -> None:
    splitter = Splitter()
    pieces = cut(b"".join(map(framed, bodies)), at)
    assert [body for piece in pieces for body in splitter.feed(piece)] == bodies


@given(bodies=st.lists(st.binary(max_size=16), min_size=1), taken=st.integers(1, 20))
def test_a_reader_that_stops_early_finds_the_rest_later(bodies: list[bytes], taken: int) -> None:
    splitter = Splitter()
    reading = splitter.feed(b"".join(map(framed, bodies)))
    first = [body for _, body in zip(range(taken), reading, strict=False)]
    del reading
    assert first == bodies[:taken]
    assert first + list(splitter.feed(b"")) == bodies


@given(partial=st.binary(max_size=3))
def test_less_than_a_length_yields_nothing(partial: bytes) -> None:
    assert list(Splitter().feed(partial)) == []


@pytest.mark.parametrize("length", [MAX_MESSAGE + 1, 0xFFFFFFFF])
def test_a_length_beyond_the_limit_is_refused_before_its_bytes_arrive(length: int) -> None:
    with pytest.raises(WireError, match=str(length)):
        list(Splitter().feed(struct.pack(">I", length)))


def test_a_body_as_long_as_allowed_passes() -> None:
    body = b"\0" * MAX_MESSAGE
    assert list(Splitter().feed(framed(body))) == [body]


def test_messages_before_an_impossible_length_are_still_delivered() -> None:
    reading = Splitter().feed(framed(b"good") + b"\xff\xff\xff\xff")
    assert next(reading) == b"good"
    with pytest.raises(WireError):
        next(reading)


def test_what_encode_writes_splits_and_decodes() -> None:
    sent = [Goodbye("finished"), Goodbye("exception", "ValueError: no")]
    splitter = Splitter()
    stream = b"".join(map(encode, sent))
    arrived = [splitter.feed(stream[i : i + 1]) for i in range(len(stream))]
    assert [decode_from_rank(body) for reading in arrived for body in reading] == sent
