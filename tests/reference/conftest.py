"""Starting real training processes, and ending all of them whatever happens."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.hooks.two_ranks import NO_COMPILER

Launch = Callable[..., subprocess.CompletedProcess[str]]

SMALL = (
    *("--no-sentinel", "--layers", "2", "--width", "32", "--heads", "2", "--context", "32"),
    *("--micro-batch", "2", "--steps", "6", "--warmup", "2", "--log-every", "1", "--threads", "1"),
)


def finish(command: list[str], cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run to its end; what takes over five minutes hangs, and is killed with all its ranks."""
    environment = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE")}
    environment.update(PYTHONUNBUFFERED="1", **NO_COMPILER)
    process = subprocess.Popen(
        command,
        cwd=cwd,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=300)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        pytest.fail(f"did not end:\n{output}")
    return subprocess.CompletedProcess(command, process.returncode, output)


@pytest.fixture(scope="session")
def alone() -> Launch:
    """`alone(*arguments, cwd=...)` runs the trainer as one plain process, without a launcher."""

    def launch(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
        return finish([sys.executable, "-m", "sentinel_hooks.reference", *arguments], cwd)

    return launch


def finish_ranks(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Give the arguments to torchrun with two processes."""
    torchrun = [sys.executable, "-m", "torch.distributed.run"]
    # --standalone takes a free port; the default one may be another job's.
    return finish([*torchrun, "--standalone", "--nproc_per_node", "2", *arguments], cwd)


@pytest.fixture(scope="session")
def two_ranks() -> Launch:
    """`two_ranks(*arguments, cwd=...)` is `finish_ranks`."""
    return finish_ranks
