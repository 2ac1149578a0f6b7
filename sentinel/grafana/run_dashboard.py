"""The dashboard of one run: what it does, and what goes wrong with it.

Every signal of the catalog is on it. Those that no panel here draws have the usual panel of their
kind under the heading of their kind, so that a new one cannot be forgotten.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from sentinel.grafana import charts, state
from sentinel.grafana.dashboard import (
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
from sentinel.grafana.query import ONE, Query, metric, rate, signal
from sentinel.grafana.unit import BYTES, FLAG, SECONDS, SHARE, is_flag, unit_of
from sentinel.grafana.words import metrics_of, of_metrics, of_signals
from sentinel.signals import CATALOG, Signal
from sentinel.signals.machine import COLLECTIVES, DEVICE_MEMORY, HARDWARE, HOST_MEMORY, PHASES
from sentinel.signals.training import EXPERTS, NON_FINITE, PARAMETERS, TRAINING
from sentinel.signals.watching import LOGGED, OURSELVES

_PAGE = "${page}/runs/${run:percentencode}"
_OPEN_INCIDENT = '${page}/incidents/${__data.fields["Incident"]:percentencode}'

FULL, FULLER = 0.85, 0.95  # shares of a limit
BUDGET = 0.01  # the share of a step's time that Sentinel is to stay under

_TIMES = [one.name for one in PHASES if one.unit == "s"]
_PARTS = ["data_seconds", "forward_seconds", "backward_seconds", "optimizer_seconds"]
_DEVICE = [f"device_memory_{what}_bytes" for what in ("allocated", "reserved", "peak")]
_TROUBLE = ["device_memory_retries", "device_memory_ooms", "host_oom_kills"]
_FULL = [*_DEVICE, "host_memory_used_bytes", "host_memory_process_bytes"]


def run_dashboard() -> Dashboard:
    """Made from the catalog as it is."""
    return Dashboard(
        RUN_UID,
        "Sentinel: a run",
        "One run: how it learns, how fast, with what memory, and what goes wrong with it.",
        _sections(),
        variables=(chosen("run", "Run", "sentinel_run_step", several=False),),
        annotations=(
            told("Incidents, as told to Grafana", "sentinel", "run:$run"),
            marked(
                "Incidents",
                metric("sentinel_incident_open", ONE),
                "{{rule}} ({{severity}})",
                INCIDENT,
                "red",
            ),
            marked("Held", f"{metric('sentinel_hold', ONE)} == 1", "{{run}} held", "", "orange"),
        ),
        links=(link("This run on Sentinel's page", _PAGE),),
    )


def _sections() -> tuple[Section, ...]:
    drawn = (
        Section("Now", (*_now(), _incidents(), _alerts())),
        Section("What should not be", (_wrong(),)),
        Section("Learning", _learning()),
        Section("Speed", _speed()),
        Section("Memory", _memory()),
        Section("Layers", _layers()),
        Section("Collectives", _collectives()),
        Section("The worst ranks", (_slowest(), _fullest())),
        Section("Sentinel in the run", _ours()),
    )
    gpus = Section("GPUs", _gpus(), folded=True)
    known = _asked(panel for section in (*drawn, gpus) for panel in section.panels)
    rest = (
        ("Learning, the rest", (*TRAINING, *NON_FINITE, *LOGGED)),
        ("Layers and tensors, the rest", PARAMETERS),
        ("Speed and memory, the rest", (*PHASES, *HOST_MEMORY, *DEVICE_MEMORY)),
        ("Collectives, the rest", COLLECTIVES),
        ("Mixture of experts", EXPERTS),
        ("Sentinel in the run, the rest", OURSELVES),
    )
    folded = [Section(title, _others(signals, known), folded=True) for title, signals in rest]
    others = Section(gpus.title, (*gpus.panels, *_others(HARDWARE, known)), folded=True)
    return (*drawn, *(section for section in folded if section.panels), others)


def _asked(panels: Iterable[Panel]) -> frozenset[str]:
    """The metrics that these panels show."""
    every = " ".join(query.expression for panel in panels for query in panel.queries)
    return frozenset(re.findall(r"sentinel_\w+", every))


def _others(signals: Iterable[Signal], known: frozenset[str]) -> tuple[Panel, ...]:
    """The usual panels of the signals that are not drawn yet; yes and no together at the end."""
    left = [one.name for one in signals if not known & {*metrics_of([one.name])}]
    asked = [name for name in left if is_flag(CATALOG[name])]
    panels = [charts.usual(name) for name in left if name not in asked]
    if asked:
        panels.append(charts.questions("Yes or no", asked, 4 + len(asked)))
    return tuple(panels)


def _now() -> tuple[Panel, ...]:
    page = [data_link("This run on Sentinel's page", _PAGE)]
    firing = f"sum by (run) ({metric('sentinel_alerts_firing', ONE)})"
    return (
        number(
            "State",
            of_metrics(["sentinel_run_state"]),
            Query(f"{metric('sentinel_run_state', ONE)} == 1", "{{state}}"),
            name=True,
            overrides=state.as_series(),
            links=page,
        ),
        number(
            "Step",
            of_metrics(["sentinel_run_step"]),
            Query(metric("sentinel_run_step", ONE), "step"),
            unit="locale",
            links=page,
        ),
        number("Loss", of_signals(["loss"]), Query(signal("loss", "mean"), "loss")),
        number(
            "Alerts firing",
            of_metrics(["sentinel_alerts_firing"]),
            # Nothing fires is no series, and here a 0.
            Query(f"{firing} or 0 * {metric('sentinel_run_step', ONE)}", "alerts"),
            bad=1,
            links=page,
        ),
        number(
            "Ranks",
            of_metrics(["sentinel_ranks"]),
            Query(metric("sentinel_ranks", ONE), "{{state}}"),
        ).sized(8),
        number(
            "Age of the last step",
            of_metrics(["sentinel_run_step_age_seconds"]),
            Query(metric("sentinel_run_step_age_seconds", ONE), "age"),
            unit=SECONDS,
            warn=300,
            bad=1800,
        ),
        number(
            "Held",
            of_metrics(["sentinel_hold"]),
            Query(metric("sentinel_hold", ONE), "held"),
            unit=FLAG,
            bad=1,
        ),
        number(
            "Tokens per second",
            of_signals(["tokens_per_second"]),
            Query(signal("tokens_per_second", "sum"), "tokens per second"),
            unit=unit_of(CATALOG["tokens_per_second"]),
        ),
        number(
            "Utilization of the devices",
            of_signals(["model_flops_utilization"]),
            Query(signal("model_flops_utilization", "mean"), "utilization"),
            unit=SHARE,
        ),
        number(
            "Fullest device",
            "What torch's allocator holds of the most that it can come to hold.",
            Query(_share("device_memory_reserved_bytes", "device_memory_limit_bytes"), "share"),
            unit=SHARE,
            warn=FULL,
            bad=FULLER,
        ),
        number(
            "Last good checkpoint",
            of_metrics(["sentinel_last_good_step"]),
            Query(metric("sentinel_last_good_step", ONE), "step"),
            unit="locale",
        ),
    )


def _share(part: str, whole: str) -> str:
    return f"{signal(part, 'max')} / {signal(whole, 'max')}"


def _incidents() -> Panel:
    asked = Query(f"max by (incident, rule, severity) ({metric('sentinel_incident_open', ONE)})")
    link_to = (data_link("This incident on Sentinel's page", _OPEN_INCIDENT),)
    return table(
        "Open incident",
        of_metrics(["sentinel_incident_open"], "Its page tells what moved first, and what to do."),
        Column("Incident", asked, label="incident", links=link_to),
        Column("Rule", label="rule"),
        Column("Severity", label="severity"),
    ).sized(12, 6)


def _alerts() -> Panel:
    fire = Query(f"sum by (rule, severity) ({metric('sentinel_alerts_firing', ONE)})")
    return table(
        "Alerts",
        of_metrics(["sentinel_alerts_firing"]),
        Column("Rule", label="rule"),
        Column("Severity", label="severity"),
        Column("How many", fire),
    ).sized(12, 6)


def _wrong() -> Panel:
    """What is to be seen at a glance; the same signals of GPUs lie folded with the others."""
    kinds = (*TRAINING, *NON_FINITE, *DEVICE_MEMORY, *OURSELVES)
    names = [one.name for one in kinds if is_flag(one) or one in NON_FINITE]
    return charts.questions("What should not be", [*names, "gpu_slowdown", "gpu_lost"], 14)


def _learning() -> tuple[Panel, ...]:
    norms = lines(
        "Gradient norm",
        of_signals(["grad_norm", "summed_grad_norm"]),
        Query(signal("grad_norm", "mean"), "grad_norm"),
        Query(signal("summed_grad_norm", "norm"), "summed_grad_norm"),
    )
    return (
        charts.over_ranks("loss").sized(12, 9),
        norms.sized(12, 9),
        charts.over_ranks("lr"),
        charts.over_ranks("update_norm"),
        charts.over_ranks("clip_coefficient"),
        charts.over_ranks("loss_scale"),
        lines(
            "Skipped steps",
            of_metrics(["sentinel_steps_skipped_total"]),
            Query(metric("sentinel_steps_skipped_total", ONE), "skipped so far"),
        ),
        charts.over_labels("logged", "What the script logged", 8),
    )


def _speed() -> tuple[Panel, ...]:
    parts = charts.together("Where a step's time goes", _PARTS, limit="step_seconds", stacked=True)
    return (
        charts.over_ranks("tokens_per_second"),
        charts.over_ranks("model_flops_utilization", "Model FLOPs utilization"),
        charts.over_ranks("step_seconds", "Time of a step"),
        parts.sized(12),
        charts.together(
            "Waiting", ["exposed_communication_seconds", "checkpoint_seconds", "silence", "stall"]
        ).sized(12),
    )


def _memory() -> tuple[Panel, ...]:
    return (
        charts.together(
            "Device memory against its limit",
            [*_DEVICE, "device_memory_used_bytes"],
            limit="device_memory_limit_bytes",
        ).sized(12),
        charts.together(
            "Host memory against its limit",
            [f"host_memory_{what}_bytes" for what in ("used", "process", "children", "pinned")],
            limit="host_memory_limit_bytes",
        ).sized(12),
        charts.over_ranks("device_memory_fragmentation", warn=0.5),
        charts.together("Trouble with memory", _TROUBLE),
        charts.over_ranks("host_swap_used_bytes", "Swapped out"),
    )


def _layers() -> tuple[Panel, ...]:
    return (
        charts.over_labels("layer_grad_norm", "Gradient norm of layers"),
        charts.over_labels("layer_update_ratio", "Update over weights of layers"),
    )


def _collectives() -> tuple[Panel, ...]:
    return (
        charts.over_labels("collective_seconds", "Time in collectives", 8),
        charts.over_labels("collective_wait_seconds", "Waiting for the slowest rank", 8),
        charts.over_labels("collective_bytes_per_second", "Bandwidth of collectives", 8),
        charts.over_ranks("collective_lag", "Collectives behind").sized(12, 6),
        charts.over_ranks("collective_hang", "Stuck in a collective", warn=60).sized(12, 6),
    )


def _gpus() -> tuple[Panel, ...]:
    hot = ["gpu_temperature_celsius", "gpu_memory_temperature_celsius"]
    return (
        charts.together("GPU power", ["gpu_power_watts"], limit="gpu_power_limit_watts"),
        charts.together("GPU temperature", hot),
        charts.together("GPU clocks", ["gpu_clock_hertz", "gpu_memory_clock_hertz"]),
    )


def _worst(title: str, names: Sequence[str], unit: str) -> Panel:
    """Which rank has the most of each of these now."""
    metrics = "|".join(metrics_of(names))
    asked = f'max by (__name__, rank) ({{__name__=~"{metrics}",{ONE},stat="max",rank!=""}})'
    return table(
        title,
        of_signals(names, "The rank with the most at the last judged step."),
        Column("What", label="__name__"),
        Column("Rank", label="rank"),
        Column("How much", Query(asked), unit=unit),
    ).sized(12, 8)


def _slowest() -> Panel:
    return _worst("The slowest rank", _TIMES, SECONDS)


def _fullest() -> Panel:
    return _worst("The fullest rank", _FULL, BYTES)


def _ours() -> tuple[Panel, ...]:
    dropped = rate("sentinel_self_dropped_frames_total", ONE, by="run, reason")
    return (
        lines(
            "Sentinel's own time over the step's",
            of_metrics(["sentinel_self_cost_share"]),
            Query(metric("sentinel_self_cost_share", ONE), "worst rank"),
            unit=SHARE,
            warn=BUDGET,
        ),
        lines(
            "Frames that were never sent",
            of_metrics(["sentinel_self_dropped_frames_total", "sentinel_run_frames_missed_total"]),
            Query(dropped, "{{reason}}"),
            Query(rate("sentinel_run_frames_missed_total", ONE, by="run"), "never came"),
            unit="si:/s",
        ),
        lines(
            "Signals by how well they are seen",
            of_metrics(["sentinel_signals", "sentinel_run_series_left_out"]),
            Query(metric("sentinel_signals", ONE), "{{state}}"),
            Query(metric("sentinel_run_series_left_out", ONE), "left out of metrics"),
        ),
        lines(
            "Blind rules",
            of_metrics(["sentinel_rule_blind", "sentinel_alerts_unfollowed"]),
            Query(f"sum by (run) ({metric('sentinel_rule_blind', ONE)})", "blind"),
            Query(
                f"sum by (run) ({metric('sentinel_alerts_unfollowed', ONE)})", "unfollowed alerts"
            ),
            warn=1,
        ),
        lines(
            "Checkpoints",
            of_metrics(["sentinel_checkpoints"]),
            Query(metric("sentinel_checkpoints", ONE), "{{state}}"),
        ),
        lines(
            "Frames that wait",
            of_metrics(["sentinel_self_queue_frames"]),
            Query(metric("sentinel_self_queue_frames", ONE), "longest queue"),
        ),
    )
