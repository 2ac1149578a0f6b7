"""Run the scripts beside this file in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]
_ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}


def run(name: str, *arguments: str | Path) -> str:
    """What a script prints. Fails the test when the script fails."""
    command = [sys.executable, str(Path(__file__).with_name(name)), *map(str, arguments)]
    done = subprocess.run(
        command, env=_ENVIRONMENT, cwd=ROOT, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@contextmanager
def started(name: str, *arguments: str | Path) -> Iterator[subprocess.Popen[str]]:
    """A script as a process of its own, killed by -9 at the end if it has not ended by then."""
    command = [sys.executable, str(Path(__file__).with_name(name)), *map(str, arguments)]
    process = subprocess.Popen(
        command,
        env=_ENVIRONMENT,
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def line(process: subprocess.Popen[str]) -> str:
    """The next line that a script prints."""
    assert process.stdout is not None
    return process.stdout.readline().strip()
