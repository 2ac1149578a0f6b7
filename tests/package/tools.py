"""What the tests of the package need from the machine, and waiting without sleeping blindly."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest

ROOT = Path(__file__).parents[2]

T = TypeVar("T")


def tool(name: str) -> str:
    """The path of a program. Where it is missing the test skips, or fails in CI."""
    if found := shutil.which(name):
        return found
    reason = f"{name} is not installed: `make test` as root installs it where there is apt-get"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def until(condition: Callable[[], T | None], what: str, seconds: float = 30.0) -> T:
    """The first answer of `condition` that is true. Fails the test when none comes in time."""
    deadline = time.monotonic() + seconds
    while True:
        if answer := condition():
            return answer
        if time.monotonic() > deadline:
            pytest.fail(f"{what}: not within {seconds:g} s")
        time.sleep(0.05)
