"""A daemon from its start to its end: embedded in a command, or standing by itself."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sentinel import __version__
from sentinel.daemon import lifecycle
from sentinel.daemon.service import Service, Settings
from sentinel.daemon.web import HttpAddress, Web

log = logging.getLogger("sentinel.daemon")


@asynccontextmanager
async def serving(settings: Settings, http: HttpAddress | None) -> AsyncIterator[Service]:
    """A daemon that serves while in the block.

    Raises `StateError`, `StateTakenError` when the directory or a socket cannot be had.
    """
    service = Service(settings)
    await service.open()
    try:
        web = Web(service, http)
        try:
            await web.open()
            if web.http is not None:
                log.info("metrics on http://%s/metrics", web.http)
            yield service
        finally:
            await web.close()
    finally:
        await service.close()


async def stand(settings: Settings, http: HttpAddress | None) -> None:
    """Serve until SIGTERM or SIGINT, and keep systemd informed. Raises as `serving`."""
    lifecycle.raise_file_limit()
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with serving(settings, http) as service:
        log.info(
            "sentinel %s, process %d, serves in %s",
            __version__,
            os.getpid(),
            service.store.state_dir,
        )
        lifecycle.notify("READY=1", f"STATUS=serving in {service.store.state_dir}")
        watchdog = asyncio.create_task(_watchdog())
        await stop.wait()
        watchdog.cancel()
        lifecycle.notify("STOPPING=1")
        log.info("shutting down")


async def _watchdog() -> None:
    """Tell systemd, from the loop that does the work, that it is not stuck."""
    interval = lifecycle.watchdog_seconds()
    while interval is not None:
        lifecycle.notify("WATCHDOG=1")
        await asyncio.sleep(interval)
