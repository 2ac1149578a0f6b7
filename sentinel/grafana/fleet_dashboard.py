"""The dashboard of all runs, or of those that somebody chose."""

from __future__ import annotations

from sentinel.grafana import state
from sentinel.grafana.dashboard import (
    FLEET_UID,
    INCIDENT,
    RUN_UID,
    Dashboard,
    chosen,
    data_link,
    link,
    marked,
    told,
)
from sentinel.grafana.grid import Section
from sentinel.grafana.panel import Column, Panel, lines, number, table
from sentinel.grafana.query import SOME, Query, metric, signal
from sentinel.grafana.unit import SECONDS, SHARE, unit_of
from sentinel.grafana.words import of_metrics, of_signals
from sentinel.signals import CATALOG
from sentinel.signals.exposition import own_stat

RUNNING, LOST = 'state="running"', 'state="lost"'

_RUN = '${__data.fields["Run"]:percentencode}'
_LABEL = "${__field.labels.run:percentencode}"
_LINKS = (
    data_link(
        "Its dashboard",
        f"/d/{RUN_UID}?var-run={_RUN}&${{datasource:queryparam}}&${{__url_time_range}}",
    ),
    data_link("Its page", f"${{page}}/runs/{_RUN}"),
)
_OPEN_INCIDENT = (
    data_link(
        "The incident on Sentinel's page",
        '${page}/incidents/${__data.fields["Open incident"]:percentencode}',
    ),
)


def fleet_dashboard() -> Dashboard:
    """All runs that the daemons know of which this Prometheus scrapes."""
    return Dashboard(
        FLEET_UID,
        "Sentinel: all runs",
        "All runs: which go on, which are held or lost, and what is wrong with them.",
        (
            Section("Now", (*_counts(), _runs())),
            Section("Over time", _charts()),
        ),
        variables=(chosen("run", "Run", "sentinel_run_step", several=True),),
        annotations=(
            told("Incidents, as told to Grafana", "sentinel"),
            marked(
                "Incidents",
                metric("sentinel_incident_open", SOME),
                "{{run}}: {{rule}} ({{severity}})",
                INCIDENT,
                "red",
            ),
        ),
        links=(link("Sentinel's page", "${page}/"),),
    )


def _counts() -> tuple[Panel, ...]:
    def count(title: str, what: str, expression: str, *, bad: bool = False) -> Panel:
        # Grafana shows nothing where no run is so; a 0 says it.
        asked = Query(f"{expression} or vector(0)", title.lower())
        return number(title, what, asked, bad=1 if bad else None).sized(6)

    return (
        count(
            "Runs that go on",
            of_metrics(["sentinel_run_state"]),
            f"sum({metric('sentinel_run_state', SOME, RUNNING)})",
        ),
        count(
            "Held",
            of_metrics(["sentinel_hold"]),
            f"sum({metric('sentinel_hold', SOME)})",
            bad=True,
        ),
        count(
            "Ranks lost",
            of_metrics(["sentinel_ranks"]),
            f"sum({metric('sentinel_ranks', SOME, LOST)})",
            bad=True,
        ),
        count(
            "Open incidents",
            of_metrics(["sentinel_incident_open"]),
            f"count({metric('sentinel_incident_open', SOME)})",
            bad=True,
        ),
    )


def _runs() -> Panel:
    def of_run(expression: str) -> Query:
        return Query(f"max by (run) ({expression})")

    states = Query(f"max by (run, state) ({metric('sentinel_run_state', SOME)} == 1)")
    opened = f"max by (run, incident, severity) ({metric('sentinel_incident_open', SOME)})"
    total = f"sum by (run) ({metric('sentinel_incidents_total', SOME)})"
    none = f"0 * {metric('sentinel_run_step', SOME)}"
    return table(
        "Runs",
        "A row for each run. Its name leads to its dashboard and its page.",
        Column("Run", label="run", links=_LINKS),
        Column("State", states, label="state", mapping=state.as_text()),
        Column("Step", of_run(metric("sentinel_run_step", SOME)), unit="locale"),
        Column("Since", of_run(metric("sentinel_run_step_age_seconds", SOME)), unit=SECONDS),
        Column("Loss", of_run(signal("loss", "mean", SOME))),
        Column("Step takes", Query(signal("step_seconds", "max", SOME)), unit=SECONDS),
        Column("Tokens", of_run(signal("tokens_per_second", "sum", SOME)), unit="si:/s"),
        Column("Open incident", Query(opened), label="incident", links=_OPEN_INCIDENT),
        Column("Severity", label="severity"),
        Column("Incidents", Query(f"{total} or max by (run) ({none})"), warn=1),
        Column("Ranks", Query(f"sum by (run) ({metric('sentinel_ranks', SOME)})")),
        Column("Lost", of_run(metric("sentinel_ranks", SOME, LOST)), bad=1),
        Column("Held", of_run(metric("sentinel_hold", SOME)), unit="bool_yes_no", bad=1),
    ).sized(24, 10)


def _charts() -> tuple[Panel, ...]:
    links = [
        data_link(
            "Its dashboard",
            f"/d/{RUN_UID}?var-run={_LABEL}&${{datasource:queryparam}}&${{__url_time_range}}",
        ),
        data_link("Its page", f"${{page}}/runs/{_LABEL}"),
    ]

    def of(name: str, title: str) -> Panel:
        found = CATALOG[name]
        asked = Query(signal(name, own_stat(found), SOME), "{{run}}")
        return lines(title, of_signals([name]), asked, unit=unit_of(found), links=links)

    def counted(name: str, title: str, expression: str) -> Panel:
        return lines(title, of_metrics([name]), Query(expression, "{{run}}"), links=links)

    memory = " / ".join(
        signal(f"device_memory_{what}_bytes", "max", SOME) for what in ("reserved", "limit")
    )
    return (
        of("loss", "Loss").sized(12, 9),
        of("tokens_per_second", "Tokens per second").sized(12, 9),
        of("grad_norm", "Gradient norm"),
        of("step_seconds", "Time of a step"),
        of("model_flops_utilization", "Model FLOPs utilization"),
        lines(
            "Device memory over its limit",
            of_signals(["device_memory_reserved_bytes", "device_memory_limit_bytes"]),
            Query(memory, "{{run}}"),
            unit=SHARE,
            warn=0.85,
            bad=0.95,
            links=links,
        ),
        counted(
            "sentinel_alerts_firing",
            "Alerts firing",
            f"sum by (run) ({metric('sentinel_alerts_firing', SOME)})",
        ),
        counted(
            "sentinel_ranks",
            "Ranks lost",
            metric("sentinel_ranks", SOME, LOST),
        ),
    )
