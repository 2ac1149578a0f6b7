"""Run a command under a daemon in this process.

The command keeps the terminal as it is, and goes on unharmed if this process is killed.
"""

from __future__ import annotations

import asyncio
import errno
import os
import shlex
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sentinel.daemon.place import own_address
from sentinel.daemon.service import Service

NOT_FOUND = 127
NOT_EXECUTABLE = 126
_FORWARDED = (signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True)
class Launch:
    """A command, and the name of the run that it starts."""

    command: tuple[str, ...]
    run: str

    def text(self) -> str:
        """As a person would type it."""
        return shlex.join(self.command)


def default_name(command: Sequence[str]) -> str:
    """A name for the run of this command: its script or module, and the time."""
    words = [Path(word).name for word in command]
    scripts = [word.removesuffix(".py") for word in words if word.endswith(".py")]
    modules = [command[at + 1] for at, word in enumerate(command[:-1]) if word == "-m"]
    name = (scripts or modules or words)[0]
    kept = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in name)
    return f"{kept[:100].strip('-') or 'run'}-{time.strftime('%Y%m%d-%H%M%S')}"


def find(command: Sequence[str]) -> tuple[str | None, str]:
    """The program of a command, and the PATH for it.

    What lies beside this Python is found too, so that `torchrun` is there when a virtual
    environment is used without having been activated.
    """
    path = os.environ.get("PATH", os.defpath)
    if found := shutil.which(command[0], path=path):
        return found, path
    beside = f"{path}{os.pathsep}{Path(sys.executable).parent}"
    return shutil.which(command[0], path=beside), beside


async def supervise(service: Service, launch: Launch, **environment: str) -> int:
    """Run the command to its end; returns its exit status, 128 + the signal that killed it.

    Raises `FileNotFoundError` or `PermissionError` when it cannot be started.
    """
    service.launched(launch.run, launch.text())
    status = await attend(launch, service.store.state_dir, [], environment)
    service.launcher_ended(well=status == 0)
    await service.settled()
    return status


async def attend(
    launch: Launch,
    state_dir: Path,
    children: list[asyncio.subprocess.Process],
    environment: Mapping[str, str],
    stdout: int | None = None,
) -> int:
    """Run the command beside the daemon of `state_dir`; returns and raises as `supervise`.

    Its process is put into `children`. `stdout`: a file descriptor for what it writes there.
    """
    program, path = find(launch.command)
    if program is None:
        raise _not_started(launch.command[0])
    ours = {
        "PATH": path,
        "SENTINEL_DAEMON": str(own_address(state_dir)),
        "SENTINEL_RUN": launch.run,
        "SENTINEL_STATE": str(state_dir),
    }
    with _signals_for(children) as missed:  # it may be told to end before this process knows it
        child = await asyncio.create_subprocess_exec(
            program, *launch.command[1:], env={**os.environ, **ours, **environment}, stdout=stdout
        )
        children.append(child)
        for number in missed:
            _send(child, number)
        try:
            status = await child.wait()
        except asyncio.CancelledError:
            if child.returncode is None:
                child.terminate()
            await child.wait()
            raise
    return status if status >= 0 else 128 - status


def _send(child: asyncio.subprocess.Process, number: int) -> None:
    if child.returncode is None:
        child.send_signal(number)


def _not_started(program: str) -> OSError:
    if os.sep in program and os.path.exists(program):
        return PermissionError(errno.EACCES, "cannot be executed", program)
    return FileNotFoundError(errno.ENOENT, "command not found", program)


@contextmanager
def _signals_for(children: Sequence[asyncio.subprocess.Process]) -> Iterator[Sequence[int]]:
    """Pass on what asks this process to end; leave Ctrl-C to the terminal, which tells both.

    Gives what came while there was no child to pass it on to.
    """
    loop = asyncio.get_running_loop()
    missed: list[int] = []

    def forward(number: int) -> None:
        if not children:
            missed.append(number)
        for child in children:
            _send(child, number)

    handled = [n for n in _FORWARDED if signal.getsignal(n) is not signal.SIG_IGN]
    for number in handled:
        loop.add_signal_handler(number, forward, number)
    loop.add_signal_handler(signal.SIGINT, lambda: None)
    try:
        yield missed
    finally:
        for number in (*handled, signal.SIGINT):
            loop.remove_signal_handler(number)
