"""The dashboard of Sentinel itself: whether it sees, keeps up, writes and tells."""

from __future__ import annotations

from sentinel.grafana.dashboard import DAEMON_UID, Dashboard, chosen, link
from sentinel.grafana.grid import Section
from sentinel.grafana.panel import Column, Panel, heat, lines, number, table
from sentinel.grafana.query import INSTANCE, Query, metric, quantile, rate
from sentinel.grafana.unit import BYTES, COUNT, SECONDS, SHARE
from sentinel.grafana.words import of_metrics

_PER_SECOND = "si:/s"
_D = "sentinel_daemon_"


def daemon_dashboard() -> Dashboard:
    """All daemons that this Prometheus scrapes."""
    return Dashboard(
        DAEMON_UID,
        "Sentinel: the daemon itself",
        "Whether the daemon sees the ranks, keeps up, writes its record and tells people.",
        (
            Section("Now", _now()),
            Section("Does it see", _seeing()),
            Section("Does it keep up", _pace()),
            Section("Does it write and tell", _writing()),
            Section("What it needs", _needs()),
        ),
        variables=(chosen("instance", "Daemon", "sentinel_build_info", several=True),),
        links=(link("Sentinel's page", "${page}/"),),
    )


def _now() -> tuple[Panel, ...]:
    up = f"time() - {metric('process_start_time_seconds', INSTANCE)}"
    return (
        number(
            "Daemon",
            of_metrics(["sentinel_build_info"]),
            Query(metric("sentinel_build_info", INSTANCE), "{{instance}}, version {{version}}"),
            name=True,
        ).sized(8),
        number("Up for", "Since the daemon started.", Query(up, "up"), unit="dtdurations"),
        _one("connections", "Connections"),
        _one("last_frame_age_seconds", "Since the last frame", SECONDS, warn=30, bad=120),
        _one("outbox_pending", "Messages to send", warn=10, bad=100),
    )


def _one(
    name: str,
    title: str,
    unit: str = COUNT,
    *,
    warn: float | None = None,
    bad: float | None = None,
) -> Panel:
    asked = Query(metric(_D + name, INSTANCE), title.lower())
    return number(title, of_metrics([_D + name]), asked, unit=unit, warn=warn, bad=bad)


def _rates(title: str, *names: str, by: str = "") -> Panel:
    """How often these happen, each called by its name, or by its labels."""
    labels = ", ".join(f"{{{{{label}}}}}" for label in by.split(", ") if label)
    queries = (
        Query(
            rate(_D + name, INSTANCE, by=f"instance, {by}" if by else ""),
            labels or name.removesuffix("_total").replace("_", " "),
        )
        for name in names
    )
    return lines(title, of_metrics([_D + name for name in names]), *queries, unit=_PER_SECOND)


def _gauges(title: str, *names: str, unit: str = COUNT, warn: float | None = None) -> Panel:
    queries = (
        Query(metric(_D + name, INSTANCE), name.removesuffix("_seconds").replace("_", " "))
        for name in names
    )
    return lines(title, of_metrics([_D + name for name in names]), *queries, unit=unit, warn=warn)


def _seeing() -> tuple[Panel, ...]:
    overrun = Query(rate("sentinel_run_overruns_total", INSTANCE, by="run"), "{{run}}")
    return (
        _rates("Frames", "frames_total"),
        _gauges("Connections", "connections", "listeners"),
        _gauges("Age of the last frame", "last_frame_age_seconds", unit=SECONDS, warn=120),
        _rates("Not taken from ranks", "messages_rejected_total", by="reason"),
        _rates("Refused to people and programs", "refusals_total", by="kind"),
        lines(
            "Steps judged without slow ranks",
            of_metrics(["sentinel_run_overruns_total"]),
            overrun,
            unit=_PER_SECOND,
        ),
    )


def _pace() -> tuple[Panel, ...]:
    found: list[Panel] = []
    for name, title, slow in (
        ("judge_seconds", "Time to judge a message", None),
        ("order_seconds", "From a bad frame to the order", 0.05),
        ("lag_seconds", "Lag of its clock", 0.25),
    ):
        said = of_metrics([_D + name])
        quantiles = (
            Query(quantile(q, _D + name, INSTANCE), f"p{q * 100:g} {{{{instance}}}}")
            for q in (0.5, 0.9, 0.99)
        )
        found.append(lines(title, said, *quantiles, unit=SECONDS, warn=slow))
    for name, title in (("judge_seconds", "Judging"), ("order_seconds", "Ordering")):
        bucket = metric(f"{_D}{name}_bucket", INSTANCE)
        buckets = f"sum by (le) (increase({bucket}[$__rate_interval]))"
        found.append(
            heat(
                f"{title}, by how long it took",
                of_metrics([_D + name]),
                Query(buckets, "{{le}}"),
                SECONDS,
            ).sized(12)
        )
    return tuple(found)


def _writing() -> tuple[Panel, ...]:
    errors = f"sum by (run, rule) ({metric(f'{_D}rule_errors_total', INSTANCE)})"
    return (
        _gauges("Messages to people", "outbox_pending", "outbox_failed"),
        _gauges("Age of the oldest message", "outbox_age_seconds", unit=SECONDS, warn=600),
        _rates(
            "Missing from recording and record",
            "recording_dropped_total",
            "history_dropped_total",
            "record_failures_total",
        ),
        _gauges("Cannot write now", "recording_failing", "record_failing", warn=1),
        _rates("Faults inside", "faults_total"),
        table(
            "Rules that are off after an error",
            of_metrics([f"{_D}rule_errors_total"]),
            Column("Run", label="run"),
            Column("Rule", label="rule"),
            Column("Errors", Query(errors)),
        ).sized(8),
    )


def _needs() -> tuple[Panel, ...]:
    files = f"{metric('process_open_fds', INSTANCE)} / {metric('process_max_fds', INSTANCE)}"
    return (
        lines(
            "Memory",
            "Resident memory of the daemon's process.",
            Query(metric("process_resident_memory_bytes", INSTANCE), "{{instance}}"),
            unit=BYTES,
        ),
        lines(
            "Processor",
            "Processor time of the daemon's process; 100% is one core.",
            Query(rate("process_cpu_seconds_total", INSTANCE), "{{instance}}"),
            unit=SHARE,
        ),
        lines(
            "Open files over what it may open",
            "Connections of ranks and programs are files too.",
            Query(files, "{{instance}}"),
            unit=SHARE,
            warn=0.8,
        ),
        lines(
            "Time of a scrape",
            "How long Prometheus waits for the daemon's metrics.",
            Query(metric("scrape_duration_seconds", INSTANCE), "{{instance}}"),
            unit=SECONDS,
        ),
    )
