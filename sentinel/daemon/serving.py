"""A daemon from its start to its end: embedded in a command, or standing by itself."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from sentinel import __version__
from sentinel.daemon import lifecycle
from sentinel.daemon.buttons import Buttons
from sentinel.daemon.service import Service, Settings
from sentinel.daemon.status_line import status_line
from sentinel.daemon.training import Training, TrainingDoor
from sentinel.daemon.vital_signs import VitalSigns
from sentinel.daemon.web import HttpAddress, Web
from sentinel.notify.deadman import DeadMan

log = logging.getLogger("sentinel.daemon")

LOOK_EVERY = 1.0  # s between looks at whether systemd knows what goes on


@asynccontextmanager
async def serving(
    settings: Settings,
    http: HttpAddress | None,
    door: TrainingDoor | None = None,
    *,
    standing: bool = False,
) -> AsyncIterator[Service]:
    """A daemon that serves while in the block: HTTP and training connections over TCP if told to.

    `standing`: it stands by itself, so that it may offer buttons: see `offering`.
    Raises `StateError`, `StateTakenError` when the directory or a socket cannot be had.
    """
    async with AsyncExitStack() as stack:
        service = Service(settings)
        buttons = Buttons(service, settings.buttons if standing else ())
        await service.open()
        stack.push_async_callback(service.close)
        web = Web(service, http)
        stack.push_async_callback(web.close)
        await web.open()
        if web.http is not None:
            log.info("metrics on %s/metrics", web.http.url())
            log.info("pages on %s", settings.page_url or service.page_base)
        if door is not None:
            training = Training(service, door)
            training.open()
            stack.push_async_callback(training.close)
            log.info("training connections on %s", training.address)
        await buttons.open()
        stack.push_async_callback(buttons.close)
        yield service


async def stand(
    settings: Settings, http: HttpAddress | None, door: TrainingDoor | None = None
) -> None:
    """Serve until SIGTERM or SIGINT, and keep systemd informed. Raises as `serving`."""
    lifecycle.raise_file_limit()
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with serving(settings, http, door, standing=True) as service, _pinging(service):
        log.info(
            "sentinel %s, process %d, serves in %s",
            __version__,
            os.getpid(),
            service.store.state_dir,
        )
        said = status_line(service.active())
        lifecycle.notify("READY=1", f"STATUS={said}")
        telling = [asyncio.create_task(_watchdog()), asyncio.create_task(_status(service, said))]
        await stop.wait()
        for task in telling:
            task.cancel()
        lifecycle.notify("STOPPING=1")
        log.info("shutting down")


@asynccontextmanager
async def _pinging(service: Service) -> AsyncIterator[None]:
    """Say elsewhere that this daemon lives and sees, if it was told where."""
    ping = service.settings.ping
    if ping is None:
        yield
        return
    task = asyncio.create_task(DeadMan(ping, VitalSigns(service).look).run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _watchdog() -> None:
    """Tell systemd, from the loop that does the work, that it is not stuck."""
    interval = lifecycle.watchdog_seconds()
    while interval is not None:
        lifecycle.notify("WATCHDOG=1")
        await asyncio.sleep(interval)


async def _status(service: Service, said: str) -> None:
    """Tell systemd what goes on, for `systemctl status`, whenever that has changed."""
    while True:
        await asyncio.sleep(LOOK_EVERY)
        now = status_line(service.active())
        if now != said:
            said = now
            lifecycle.notify(f"STATUS={said}")
