"""The state directory: whose it is, where it lies, whether it can be read and has room."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from sentinel.cli.doctor.check import Finding, Setup, check, note, ok, problem
from sentinel.errors import StateError
from sentinel.store.location import file_system_of, why_unsafe
from sentinel.store.schema import FILE_NAME
from sentinel.store.store import Store

GROUP = "state"
_TIGHT, _COMFORTABLE = 256 << 20, 2 << 30  # bytes; the recording alone takes up to 512 MiB


@check(GROUP, "state directory")
def directory(setup: Setup) -> Iterator[Finding]:
    """It is there, a directory, this user's, and nobody else can look into it."""
    place = setup.state
    try:
        found = place.stat()
    except FileNotFoundError:
        yield note(f"{place} is not there yet", "nothing: a daemon makes it when it starts")
        return
    except OSError as error:
        yield problem(
            f"{place} cannot be looked at: {error.strerror}", "choose another with --state"
        )
        return
    mode = stat.S_IMODE(found.st_mode)
    if not stat.S_ISDIR(found.st_mode):
        yield problem(f"{place} is no directory", "choose another with --state or $SENTINEL_STATE")
    elif found.st_uid != os.geteuid():
        yield problem(
            f"{place} belongs to user {found.st_uid}, and you are {os.geteuid()}",
            "ask as the user that the daemon runs as, or choose another directory with --state",
        )
    elif mode & 0o077:
        yield problem(f"{place} is open to others (mode {mode:04o})", f"chmod 700 {place}")
    elif not os.access(place, os.W_OK | os.X_OK):
        yield problem(f"{place} cannot be written (mode {mode:04o})", f"chmod 700 {place}")
    else:
        yield ok(f"{place}, mode {mode:04o}")


@check(GROUP, "file system")
def file_system(setup: Setup) -> Iterator[Finding]:
    """SQLite's write-ahead log is safe there."""
    mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape")
    place = existing(setup.state)
    if kind := why_unsafe(place, mounts):
        yield problem(
            f"{place} is on {kind}, where SQLite's write-ahead log is not safe",
            "choose a directory on a local disk with --state or $SENTINEL_STATE",
        )
    else:
        yield ok(file_system_of(place, mounts) or "of a kind that is not known")


@check(GROUP, "disk space")
def disk_space(setup: Setup) -> Iterator[Finding]:
    """The record and the recording find room."""
    place = existing(setup.state)
    free = shutil.disk_usage(place).free
    said = f"{free / (1 << 30):.1f} GiB free"
    advice = "make room there, or choose another directory with --state or $SENTINEL_STATE"
    if free < _TIGHT:
        yield problem(f"{said} at {place}: with a full disk Sentinel alerts but never acts", advice)
    elif free < _COMFORTABLE:
        yield note(f"{said} at {place}; the recording alone takes 512 MiB", advice)
    else:
        yield ok(said)


@check(GROUP, "record")
def record(setup: Setup) -> Iterator[Finding]:
    """What was recorded can be read by this version."""
    if not (setup.state / FILE_NAME).exists():
        yield ok("nothing is recorded yet")
        return
    try:
        store = Store.open(setup.state, readonly=True)
    except StateError as error:
        yield problem(str(error), "use the version of Sentinel that wrote it, or another --state")
        return
    try:
        runs, failed = len(store.runs()), store.outbox.counts().get("failed", 0)
    finally:
        store.close()
    if failed:
        yield note(
            f"{failed} message{'s' * (failed != 1)} could not be delivered",
            "see why with `sentinel outbox --failed`, then `sentinel outbox resend --all`",
        )
    yield ok(f"{runs} run{'s' * (runs != 1)} on record")


def existing(path: Path) -> Path:
    """This directory, or the nearest above it that there is."""
    place = path.absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    return place.resolve()
