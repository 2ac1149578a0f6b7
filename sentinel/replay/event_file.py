"""TensorBoard's event files: records of TFRecord framing, each an Event message with scalars.

TensorBoard's own loader ends without a word at the first damaged record, as if the log ended there,
reads no pipe, and brings gRPC, Pillow and a server: what is needed of the format is less than that.
Format: a record is its length (8 bytes, little endian), the masked CRC-32C of these 8 bytes, the
data and their masked CRC-32C (TensorFlow, core/lib/io/record_writer.h); Event, Summary and
TensorProto are protocol buffers (tensorboard/compat/proto/{event,summary,tensor}.proto).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from sentinel.replay.columns import Columns
from sentinel.replay.row import Row, RowError
from sentinel.replay.source import Source

MAX_RECORD = 1 << 20  # bytes; larger ones are images and graphs, and are passed over
HEADER = 12
_POLYNOMIAL = 0x82F63B78  # Castagnoli, reflected
_MASK_DELTA = 0xA282EAD8
_CHUNK = 1 << 16
_PATTERN = "*tfevents*"
# What a scalar's tensor may be: data type -> format of its one element, field of such elements.
_TENSOR = {1: ("<f", 5), 2: ("<d", 6)}


def _table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (_POLYNOMIAL if byte & 1 else 0)
        table.append(byte)
    return tuple(table)


_TABLE = _table()


def masked_crc(data: bytes) -> int:
    """CRC-32C, rotated and shifted as the framing has it."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ crc >> 8
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + _MASK_DELTA) & 0xFFFFFFFF


def begins_event_file(head: bytes) -> bool:
    """Whether these bytes begin with the header of a record."""
    return len(head) >= HEADER and masked_crc(head[:8]) == int.from_bytes(head[8:12], "little")


def event_files(directory: Path) -> list[Path]:
    """The event files of one run, in the order in which they were begun."""
    return sorted(path for path in directory.glob(_PATTERN) if path.is_file())


def read(source: Source, columns: Columns) -> Iterator[Row]:
    """The scalars of one file, those of one step as one row."""
    for count, data in enumerate(_records(source, columns), 1):
        try:
            event = _event(data)
            if event is None:
                continue
            step, time, scalars = event
            cells = {**scalars, "step": step, "wall_time": time}
            whole = columns.read(tuple(cells), tuple(cells.values()))
        except (RowError, struct.error, IndexError, ValueError) as error:
            reason = error if isinstance(error, RowError) else f"no Event message: {error}"
            raise source.error(f"record {count}: {reason}") from None
        if whole is not None:
            yield whole


def _records(source: Source, columns: Columns) -> Iterator[bytes]:
    stream, count = source.read(), 0
    while header := stream.read(HEADER):
        count += 1
        if len(header) < HEADER:
            break
        if not begins_event_file(header):
            raise source.error(f"record {count}: damaged: its length does not fit its checksum")
        length = int.from_bytes(header[:8], "little")
        if length > MAX_RECORD:
            if not _skip(stream, length + 4):
                break
            continue
        data = stream.read(length + 4)
        if len(data) < length + 4:
            break
        if masked_crc(data[:-4]) != int.from_bytes(data[-4:], "little"):
            raise source.error(f"record {count}: damaged: its data do not fit their checksum")
        yield data[:-4]
    else:
        return
    columns.notes.append(f"{source.name}: the last record is incomplete, and is passed over")


def _skip(stream: BinaryIO, size: int) -> bool:
    while size and (data := stream.read(min(size, _CHUNK))):
        size -= len(data)
    return not size


def _event(data: bytes) -> tuple[int, float, dict[str, object]] | None:
    """An Event's step, time and scalars; None if it has none."""
    step, time = 0, 0.0
    scalars: dict[str, object] = {}
    for field, value in _fields(data):
        if field == 1 and isinstance(value, bytes):
            (time,) = struct.unpack("<d", value)
        elif field == 2 and isinstance(value, int):
            step = value - (1 << 64) if value >> 63 else value
        elif field == 5 and isinstance(value, bytes):
            for inner, part in _fields(value):
                if inner == 1 and isinstance(part, bytes):
                    _scalar(part, scalars)
    return (step, time, scalars) if scalars else None


def _scalar(data: bytes, scalars: dict[str, object]) -> None:
    """Add a Summary.Value's number under its tag, if it is a number."""
    tag, number = "", None
    for field, value in _fields(data):
        if not isinstance(value, bytes):
            continue
        if field == 1:
            tag = value.decode("utf-8", "replace")
        elif field == 2:
            (number,) = struct.unpack("<f", value)
        elif field == 8:
            number = _element(value)
    if number is not None:
        scalars[tag] = number


def _element(data: bytes) -> float | None:
    """The one number of a TensorProto of rank 0, as TensorFlow 2 writes scalars."""
    found = dict(_fields(data))
    kind = found.get(1)
    form, field = _TENSOR.get(kind if isinstance(kind, int) else 0, ("", 0))
    content = found.get(4) or found.get(field)
    if not form or not isinstance(content, bytes) or len(content) != struct.calcsize(form):
        return None
    (number,) = struct.unpack(form, content)
    return float(number)


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The fields of a protocol buffer: varints as numbers, all else as bytes."""
    at, end = 0, len(data)
    while at < end:
        key, at = _varint(data, at)
        kind = key & 7
        if kind == 0:
            value, at = _varint(data, at)
            yield key >> 3, value
            continue
        if kind == 2:
            size, at = _varint(data, at)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise ValueError(f"a field of wire type {kind}")
        if at + size > end:
            raise ValueError("a field that ends after its message")
        yield key >> 3, data[at : at + size]
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while shift < 70:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
        shift += 7
    raise ValueError("a number of more than ten bytes")
