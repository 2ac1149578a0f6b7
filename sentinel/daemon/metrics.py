"""`/metrics`: what Prometheus may know. Aggregates only, never one series per rank and signal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from statistics import median
from typing import get_args

from prometheus_client import CollectorRegistry, ProcessCollector, disable_created_metrics
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from sentinel import __version__, clock
from sentinel.daemon.run import Run
from sentinel.daemon.service import Service
from sentinel.engine.checkpoint import State
from sentinel.engine.coverage import SignalState
from sentinel.signals import DROPS
from sentinel.store.shapes import RunState
from sentinel.wire import Series

CONTENT_TYPE = CONTENT_TYPE_LATEST

disable_created_metrics()  # type: ignore[no-untyped-call]  # process_start_time_seconds says it


def exposition(service: Service) -> bytes:
    """All metrics in Prometheus' text format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(service))
    ProcessCollector(registry=registry)
    return generate_latest(registry)


class _Collector(Collector):
    """Reads the daemon as it is at the moment of the scrape."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def collect(self) -> Iterator[Metric]:
        """See `Collector`."""
        runs = [*self._service.runs.values()]
        yield from _of_training(runs)
        yield from _of_judgment(runs)
        yield from _of_checkpoints(runs)
        yield from _of_coverage(runs)
        yield from _of_hooks(runs)
        yield from self._of_daemon()
        yield from self._of_trouble()

    def _of_daemon(self) -> Iterator[Metric]:
        service, counts = self._service, self._service.counts
        yield _counter("sentinel_daemon_frames", "Frames taken from ranks.", counts.frames)
        rejected = CounterMetricFamily(
            "sentinel_daemon_messages_rejected",
            "Messages and connections of ranks that were not taken, by reason.",
            labels=["reason"],
        )
        for reason, number in sorted(_rejections(service).items()):
            rejected.add_metric([reason], number)
        yield rejected
        refused = CounterMetricFamily(
            "sentinel_daemon_refusals",
            "What was refused to those who may not ask for it, by kind.",
            labels=["kind"],
        )
        for kind, number in sorted(counts.refused.items()):
            refused.add_metric([kind], number)
        yield refused
        yield _gauge(
            "sentinel_daemon_connections", "Connections of ranks that are open.", counts.connections
        )
        if counts.last_frame is not None:
            age = max(0.0, clock.steady() - counts.last_frame)
            yield _gauge(
                "sentinel_daemon_last_frame_age_seconds", "Since the newest frame came.", age
            )
        yield from counts.judge.collect()
        yield from counts.order.collect()
        build = GaugeMetricFamily(
            "sentinel_build_info", "1, labeled with the version.", labels=["version"]
        )
        build.add_metric([__version__], 1)
        yield build

    def _of_trouble(self) -> Iterator[Metric]:
        """What the daemon could not do, or has not done yet."""
        service, counts = self._service, self._service.counts
        pending, oldest = service.store.outbox.waiting()
        age = 0.0 if oldest is None else max(0.0, clock.steady() - oldest)
        yield _gauge(
            "sentinel_daemon_outbox_pending", "Messages to people that are not sent yet.", pending
        )
        yield _gauge("sentinel_daemon_outbox_age_seconds", "Age of the oldest of them, or 0.", age)
        failed = service.store.outbox.counts().get("failed", 0)
        yield _gauge(
            "sentinel_daemon_outbox_failed", "Messages to people that could not be sent.", failed
        )
        yield _counter(
            "sentinel_daemon_recording_dropped",
            "Messages missing from the recording since the disk did not take them.",
            service.recording.dropped,
        )
        yield _counter(
            "sentinel_daemon_record_failures",
            "Changes that could not be put on the record when they happened.",
            counts.unrecorded,
        )
        yield _counter(
            "sentinel_daemon_faults", "Errors inside the daemon that were caught.", counts.faults
        )
        errors = CounterMetricFamily(
            "sentinel_daemon_rule_errors",
            "Errors of rules, which are off from then on.",
            labels=["run", "rule"],
        )
        for run in service.runs.values():
            for rule, number in run.engine.rule_errors.items():
                errors.add_metric([run.name, rule], number)
        yield errors


def _of_training(runs: list[Run]) -> Iterator[Metric]:
    step = _family("sentinel_run_step", "Last optimizer step that was judged.")
    state = _family("sentinel_run_state", "1 for the state that the run is in.", "state")
    ranks = _family("sentinel_ranks", "Ranks by how they are.", "state")
    signal = _family(
        "sentinel_signal", "A signal at the last judged step, over all ranks.", "signal"
    )
    largest = _family("sentinel_layer_grad_norm_max", "Largest gradient norm of any layer.")
    middle = _family("sentinel_layer_grad_norm_median", "Median gradient norm over the layers.")
    hold = _family("sentinel_hold", "1 while the run is held.")
    skipped = CounterMetricFamily(
        "sentinel_steps_skipped", "Steps that the optimizer skipped.", labels=["run"]
    )
    for run in runs:
        step.add_metric([run.name], run.engine.step)
        for name in get_args(RunState):
            state.add_metric([run.name, name], float(run.state == name))
        for name, number in _ranks(run).items():
            ranks.add_metric([run.name, name], number)
        norms = []
        for series, value in [*run.engine.latest.items()]:
            if not series.label:
                signal.add_metric([run.name, series.signal], value)
            elif series.signal == "layer_grad_norm":
                norms.append(value)
        if norms:
            # A NaN would make both depend on the order of the layers.
            finite = [norm for norm in norms if norm == norm]
            bad = len(finite) < len(norms)
            largest.add_metric([run.name], float("nan") if bad else max(finite))
            middle.add_metric([run.name], float("nan") if bad else median(finite))
        hold.add_metric([run.name], float(run.state in ("held", "resuming")))
        skipped.add_metric([run.name], run.engine.skipped)
    yield from (step, state, ranks, signal, largest, middle, hold, skipped)


def _of_judgment(runs: list[Run]) -> Iterator[Metric]:
    firing = GaugeMetricFamily(
        "sentinel_alerts_firing", "Alerts that fire.", labels=["run", "rule", "severity"]
    )
    incidents = CounterMetricFamily(
        "sentinel_incidents", "Incidents that opened.", labels=["run", "severity"]
    )
    for run in runs:
        alerts = Counter((rule, severity) for (rule, _), severity in run.firing.items())
        for (rule, severity), number in sorted(alerts.items()):
            firing.add_metric([run.name, rule, severity], number)
        for severity, number in sorted(run.incidents.items()):
            incidents.add_metric([run.name, severity], number)
    yield from (firing, incidents)


def _of_checkpoints(runs: list[Run]) -> Iterator[Metric]:
    good = _family(
        "sentinel_last_good_step", "Step of the newest healthy checkpoint, where there is one."
    )
    number = _family("sentinel_checkpoints", "Checkpoints by how they stand.", "state")
    for run in runs:
        if (last := run.engine.checkpoints.last_good) and last.step is not None:
            good.add_metric([run.name], last.step)
        states = Counter(one.state for one in run.engine.checkpoints.all())
        for state in get_args(State):
            number.add_metric([run.name, state], states[state])
    yield from (good, number)


def _of_coverage(runs: list[Run]) -> Iterator[Metric]:
    """What can be seen: as many series as there are rules, never one for a rank."""
    signals = _family("sentinel_signals", "Signals, by their worst state on any rank.", "state")
    blind = _family("sentinel_rule_blind", "1 if a rule cannot come true on some rank.", "rule")
    for run in runs:
        report = run.engine.coverage()
        worst: dict[str, int] = {}
        for line in report.signals:
            worst[line.signal] = max(worst.get(line.signal, 0), _STATES.index(line.state))
        for at, state in enumerate(_STATES):
            number = sum(one == at for one in worst.values())
            signals.add_metric([run.name, state], number)
        for rule in report.rules:
            blind.add_metric([run.name, rule.rule], float(rule.state == "blind"))
    yield from (signals, blind)


_STATES = get_args(SignalState)  # from the best to the worst


def _of_hooks(runs: list[Run]) -> Iterator[Metric]:
    """What the part of Sentinel that runs in the training processes costs and loses."""
    share = _family(
        "sentinel_self_cost_share", "Time in Sentinel's own code over that of the step, worst rank."
    )
    queue = _family("sentinel_self_queue_frames", "Frames that wait to be sent, longest queue.")
    dropped = CounterMetricFamily(
        "sentinel_self_dropped_frames",
        "Frames of all ranks that were never sent, by reason.",
        labels=["run", "reason"],
    )
    for run in runs:
        for family, name in ((share, "monitor_share"), (queue, "monitor_queue")):
            value = run.engine.latest.get(Series(name))
            if value is not None:
                family.add_metric([run.name], value)
        lost: Counter[str] = Counter()
        for rank in run.ranks.values():
            lost.update(rank.dropped)
        for reason in DROPS:
            dropped.add_metric([run.name, reason], lost[reason])
    yield from (share, queue, dropped)


def _ranks(run: Run) -> dict[str, int]:
    """How many ranks are in each state. One that stands is held, though it is connected too."""
    states = Counter({"connected": 0, "held": 0, "lost": 0, "finished": 0})
    held = run.state in ("held", "resuming")
    for number, rank in run.ranks.items():
        if rank.goodbye is not None:
            states["finished"] += 1
        elif number in run.connected:
            states["held" if held else "connected"] += 1
        else:
            states["lost"] += 1
    return dict(states)


def _rejections(service: Service) -> Counter[str]:
    """By reason: what sessions did not take, and frames that the engines refused."""
    total = Counter(service.counts.rejected)
    for run in service.runs.values():
        for reason, number in run.engine.refused.items():
            total[reason] += number
    return total


def _family(name: str, text: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, labels=["run", *labels])


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, value=value)


def _counter(name: str, text: str, value: float) -> CounterMetricFamily:
    return CounterMetricFamily(name, text, value=value)
