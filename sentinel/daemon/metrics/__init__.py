"""`/metrics`: what Prometheus may know. Aggregates only, never one series per rank and signal."""

from __future__ import annotations

import asyncio

from sentinel import clock
from sentinel.daemon.metrics.of_daemon import add_daemon
from sentinel.daemon.metrics.of_runs import add_run
from sentinel.daemon.metrics.of_signals import SignalsOfRun
from sentinel.daemon.metrics.page import Page
from sentinel.daemon.service import Service


async def exposition(service: Service, form: str) -> bytes:
    """All metrics, in the format of this content type.

    The loop goes on with its other work after each run, so that no order waits for a scrape.
    """
    page = Page()
    for name in [*service.runs]:
        if (run := service.runs.get(name)) is not None:
            now = clock.steady()
            add_run(page, run, now)
            if run.active:
                SignalsOfRun(page, name, run.engine, service.settings.metrics_layers).add(now)
            await asyncio.sleep(0)
    add_daemon(page, service, clock.steady())
    return page.text(form)
