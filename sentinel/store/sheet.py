"""Matrices of steps by series as bytes, and the same in stretches of `COARSE` steps.

All numbers have four bytes, little endian. Those of a column lie together, and of all of them the
first bytes, then the second and so on, since these are much alike from step to step; then zlib's
lowest level makes some two thirds of them where values are noise, and next to nothing where they
stay the same.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sentinel.errors import StateError
from sentinel.store.bins import Bins, Counts, Floats, Singles, Steps

COARSE = 64  # steps of a stretch
_MATRIX = struct.Struct("<HII")  # version, rows, columns
_PLANES = 7  # of a matrix of stretches
_VERSION = 1
_MOST = 1 << 28  # bytes that anything here may have

Places = NDArray[np.int32]


def pack_steps(steps: Steps, times: Floats) -> bytes:
    """Steps, ascending, and when they were judged (s)."""
    return zlib.compress(_moves(steps).tobytes() + times.astype("<f8").tobytes(), 1)


def unpack_steps(packed: bytes) -> tuple[Steps, Floats]:
    """What was packed. Raises `StateError` when it is damaged."""
    plain = _inflated(packed)
    if len(plain) % 16:
        raise StateError("the history of a run is damaged: steps without their times")
    half = len(plain) // 2
    return _places(plain[:half]), np.frombuffer(plain[half:], "<f8")


def pack_rows(rows: Places, columns: Places, values: Singles) -> bytes:
    """Values of some rows of a block, by the numbers of their columns."""
    head = _MATRIX.pack(_VERSION, *values.shape)
    numbers = _moves(rows).astype("<i4").tobytes() + _moves(columns).astype("<i4").tobytes()
    return head + zlib.compress(numbers + _shuffled(values.T), 1)


def unpack_rows(
    packed: bytes, wanted: Sequence[int] | None = None
) -> tuple[Places, Places, Singles]:
    """What was packed, of all columns or of those with these numbers.

    Raises `StateError` when it is damaged.
    """
    (rows, columns), plain = _opened(packed)
    _expect(plain, 4 * (rows + columns + rows * columns))
    numbers = np.frombuffer(plain, "<i4", rows + columns)
    planes = np.frombuffer(plain, np.uint8, offset=4 * (rows + columns)).reshape(4, columns, rows)
    named = _sums(numbers[rows:])
    if wanted is not None:
        kept = np.isin(named, wanted)
        named, planes = named[kept], planes[:, kept]
    values = _unshuffled(planes, (len(named), rows))
    return _sums(numbers[:rows]), named, values.view(np.float32).T


def pack_bins(columns: Places, bins: Bins) -> bytes:
    """Stretches of steps, by the numbers of their columns."""
    head = _MATRIX.pack(_VERSION, *bins.low.shape)
    numbers = _moves(bins.starts).astype("<i8").tobytes() + bins.times.astype("<f8").tobytes()
    mean = np.where(bins.count > 0, bins.mean, 0.0).astype(np.float32)
    planes = [
        *(one.view(np.uint32) for one in (bins.low, bins.high, mean)),
        *(one.astype(np.uint32) for one in (bins.count, bins.odd, bins.kinds)),
        bins.rank.astype(np.int32).view(np.uint32),
    ]
    words = np.stack([plane.T for plane in planes])
    return head + zlib.compress(
        numbers + _moves(columns).astype("<i4").tobytes() + _shuffled(words), 1
    )


def unpack_bins(packed: bytes) -> tuple[Places, Bins]:
    """What was packed. Raises `StateError` when it is damaged."""
    (rows, columns), plain = _opened(packed)
    _expect(plain, 16 * rows + 4 * columns + 4 * _PLANES * rows * columns)
    starts = _places(plain[: 8 * rows])
    times = np.frombuffer(plain, "<f8", rows, 8 * rows)
    numbers = _sums(np.frombuffer(plain, "<i4", columns, 16 * rows))
    planes = np.frombuffer(plain, np.uint8, offset=16 * rows + 4 * columns)
    words = _unshuffled(planes, (_PLANES, columns, rows))
    low, high, mean, count, odd, kinds, rank = (plane.T for plane in words)
    counts: Counts = count.astype(np.int32)
    return numbers, Bins(
        starts,
        times,
        low.view(np.float32),
        high.view(np.float32),
        mean.view(np.float32).astype(np.float64) * counts,
        counts,
        odd.astype(np.int32),
        kinds.astype(np.uint8),
        rank.view(np.int32),
    )


def _moves(numbers: NDArray[np.integer]) -> NDArray[np.integer]:
    """By how much each is more than the one before."""
    return np.diff(numbers, prepend=numbers.dtype.type(0))


def _sums(moves: NDArray[np.int32]) -> Places:
    return np.cumsum(moves, dtype=np.int32)


def _places(plain: bytes) -> Steps:
    return np.cumsum(np.frombuffer(plain, "<i8"), dtype=np.int64)


def _shuffled(words: NDArray[np.generic]) -> bytes:
    """The first bytes of all, then the second, the third and the fourth."""
    plain = np.ascontiguousarray(words).view(np.uint8)
    return np.ascontiguousarray(plain.reshape(-1, 4).T).tobytes()


def _unshuffled(planes: NDArray[np.uint8], shape: tuple[int, ...]) -> NDArray[np.uint32]:
    size = math.prod(shape)
    return np.ascontiguousarray(planes.reshape(4, size).T).view("<u4").reshape(shape)


def _opened(packed: bytes) -> tuple[tuple[int, int], bytes]:
    """How many rows and columns there are, and what else."""
    try:
        version, rows, columns = _MATRIX.unpack_from(packed)
    except struct.error as error:
        raise StateError(f"the history of a run is damaged: {error}") from error
    if version != _VERSION:
        raise StateError(f"the history of a run is damaged: form {version}")
    return (rows, columns), _inflated(packed[_MATRIX.size :])


def _inflated(packed: bytes) -> bytes:
    stream = zlib.decompressobj()
    try:
        plain = stream.decompress(packed, _MOST)
    except zlib.error as error:
        raise StateError(f"the history of a run is damaged: {error}") from error
    if not stream.eof:
        raise StateError("the history of a run is damaged: it was cut short")
    return plain


def _expect(plain: bytes, size: int) -> None:
    if len(plain) != size:
        raise StateError(f"the history of a run is damaged: {len(plain)} bytes in place of {size}")
