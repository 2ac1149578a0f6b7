"""What the daemon and the ranks need of this host."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from sentinel.cli.doctor.check import Finding, Setup, check, note, ok, problem
from sentinel.cli.doctor.state_directory import existing

GROUP = "host"
_FEW_FILES = 4096  # one for each rank's connection, and some
_SHARED = Path("/dev/shm")
_BLACKBOX_ROOM = 64 << 20  # bytes, for the black boxes of the ranks of one host
_UNIT = "sentinel.service"
_BOOTED = Path("/run/systemd/system")  # as sd_booted(3) has it


@check(GROUP, "open files")
def open_files(_: Setup) -> Iterator[Finding]:
    """As many connections as there may be ranks."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard != resource.RLIM_INFINITY and hard < _FEW_FILES:
        yield note(
            f"at most {hard} files may be open: so many ranks at most reach a daemon started here",
            "raise the hard limit: `ulimit -Hn`, or LimitNOFILE= of the unit",
        )
    else:
        yield ok("no limit" if hard == resource.RLIM_INFINITY else f"up to {hard:,}")


@check(GROUP, "shared memory")
def shared_memory(_: Setup) -> Iterator[Finding]:
    """Black boxes find room where no disk holds them up."""
    named = os.environ.get("SENTINEL_BLACKBOX")
    place = existing(Path(named)) if named else _SHARED
    if not os.access(place, os.W_OK):
        yield note(
            f"{place} cannot be written: black boxes go to the temporary files",
            "name a directory in memory with $SENTINEL_BLACKBOX, or mount /dev/shm",
        )
        return
    own = place / f"sentinel-{os.getuid()}"
    if not named and own.exists() and own.lstat().st_uid != os.getuid():
        yield problem(
            f"{own} belongs to somebody else: no rank of yours can keep a black box",
            "have it removed, or name another directory with $SENTINEL_BLACKBOX",
        )
        return
    free = shutil.disk_usage(place).free
    if free < _BLACKBOX_ROOM:
        yield note(
            f"{free >> 20} MiB free in {place}",
            "remove what is left there, or give the container more (`--shm-size`)",
        )
    else:
        yield ok(f"{free >> 20:,} MiB free in {place}")


@check(GROUP, "clock")
def time_of_day(setup: Setup) -> Iterator[Finding]:
    """It is kept right, so that times of several hosts can be compared."""
    said = _say(setup, "timedatectl", "show", "--property=NTPSynchronized", "--value")
    if said == "no":
        yield note(
            "nothing keeps this host's clock right: times of several hosts do not compare",
            "switch on a time service: `timedatectl set-ntp true`",
        )
    else:
        yield ok("synchronized" if said == "yes" else "not known")


@check(GROUP, "systemd")
def systemd(setup: Setup) -> Iterator[Finding]:
    """Where there is a unit, it runs and comes back after a restart."""
    if not _BOOTED.is_dir():
        yield ok("does not run this machine")
        return
    for scope in ([], ["--user"]):
        state = _say(setup, "systemctl", *scope, "show", "--property=LoadState,ActiveState", _UNIT)
        if "LoadState=loaded" not in state:
            continue
        user = " --user" if scope else ""
        if "ActiveState=active" not in state:
            yield problem(
                f"{_UNIT} is installed and does not run",
                f"see why with `systemctl{user} status sentinel`, then `systemctl{user} start "
                "sentinel`",
            )
        elif _say(setup, "systemctl", *scope, "is-enabled", _UNIT) == "disabled":
            yield note(
                f"{_UNIT} runs, and will not after the next boot",
                f"systemctl{user} enable sentinel",
            )
        else:
            yield ok(f"{_UNIT} runs")
        return
    yield ok("no unit is installed: `sentinel systemd install` does so")


def _say(setup: Setup, *command: str) -> str:
    """What a program prints; nothing where it is not there or takes too long."""
    try:
        ran = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=setup.within / 3,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return ran.stdout.strip()
