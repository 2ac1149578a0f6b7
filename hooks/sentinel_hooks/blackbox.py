"""Keeps the last steps of this rank in a ring file that outlives every death of the process.

Written with `pwrite`: what the kernel has taken survives SIGKILL and a hang, as a mapped page
would, but a file that somebody truncates, or a disk that is full, raises an error here instead of
killing the training process by SIGBUS. For that all of the file is allocated at the beginning.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import random
import re
import stat
import struct
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import torch

from sentinel import blackbox as form
from sentinel.wire import BlackBoxPart, Frame, Series

log = logging.getLogger("sentinel")

KEEP = 7 * 86400.0  # s that the black box of a dead process is kept
SUFFIX = ".blackbox"
_RARELY = 32  # steps between two looks at the generators that are slow to tell their state


def folder() -> Path:
    """Where black boxes are: `$SENTINEL_BLACKBOX`, or a folder of this user's in shared memory.

    Memory, so that no busy disk holds up a step; where there is no such file system, it is with
    the temporary files. Made if need be, for this user only. Raises `OSError` when it cannot be.
    """
    named = os.environ.get("SENTINEL_BLACKBOX")
    memory = Path("/dev/shm")
    base = memory if os.access(memory, os.W_OK) else Path(tempfile.gettempdir())
    place = Path(named) if named else base / f"sentinel-{os.getuid()}"
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = os.lstat(place)
    if not named and (not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid()):
        raise PermissionError(f"{place} belongs to somebody else")
    return place


class BlackBoxFile:
    """The ring file of one rank. One that cannot be written ends itself, and says so once.

    Raises `OSError` when the file cannot be made.
    """

    def __init__(self, place: Path, header: form.Header, series: Sequence[Series]) -> None:
        self._header = form.plan(header, len(series))
        self._number = 0
        self._known = 0  # series in the table
        name = re.sub(r"[^\w.-]", "_", header.run)[:80]
        incarnation = header.incarnation[:8]
        self.path = place / f"{name}.rank{header.rank}.{incarnation}{SUFFIX}"
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        self._file: int | None = os.open(self.path, flags, 0o600)
        try:
            os.posix_fallocate(self._file, 0, self._header.size)
            head = form.pack(self._header, form.HEADER_SIZE - len(form.MAGIC))
            assert head is not None
            os.pwrite(self._file, form.MAGIC + head, 0)
            self._learn(series)
        except BaseException:
            self.close(keep=False)
            raise

    def _learn(self, series: Sequence[Series]) -> None:
        """Write the table of series, unless it has outgrown its place."""
        table = form.pack(tuple(series), self._header.table_size)
        if table is not None and self._file is not None:
            os.pwrite(self._file, table, form.HEADER_SIZE)
        self._known = len(series)

    def write(self, frame: Frame, series: Sequence[Series], batches: Sequence[str]) -> None:
        """Keep this step, in place of the oldest. Never raises."""
        if self._file is None:
            return
        try:
            if len(series) != self._known:
                self._learn(series)
            size = self._header.slot_size
            states = random_states(all_of_them=self._number % _RARELY == 0)
            record = form.Record(self._number, frame, tuple(batches[:1024]), states)
            slot = form.pack(record, size)
            if slot is None:  # the series have outgrown their place: the states can be spared
                slot = form.pack(msgspec.structs.replace(record, random={}), size)
            if slot is not None:
                place = self._header.slot_place(self._number % self._header.slots)
                os.pwrite(self._file, slot, place)
                self._number += 1
        except Exception as error:  # noqa: BLE001 - no fault of ours reaches training
            log.warning("sentinel: the black box ends here: %s", error)
            self.close()

    def parts(self, incident: str) -> Iterator[BlackBoxPart]:
        """All of the file as it is now, to be handed over; nothing if it cannot be read."""
        try:
            content = self.path.read_bytes()
        except OSError as error:
            log.warning("sentinel: the black box cannot be handed over: %s", error)
            return
        starts = range(0, len(content), form.PART)
        for number, start in enumerate(starts):
            data = content[start : start + form.PART]
            yield BlackBoxPart(incident, number, len(starts), data)

    def close(self, *, keep: bool = True) -> None:
        """Stop. A black box is kept unless the process ends as it was meant to."""
        file, self._file = self._file, None
        if file is not None:
            os.close(file)
            if not keep:
                with contextlib.suppress(OSError):
                    self.path.unlink()


def clear_old(place: Path) -> None:
    """Remove what dead processes left long ago. Never raises."""
    with contextlib.suppress(OSError):
        for path in place.glob(f"*{SUFFIX}"):
            with contextlib.suppress(OSError):
                if time.time() - path.stat().st_mtime > KEEP:
                    path.unlink()


def random_states(*, all_of_them: bool = True) -> dict[str, bytes]:
    """Where the random generators stand that are in use here; waits for no device.

    Without `all_of_them`, torch's alone: asking Python's and numpy's takes 0.2 ms.
    """
    states = {"torch": _bytes(torch.get_rng_state())}
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        generator: torch.Generator = torch.cuda.default_generators[torch.cuda.current_device()]
        states["cuda"] = _bytes(generator.get_state())  # the host keeps it
    if all_of_them:
        version, words, gauss = random.getstate()
        python = (version, struct.pack(f"<{len(words)}I", *words), gauss)
        states["python"] = msgspec.msgpack.encode(python)
        numpy = getattr(sys.modules.get("numpy"), "random", None)
        if numpy is not None:
            state = numpy.get_state(legacy=False)["state"]
            key = struct.pack(f"<{len(state['key'])}I", *state["key"].tolist())
            states["numpy"] = msgspec.msgpack.encode((key, state["pos"]))
    return states


def _bytes(state: torch.Tensor) -> bytes:
    return ctypes.string_at(state.data_ptr(), state.numel() * state.element_size())
