"""What is installed, against what was promised to work."""

from __future__ import annotations

import platform
import re
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version

from sentinel.cli.doctor.check import Finding, Setup, check, note, ok, problem

PACKAGE = "sentinel-train"
OLDEST_PYTHON, NEWEST_PYTHON = (3, 10), (3, 13)
NEWEST_DEEPSPEED = "0.19.8"  # the newest that the tests train with

GROUP = "versions"
_REQUIREMENT = re.compile(r"([A-Za-z0-9._-]+)\s*>=\s*([0-9.]+)(?:.*extra\s*==\s*['\"]([^'\"]+))?")


@check(GROUP, "Python")
def python(_: Setup) -> Iterator[Finding]:
    """One that the tests run with."""
    found = platform.python_version()
    if sys.version_info[:2] < OLDEST_PYTHON:
        yield problem(f"{found} is too old", "install Sentinel with Python 3.10 to 3.13")
    elif sys.version_info[:2] > NEWEST_PYTHON:
        yield note(f"{found} is newer than any it was tested with", "prefer Python 3.10 to 3.13")
    else:
        yield ok(found)


@check(GROUP, "packages")
def packages(_: Setup) -> Iterator[Finding]:
    """What the daemon needs, in versions that will do."""
    needed = {name: least for name, least, extra in promised() if extra in ("", "daemon")}
    if not needed:
        yield note(f"{PACKAGE} is not installed as a package", f"pip install '{PACKAGE}[daemon]'")
        return
    bad = [said for name, least in needed.items() if (said := _shortcoming(name, least))]
    if bad:
        yield problem("; ".join(bad), f"pip install --upgrade '{PACKAGE}[daemon]'")
    else:
        yield ok(f"{len(needed)} packages, msgspec {installed('msgspec')} among them")


@check(GROUP, "DeepSpeed")
def deepspeed(_: Setup) -> Iterator[Finding]:
    """A version from the range that is tested; by its name alone: importing it takes long."""
    found = installed("deepspeed")
    oldest = next((least for name, least, _ in promised() if name == "deepspeed"), "0")
    if found is None:
        yield ok("not installed: only those who train with it need it")
    elif parts(found) < parts(oldest):
        yield problem(
            f"{found} is older than {oldest}, the oldest that is supported",
            f"pip install 'deepspeed>={oldest}'",
        )
    elif parts(found) > parts(NEWEST_DEEPSPEED):
        yield note(
            f"{found} is newer than {NEWEST_DEEPSPEED}, the newest that is tested",
            "look at `sentinel status --coverage` for what it does not let be seen",
        )
    else:
        yield ok(f"{found}, tested from {oldest} to {NEWEST_DEEPSPEED}")


def promised() -> list[tuple[str, str, str]]:
    """What the installed package asks for: name, lowest version, and the extra that needs it."""
    try:
        lines = requires(PACKAGE) or []
    except PackageNotFoundError:
        return []
    return [(one[1], one[2], one[3] or "") for one in map(_REQUIREMENT.match, lines) if one]


def installed(name: str) -> str | None:
    """The version of a package, None where it is not here."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def parts(text: str) -> tuple[int, ...]:
    """A version as it compares: its leading numbers, without zeros at their end."""
    found = re.match(r"[0-9]+(?:\.[0-9]+)*", text)
    numbers = [int(part) for part in found[0].split(".")] if found else []
    while numbers and not numbers[-1]:
        numbers.pop()
    return tuple(numbers)


def _shortcoming(name: str, least: str) -> str:
    found = installed(name)
    if found is None:
        return f"{name} is not installed"
    return f"{name} {found} is older than {least}" if parts(found) < parts(least) else ""
