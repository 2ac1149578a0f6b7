"""Making one check, and what it finds."""

from __future__ import annotations

from pathlib import Path

from sentinel.cli.doctor.check import Finding, Setup, make
from sentinel.cli.doctor.checks import checks

SECRET = "xoxb-5ecret-not-to-be-shown"
HANGS = 0.5  # s that a server is given which never answers


def look(name: str, setup: Setup) -> list[Finding]:
    """What one check finds."""
    (one,) = (each for each in checks() if each.name == name)
    return [finding for _, finding in make([one], setup)]


def worst(name: str, setup: Setup) -> Finding:
    """The most important of what one check finds."""
    return max(look(name, setup), key=lambda one: ["ok", "note", "problem"].index(one.level))


def is_sound(finding: Finding) -> bool:
    """Whether there is something to do exactly where something is not right."""
    return bool(finding.text) and bool(finding.advice) == (finding.level != "ok")


def module(folder: Path, name: str, text: str) -> None:
    """A package that stands before the real one."""
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.py").write_text(text)
