"""Messages survive the wire, and nothing that arrives can do worse than be refused."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sentinel import wire
from sentinel.errors import VersionError, WireError
from tests.vocabulary.wire_strategies import FROM_DAEMON, FROM_RANK, Message, messages

Decode = Callable[[bytes], object]

SIDES: list[tuple[type[Message], Decode]] = [
    *((kind, wire.decode_from_rank) for kind in FROM_RANK),
    *((kind, wire.decode_from_daemon) for kind in FROM_DAEMON),
]
EVERY_KIND = pytest.mark.parametrize(("kind", "decode"), SIDES, ids=lambda v: v.__name__)
FEWER = settings(max_examples=40)  # for each of a dozen kinds of message
FOREIGN = st.integers(-9, 9) | st.text() | st.binary() | st.lists(st.floats() | st.none())
EITHER_SIDE = pytest.mark.parametrize("decode", [wire.decode_from_rank, wire.decode_from_daemon])


def body(message: Message) -> bytes:
    return wire.encode(message)[4:]


def fields(message: Message) -> list[object]:
    """The message as the array that travels: its tag, then its fields."""
    parts = msgspec.msgpack.decode(body(message))
    assert isinstance(parts, list)
    return parts


def pack(value: object) -> bytes:
    return msgspec.msgpack.encode(value)


@EVERY_KIND
@FEWER
@given(data=st.data())
def test_every_message_comes_back_as_it_was(
    kind: type[Message], decode: Callable[[bytes | memoryview], object], data: st.DataObject
) -> None:
    message = data.draw(messages(kind))
    framed = wire.encode(message)
    assert struct.unpack(">I", framed[:4]) == (len(framed) - 4,)
    assert decode(framed[4:]) == message
    assert decode(memoryview(framed)[4:]) == message


@EVERY_KIND
@FEWER
@given(data=st.data())
def test_a_truncated_message_is_refused(
    kind: type[Message], decode: Decode, data: st.DataObject
) -> None:
    whole = body(data.draw(messages(kind)))
    cut = data.draw(st.integers(0, len(whole) - 1))
    with pytest.raises(WireError):
        decode(whole[:cut])


@EVERY_KIND
@FEWER
@given(data=st.data(), tail=st.binary(min_size=1, max_size=8))
def test_bytes_behind_a_message_are_refused(
    kind: type[Message], decode: Decode, data: st.DataObject, tail: bytes
) -> None:
    with pytest.raises(WireError):
        decode(body(data.draw(messages(kind))) + tail)


@EVERY_KIND
@FEWER
@given(data=st.data(), more=st.lists(FOREIGN, min_size=1))
def test_fields_that_a_newer_peer_appends_are_passed_over(
    kind: type[Message], decode: Decode, data: st.DataObject, more: list[object]
) -> None:
    message = data.draw(messages(kind))
    assert decode(pack(fields(message) + more)) == message


@EVERY_KIND
@FEWER
@given(data=st.data())
def test_fields_that_an_older_peer_does_not_send_take_their_defaults(
    kind: type[Message], decode: Decode, data: st.DataObject
) -> None:
    message = data.draw(messages(kind))
    needed = sum(1 for field in msgspec.structs.fields(kind) if field.required)
    oldest = kind(*msgspec.structs.astuple(message)[:needed])
    assert decode(pack(fields(message)[: 1 + needed])) == oldest
    with pytest.raises(WireError):
        decode(pack(fields(message)[:needed]))


@EITHER_SIDE
@given(tag=st.text(), rest=st.lists(FOREIGN))
def test_a_tag_that_only_a_newer_peer_knows_is_returned_as_unknown(
    decode: Decode, tag: str, rest: list[object]
) -> None:
    known = {str(fields_of.__struct_config__.tag) for fields_of in (*FROM_RANK, *FROM_DAEMON)}
    if tag in known:
        return
    assert decode(pack([tag, *rest])) == wire.Unknown(tag[:64])


@EVERY_KIND
@FEWER
@given(data=st.data())
def test_a_message_in_the_wrong_direction_is_refused(
    kind: type[Message], decode: Decode, data: st.DataObject
) -> None:
    other = wire.decode_from_daemon if decode is wire.decode_from_rank else wire.decode_from_rank
    with pytest.raises(WireError, match=str(kind.__struct_config__.tag)):
        other(body(data.draw(messages(kind))))


@EITHER_SIDE
@given(noise=st.binary(max_size=512))
def test_random_bytes_are_refused_or_unknown(decode: Decode, noise: bytes) -> None:
    try:
        decoded = decode(noise)
    except WireError:
        return
    assert isinstance(decoded, (wire.Unknown, wire.Goodbye, wire.Report, wire.Refusal))


@EVERY_KIND
@FEWER
@given(data=st.data())
def test_a_message_with_bytes_changed_is_refused_or_keeps_to_its_type(
    kind: type[Message], decode: Decode, data: st.DataObject
) -> None:
    damaged = bytearray(body(data.draw(messages(kind))))
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        decoded = decode(bytes(damaged))
    except WireError:
        return
    assert isinstance(decoded, (wire.Unknown, *FROM_RANK, *FROM_DAEMON))


HOSTILE = {
    "nested a million deep": b"\x92\xa7goodbye" + b"\x91" * 1_000_000,
    "nested in a field to be passed over": b"\x94\xa7goodbye\xa1x\xa1y" + b"\x91" * 1_000_000,
    "nested behind a strange tag": b"\x92\xa3new" + b"\x91" * 1_000_000 + b"\x01",
    "array announced longer than it is": b"\xdd\xff\xff\xff\xff\xa7goodbye\xa1x",
    "text announced longer than it is": b"\x92\xa7goodbye\xdb\xff\xff\xff\xff",
    "text that is not UTF-8": b"\x92\xa7goodbye\xa2\xff\xfe",
    "tag that is not UTF-8": b"\x91\xa2\xff\xfe",
    "tag that is a number": pack([7, "x"]),
    "map instead of array": pack({"type": "goodbye", "reason": "finished"}),
    "no array at all": pack("goodbye"),
    "empty array": pack([]),
    "nothing": b"",
    "extension type": pack(["goodbye", msgspec.msgpack.Ext(1, b"x")]),
    "bytes for text": pack(["goodbye", b"finished"]),
}


@EITHER_SIDE
@pytest.mark.parametrize("hostile", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_bytes_are_refused(decode: Decode, hostile: bytes) -> None:
    with pytest.raises(WireError):
        decode(hostile)


HELLO = ["hello", [1, 0], "run", 0, 2, "i", "host", 1, "cpu", "t", 0, [["loss", ""]]]

OUT_OF_BOUNDS = {
    "negative rank": [*HELLO[:3], -1, *HELLO[4:]],
    "rank beyond the limit": [*HELLO[:3], wire.MAX_RANKS, *HELLO[4:]],
    "world of nobody": [*HELLO[:4], 0, *HELLO[5:]],
    "name of 513 characters": [*HELLO[:2], "r" * 513, *HELLO[3:]],
    "too many series": [*HELLO[:11], [["loss", ""]] * (wire.MAX_SERIES + 1)],
    "too many reasons": [*HELLO, [], {str(i): "" for i in range(1025)}],
    "step beyond what a float can count": ["heartbeat", (1 << 53) + 1, "data", 0.0],
    "negative step": ["heartbeat", -1, "data", 0.0],
    "too many reasons for drops": ["heartbeat", 1, "data", 0.0, {str(i): 1 for i in range(65)}],
    "too many findings": ["frame", 1, 1, 0.0, b"", b"", [["loss", "m"]] * 17],
    "reason of 4097 characters": ["coverage", 1, "loss", "x" * 4097],
}


@pytest.mark.parametrize("parts", OUT_OF_BOUNDS.values(), ids=OUT_OF_BOUNDS.keys())
def test_what_a_rank_may_not_claim_is_refused(parts: list[object]) -> None:
    with pytest.raises(WireError, match=f"malformed {parts[0]} message"):
        wire.decode_from_rank(pack(parts))


def test_the_hello_that_the_bounds_are_tried_on_is_itself_right() -> None:
    assert isinstance(wire.decode_from_rank(pack(HELLO)), wire.Hello)


@pytest.mark.parametrize(
    "remedies",
    [[0.0], [-1.0], [math.nan], [math.inf], [1000.1], [1.0, -1], [1.0, 1_000_001]],
    ids=repr,
)
def test_remedies_that_make_no_sense_are_refused(remedies: list[float]) -> None:
    with pytest.raises(WireError):
        wire.decode_from_daemon(pack(["resume", 1, "a person", remedies]))


def test_remedies_name_only_what_they_change() -> None:
    assert wire.Remedies().names() == []
    assert wire.Remedies(lr_scale=0.5).names() == ["scale_lr"]
    assert wire.Remedies(skip_batches=3).names() == ["skip_batches"]
    everything = wire.Remedies(2.0, 1, rollback="step9", checkpoint=True, rewind=True)
    assert everything.names() == [
        "save_checkpoint",
        "load_checkpoint",
        "rewind_data",
        "skip_batches",
        "scale_lr",
    ]


@given(st.binary(max_size=256).filter(lambda raw: len(raw) % 8 == 0))
def test_values_travel_bit_for_bit(raw: bytes) -> None:
    """Whatever NaN a rank measured, with whatever payload, is what the daemon gets."""
    frame = wire.decode_from_rank(body(wire.Frame(step=1, sequence=0, time=0.0, values=raw)))
    assert isinstance(frame, wire.Frame)
    assert frame.values == raw


def test_a_message_as_large_as_allowed_is_encoded_and_one_byte_more_is_not() -> None:
    def report(size: int) -> wire.Report:
        return wire.Report(outcome=b"\0" * size)

    overhead = len(body(report(1 << 20))) - (1 << 20)
    largest = wire.MAX_MESSAGE - overhead
    assert len(body(report(largest))) == wire.MAX_MESSAGE
    with pytest.raises(WireError, match="exceeds"):
        wire.encode(report(largest + 1))


def test_text_that_is_not_unicode_is_refused_on_the_way_out() -> None:
    with pytest.raises(WireError, match="Goodbye"):
        wire.encode(wire.Goodbye(reason="\udcff"))


def test_a_long_strange_tag_is_cut() -> None:
    assert wire.decode_from_rank(pack(["t" * 500])) == wire.Unknown("t" * 64)


def test_equal_major_versions_understand_each_other() -> None:
    wire.check_version((wire.VERSION[0], 0))
    wire.check_version((wire.VERSION[0], wire.VERSION[1] + 7))


@pytest.mark.parametrize("major", [wire.VERSION[0] - 1, wire.VERSION[0] + 1])
def test_another_major_version_is_refused_with_what_to_do(major: int) -> None:
    with pytest.raises(VersionError, match=r"install the same sentinel-train") as caught:
        wire.check_version((major, 3))
    assert f"{major}.3" in str(caught.value)


def test_tags_are_the_protocol_and_do_not_change() -> None:
    """Renaming one would silently turn a known message into an unknown one."""
    assert [str(kind.__struct_config__.tag) for kind in (*FROM_RANK, *FROM_DAEMON)] == [
        "credentials", "hello", "coverage", "extension", "frame", "heartbeat", "standing", "report",
        "checkpoint", "blackbox", "stack", "goodbye",
        "welcome", "refusal", "hold", "resume", "stop", "capture", "stack_request",
    ]  # fmt: skip
