"""The daemon as a process: its event loop, its limits, and what it tells systemd."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
from collections.abc import Coroutine
from typing import TypeVar

T = TypeVar("T")


def run_loop(main: Coroutine[object, object, T]) -> T:
    """Run to the end on uvloop where it is installed, otherwise on asyncio's own loop.

    As `asyncio.run`, but without its handling of SIGINT: signals are the caller's.
    """
    loop = _new_loop()
    try:
        asyncio.set_event_loop(loop)
        return loop.run_until_complete(main)
    finally:
        try:
            _cancel_all(loop)
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.run_until_complete(loop.shutdown_default_executor())
        finally:
            asyncio.set_event_loop(None)
            loop.close()


def _new_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


def _cancel_all(loop: asyncio.AbstractEventLoop) -> None:
    left = asyncio.all_tasks(loop)
    for task in left:
        task.cancel()
    if left:
        loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))


def raise_file_limit() -> None:
    """Allow as many open files, thus connections, as the hard limit says."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (OSError, ValueError):  # the kernel allows less than it says: stay with what is
            return


def notify(*assignments: str) -> None:
    """Tell systemd, such as `notify("READY=1")`; without systemd, nothing happens.

    The protocol of sd_notify(3): lines in one datagram to the socket named in $NOTIFY_SOCKET.
    """
    place = os.environ.get("NOTIFY_SOCKET", "")
    if not place.startswith(("/", "@")):
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
        try:
            sender.sendto("\n".join(assignments).encode(), place.replace("@", "\0", 1))
        except OSError:  # nobody listens any more: nothing that this process could do about it
            return


def watchdog_seconds() -> float | None:
    """How often systemd wants to hear from this process; None when it does not."""
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    try:
        seconds = int(os.environ.get("WATCHDOG_USEC", "")) / 1e6
    except ValueError:
        return None
    return seconds / 2 if seconds > 0 else None
