"""The black box: a ring file with the last steps of one rank, which outlives its process.

    magic (8 bytes), then three parts, each padded to a fixed size that `Header` tells:
    header | table of series | slots

Every part, and every slot, is a msgpack body behind its length and its CRC-32 (four bytes each,
little endian), so that a slot that was being written when the process was killed is recognized
and left out. Record number n is written to slot n modulo the number of slots.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from sentinel.errors import BlackBoxError
from sentinel.wire import MAX_SERIES, Frame, Name, Series, Text

MAGIC = b"SENTBOX1"
SLOTS = 64  # steps that are kept
PART = 1 << 20  # bytes of it that are handed over at a time
MAX_FILE = 64 * PART
HEADER_SIZE = 4096

_PREFIX = struct.Struct("<II")
_RECORD_SIZE = 24 * 1024  # findings, fingerprints and the states of four random generators
_PER_SERIES = 10  # bytes of a value and its bit, with room for some more of them


class Header(Struct, frozen=True, array_like=True):
    """Whose black box this is, and how the file is laid out; sizes in bytes."""

    run: Name
    rank: int
    world_size: int
    incarnation: Name
    host: Name
    pid: int
    started: float
    table_size: Annotated[int, Meta(ge=0, le=MAX_FILE)] = 0  # these three by `plan`
    slot_size: Annotated[int, Meta(ge=1, le=MAX_FILE)] = 1
    slots: Annotated[int, Meta(ge=1, le=4096)] = 1

    @property
    def size(self) -> int:
        """Of the whole file."""
        return self.slot_place(self.slots)

    def slot_place(self, slot: int) -> int:
        """Where a slot begins."""
        return HEADER_SIZE + self.table_size + slot * self.slot_size


class Record(Struct, frozen=True, array_like=True):
    """One step: its frame, the fingerprint of each micro-batch, and where random generators stood.

    `random` has the state after the step of "torch" and "cuda", as `get_rng_state` gives it, and
    in every 32nd record also of "python", as msgpack of `getstate()` with its words as little-
    endian integers of four bytes, and of "numpy", as its key in the same form and its position;
    each if it is in use.
    """

    number: int
    frame: Frame
    batches: Annotated[tuple[Text, ...], Meta(max_length=1024)] = ()
    random: Annotated[dict[Name, bytes], Meta(max_length=64)] = {}


@dataclass(frozen=True)
class BlackBox:
    """What a file holds: records in the order in which they were written."""

    header: Header
    series: tuple[Series, ...]
    records: tuple[Record, ...]
    torn: int  # slots that were being written, or damaged

    def measured(self, record: Record) -> Iterator[tuple[str, float]]:
        """What was measured at a step, by the name of its series: "loss", "layer_grad_norm/0"."""
        missing, values = record.frame.missing, record.frame.values
        whole = values[: len(values) // 8 * 8]
        for index, (value,) in enumerate(struct.iter_unpack("<d", whole)):
            place, bit = divmod(index, 8)
            if place >= len(missing) or not missing[place] >> bit & 1:
                yield self._name(index), value

    def _name(self, index: int) -> str:
        if index >= len(self.series):
            return f"series {index}"
        series = self.series[index]
        return f"{series.signal}/{series.label}" if series.label else series.signal


def plan(header: Header, series: int) -> Header:
    """The header with sizes that fit so many series, and as many slots as `MAX_FILE` allows."""
    table = 4096 + 64 * min(2 * series + 1024, MAX_SERIES)
    slot = _RECORD_SIZE + _PER_SERIES * series
    slots = max(1, min(SLOTS, (MAX_FILE - HEADER_SIZE - table) // slot))
    return msgspec.structs.replace(header, table_size=table, slot_size=slot, slots=slots)


def pack(part: Header | Record | tuple[Series, ...], size: int) -> bytes | None:
    """A part as it stands in the file; None if it does not fit into `size` bytes."""
    body = msgspec.msgpack.encode(part)
    if len(body) + _PREFIX.size > size:
        return None
    return _PREFIX.pack(len(body), zlib.crc32(body)) + body


def _unpack(data: bytes, place: int, size: int) -> bytes | None:
    """The body of the part at `place`; None if it is empty, torn or damaged."""
    if len(data) < place + _PREFIX.size:
        return None
    length, checksum = _PREFIX.unpack_from(data, place)
    body = data[place + _PREFIX.size : place + _PREFIX.size + length]
    whole = 0 < length <= size - _PREFIX.size and len(body) == length
    return body if whole and zlib.crc32(body) == checksum else None


def read(data: bytes) -> BlackBox:
    """What a black box holds. Raises `BlackBoxError` when this is none."""
    if not data.startswith(MAGIC):
        raise BlackBoxError("this is no black box of Sentinel's")
    try:
        body = _unpack(data, len(MAGIC), HEADER_SIZE - len(MAGIC))
        if body is None:
            raise BlackBoxError("the black box was never begun, or its head is damaged")
        header = msgspec.msgpack.decode(body, type=Header)
        table = _unpack(data, HEADER_SIZE, header.table_size)
        series = msgspec.msgpack.decode(table, type=tuple[Series, ...]) if table else ()
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise BlackBoxError(f"the head of the black box is damaged: {error}") from error
    found = [_record(data, header, slot) for slot in range(header.slots)]
    records = sorted((one for one in found if one is not None), key=lambda one: one.number)
    used = sum(_is_used(data, header.slot_place(slot)) for slot in range(header.slots))
    return BlackBox(header, series, tuple(records), used - len(records))


def _record(data: bytes, header: Header, slot: int) -> Record | None:
    body = _unpack(data, header.slot_place(slot), header.slot_size)
    if body is None:
        return None
    try:
        return msgspec.msgpack.decode(body, type=Record)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None


def _is_used(data: bytes, place: int) -> bool:
    return any(data[place : place + _PREFIX.size])
