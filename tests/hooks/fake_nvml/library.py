"""The library for tests, built and told what to say."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

SOURCE = Path(__file__).with_name("nvml.c")


def build(folder: Path, *options: str) -> Path:
    """A folder with libnvidia-ml.so.1 in it. Skips the test where there is no C compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler here: NVML cannot be played")
    library = folder / "libnvidia-ml.so.1"
    shared = ("-shared", "-fPIC", "-Wl,-soname,libnvidia-ml.so.1")
    subprocess.run([compiler, *shared, *options, "-o", library, SOURCE], check=True, timeout=240)
    return folder


class FakeNvml:
    """What the library says from now on, in this process's children."""

    def __init__(self, library: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._state = folder / "nvml"
        self._says: dict[str, int] = {}
        monkeypatch.setenv("FAKE_NVML", str(self._state))
        monkeypatch.setenv("LD_LIBRARY_PATH", str(library))
        self.say()

    def say(self, says: dict[str, int] | None = None, *, forget: str = "") -> None:
        """These answers too; those that begin with `forget` no more."""
        self._says |= says or {}
        if forget:
            self._says = {key: n for key, n in self._says.items() if not key.startswith(forget)}
        fresh = self._state.with_suffix(".new")
        fresh.write_text("".join(f"{key} {number}\n" for key, number in self._says.items()))
        os.replace(fresh, self._state)


def until(condition: Callable[[], bool], what: str) -> None:
    """Wait for this, half a minute at most."""
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, f"waited 30 s: {what}"
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    """Whether this process runs; one that is only waited for does not."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return status.rpartition(")")[2].split()[0] not in "ZX"
