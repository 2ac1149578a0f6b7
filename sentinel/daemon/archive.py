"""Black boxes that ranks hand over when an incident opens: DIR/blackbox/INCIDENT/rankN.blackbox."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import socket
import stat
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from pathlib import Path

from sentinel import wire
from sentinel.blackbox import MAGIC, MAX_FILE

log = logging.getLogger("sentinel.daemon")

FOLDER = "blackbox"
MAX_RANKS = 16  # of one incident: those it speaks of come first
MAX_TOTAL = 1 << 30  # bytes that are kept; the oldest incidents go first

Ask = Callable[[int, wire.Capture], bool]  # False: the rank is not connected


class Archive:
    """Asks for black boxes and keeps them. What waits for a disk is done by `worker`."""

    def __init__(self, state_dir: Path, worker: Executor) -> None:
        self._folder = state_dir / FOLDER
        self._worker = worker
        self._asked: dict[str, set[int]] = {}  # by incident
        self._parts: dict[tuple[str, int], dict[int, bytes]] = {}

    def want(
        self, incident: str, first: int | None, ranks: Mapping[int, wire.Hello], ask: Ask
    ) -> None:
        """Have the black box of the rank an alert speaks of, or of the first ranks, if any did not.

        A rank that is gone cannot be asked: on this host, its file is copied.
        """
        asked = self._asked.setdefault(incident, set())
        for rank in [first] if first is not None else sorted(ranks)[: MAX_RANKS // 2]:
            if rank in ranks and rank not in asked and len(asked) < MAX_RANKS:
                asked.add(rank)
                if not ask(rank, wire.Capture(incident)):
                    self._worker.submit(self._rescue, incident, rank, ranks[rank])

    def closed(self, incident: str) -> None:
        """The incident is over: what has not come by now is no longer taken."""
        self._asked.pop(incident, None)
        for key in [key for key in self._parts if key[0] == incident]:
            del self._parts[key]

    def take(self, rank: int, part: wire.BlackBoxPart) -> None:
        """A part has come; what nobody has asked for is passed over."""
        if rank not in self._asked.get(part.incident, ()):
            return
        parts = self._parts.setdefault((part.incident, rank), {})
        parts[part.part] = part.data
        if len(parts) == part.parts and set(parts) == set(range(part.parts)):
            del self._parts[part.incident, rank]
            content = b"".join(parts[number] for number in sorted(parts))
            self._worker.submit(self._store, part.incident, rank, content)

    # The worker's thread.

    def _store(self, incident: str, rank: int, content: bytes) -> None:
        place = self._folder / incident / f"rank{rank}.blackbox"
        try:
            place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            unfinished = place.with_suffix(".part")
            unfinished.write_bytes(content)
            unfinished.chmod(0o600)
            unfinished.replace(place)
            self._make_room()
        except OSError as error:
            log.warning("the black box of rank %d cannot be kept: %s", rank, error)

    def _rescue(self, incident: str, rank: int, hello: wire.Hello) -> None:
        if not hello.blackbox or hello.host != socket.gethostname():
            return
        try:
            content = _read(Path(hello.blackbox))
        except OSError as error:
            log.warning("the black box that rank %d left cannot be read: %s", rank, error)
            return
        if content.startswith(MAGIC):
            self._store(incident, rank, content)

    def _make_room(self) -> None:
        """Remove the oldest incidents' when there is too much; the newest always stays."""
        sizes = {
            place: sum(file.stat().st_size for file in place.iterdir())
            for place in sorted(self._folder.iterdir(), key=lambda one: one.stat().st_mtime)
        }
        for place in [*sizes][:-1]:
            if sum(sizes.values()) <= MAX_TOTAL:
                return
            del sizes[place]
            with contextlib.suppress(OSError):
                shutil.rmtree(place)


def _read(path: Path) -> bytes:
    """A file that a rank has named: a plain one of this user's, as large as a black box may be."""
    file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(file, "rb") as opened:
        found = os.fstat(file)
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid():
            raise PermissionError(f"{path} is no file of this user's")
        return opened.read(MAX_FILE)
