"""Writes TensorBoard event files, for the tests."""

from __future__ import annotations

import struct
from collections.abc import Sequence

from sentinel.replay.event_file import masked_crc


def record(data: bytes) -> bytes:
    """TFRecord framing."""
    length = struct.pack("<Q", len(data))
    return (
        length + struct.pack("<I", masked_crc(length)) + data + struct.pack("<I", masked_crc(data))
    )


def event(step: int, scalars: dict[str, float], *, time: float = 0.0) -> bytes:
    """An Event with a Summary of simple values."""
    values = b"".join(
        _bytes(1, _bytes(1, tag.encode()) + b"\x15" + struct.pack("<f", value))
        for tag, value in scalars.items()
    )
    return record(b"\x09" + struct.pack("<d", time) + b"\x10" + _varint(step) + _bytes(5, values))


def tensor_event(step: int, tag: str, kind: int, content: bytes) -> bytes:
    """An Event with a Summary of one tensor, as TensorFlow 2 writes it."""
    tensor = b"\x08" + _varint(kind) + _bytes(4, content)
    value = _bytes(1, _bytes(1, tag.encode()) + _bytes(8, tensor))
    return record(b"\x10" + _varint(step) + _bytes(5, value))


def event_file(rows: Sequence[tuple[int, dict[str, float]]]) -> bytes:
    """A whole file: the version, then one Event for each scalar, as torch's writer has them."""
    events = [event(step, {tag: value}) for step, row in rows for tag, value in row.items()]
    return record(b"\x09" + bytes(8) + _bytes(3, b"brain.Event:2")) + b"".join(events)


def _bytes(field: int, data: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
