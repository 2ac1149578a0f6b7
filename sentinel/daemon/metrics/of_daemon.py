"""The daemon itself: what it takes, how late it is, and what it could not do."""

from __future__ import annotations

from collections import Counter
from functools import cache

from prometheus_client import CollectorRegistry, ProcessCollector, disable_created_metrics

from sentinel import __version__
from sentinel.daemon.metrics import families
from sentinel.daemon.metrics.family import Family, Kind
from sentinel.daemon.metrics.page import Page
from sentinel.daemon.service import Service

disable_created_metrics()  # type: ignore[no-untyped-call]  # process_start_time_seconds says it


def add_daemon(page: Page, service: Service, now: float) -> None:
    """All about the daemon and its process."""
    _work(page, service, now)
    _trouble(page, service, now)
    _process(page)


def _work(page: Page, service: Service, now: float) -> None:
    counts = service.counts
    page.add(families.FRAMES, counts.frames)
    for reason, number in sorted(_rejections(service).items()):
        page.add(families.REJECTED, number, reason)
    for kind, number in sorted(counts.refused.items()):
        page.add(families.REFUSALS, number, kind)
    page.add(families.CONNECTIONS, counts.connections)
    page.add(families.LISTENERS, service.streams.listening)
    if counts.last_frame is not None:
        page.add(families.LAST_FRAME_AGE, max(0.0, now - counts.last_frame))
    page.include(families.JUDGE, counts.judge.collect())
    page.include(families.ORDER, counts.order.collect())
    page.include(families.LAG, counts.lag.collect())
    page.add(families.BUILD, 1, __version__)


def _trouble(page: Page, service: Service, now: float) -> None:
    """What the daemon could not do, or has not done yet."""
    counts, outbox = service.counts, service.store.outbox
    pending, oldest = outbox.waiting()
    page.add(families.OUTBOX_PENDING, pending)
    page.add(families.OUTBOX_AGE, 0.0 if oldest is None else max(0.0, now - oldest))
    page.add(families.OUTBOX_FAILED, outbox.counts().get("failed", 0))
    page.add(families.RECORDING_DROPPED, service.recording.dropped)
    page.add(families.HISTORY_DROPPED, service.history.dropped)
    page.add(families.RECORDING_FAILING, service.recording_fails)
    page.add(families.RECORD_FAILURES, counts.unrecorded)
    page.add(families.RECORD_FAILING, service.ledger.failing)
    page.add(families.FAULTS, counts.faults)
    for run in service.runs.values():
        for rule, number in run.engine.rule_errors.items():
            page.add(families.RULE_ERRORS, number, run.name, rule)


def _rejections(service: Service) -> Counter[str]:
    """By reason: what sessions did not take, and frames that the engines refused."""
    total = Counter(service.counts.rejected)
    for run in service.runs.values():
        for reason, number in run.engine.refused.items():
            total[reason] += number
    return total


@cache
def _collector() -> ProcessCollector:
    return ProcessCollector(registry=CollectorRegistry())


def _process(page: Page) -> None:
    """Memory, files and time of the process, by the names that all programs have for them."""
    for metric in _collector().collect():
        kind: Kind = "counter" if metric.type == "counter" else "gauge"
        name = f"{metric.name}_total" if kind == "counter" else metric.name
        page.include(Family(name, kind, metric.documentation), [metric])
