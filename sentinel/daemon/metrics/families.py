"""All metrics of the daemon but those of signals: names, kinds, labels and HELP."""

from __future__ import annotations

from collections.abc import Mapping

from sentinel.daemon.metrics.family import Family, Kind


def _of_run(name: str, kind: Kind, text: str, *labels: str) -> Family:
    return Family(f"sentinel_{name}", kind, text, ("run", *labels))


def _of_daemon(name: str, kind: Kind, text: str, *labels: str) -> Family:
    return Family(f"sentinel_daemon_{name}", kind, text, labels)


# How runs stand. They stay until the daemon forgets a run that has ended.

RUN_STEP = _of_run("run_step", "gauge", "Last optimizer step that was judged.")
RUN_STEP_AGE = _of_run(
    "run_step_age_seconds", "gauge", "Since that step was judged, of a run that goes on."
)
RUN_STATE = _of_run("run_state", "gauge", "1 for the state that the run is in.", "state")
RANKS = _of_run("ranks", "gauge", "Ranks by how they are.", "state")
HOLD = _of_run("hold", "gauge", "1 while the run is held.")
STEPS_SKIPPED = _of_run("steps_skipped_total", "counter", "Steps that the optimizer skipped.")

# What was judged of them.

ALERTS_FIRING = _of_run("alerts_firing", "gauge", "Alerts that fire.", "rule", "severity")
ALERTS_UNFOLLOWED = _of_run(
    "alerts_unfollowed", "gauge", "Alerts that hold beyond the number that is followed.", "rule"
)
INCIDENTS = _of_run("incidents_total", "counter", "Incidents that opened.", "severity")
INCIDENT_OPEN = _of_run(
    "incident_open",
    "gauge",
    "1 while this incident of the run is open; `rule` is that of its cause.",
    "incident",
    "rule",
    "severity",
)
LAST_GOOD_STEP = _of_run(
    "last_good_step", "gauge", "Step of the newest healthy checkpoint, where there is one."
)
CHECKPOINTS = _of_run("checkpoints", "gauge", "Checkpoints by how they stand.", "state")

# How well they can be seen.

SIGNALS = _of_run("signals", "gauge", "Signals, by their worst state on any rank.", "state")
RULE_BLIND = _of_run("rule_blind", "gauge", "1 if a rule cannot come true on some rank.", "rule")
SELF_COST = _of_run(
    "self_cost_share", "gauge", "Time in Sentinel's own code over that of the step, worst rank."
)
SELF_QUEUE = _of_run(
    "self_queue_frames", "gauge", "Frames that wait to be sent, longest queue of any rank."
)
SELF_DROPPED = _of_run(
    "self_dropped_frames_total",
    "counter",
    "Frames of all ranks that were never sent, by reason.",
    "reason",
)
FRAMES_MISSED = _of_run(
    "run_frames_missed_total", "counter", "Frames of ranks that never came, by their numbers."
)
OVERRUNS = _of_run(
    "run_overruns_total",
    "counter",
    "How often too many steps waited for slow ranks, which then were not waited for.",
)
SERIES_LEFT_OUT = _of_run(
    "run_series_left_out", "gauge", "Series of signals that are beyond the bounds of a scrape."
)

# The daemon itself.

FRAMES = _of_daemon("frames_total", "counter", "Frames taken from ranks.")
LAST_FRAME_AGE = _of_daemon(
    "last_frame_age_seconds", "gauge", "Since the newest frame of any rank came."
)
REJECTED = _of_daemon(
    "messages_rejected_total",
    "counter",
    "Messages and connections of ranks that were not taken, by reason.",
    "reason",
)
REFUSALS = _of_daemon(
    "refusals_total",
    "counter",
    "What was refused to those who may not ask for it, by kind.",
    "kind",
)
CONNECTIONS = _of_daemon("connections", "gauge", "Connections of ranks that are open.")
LISTENERS = _of_daemon("listeners", "gauge", "Pages and programs that listen to events.")
OUTBOX_PENDING = _of_daemon("outbox_pending", "gauge", "Messages to people that are not sent yet.")
OUTBOX_AGE = _of_daemon("outbox_age_seconds", "gauge", "Age of the oldest of them, or 0.")
OUTBOX_FAILED = _of_daemon(
    "outbox_failed", "gauge", "Messages to people that could not be sent, as far as on record."
)
RECORDING_DROPPED = _of_daemon(
    "recording_dropped_total",
    "counter",
    "Messages missing from the recording since the disk did not take them.",
)
HISTORY_DROPPED = _of_daemon(
    "history_dropped_total",
    "counter",
    "Steps missing from the charts' history since the disk did not take them.",
)
RECORDING_FAILING = _of_daemon(
    "recording_failing", "gauge", "1 while the recording of messages cannot be written."
)
RECORD_FAILURES = _of_daemon(
    "record_failures_total",
    "counter",
    "Changes that could not be put on the record when they happened.",
)
RECORD_FAILING = _of_daemon("record_failing", "gauge", "1 while the record cannot be written.")
FAULTS = _of_daemon("faults_total", "counter", "Errors inside the daemon that were caught.")
RULE_ERRORS = _of_daemon(
    "rule_errors_total", "counter", "Errors of rules, which are off from then on.", "run", "rule"
)
JUDGE = _of_daemon("judge_seconds", "histogram", "Time to judge one message of a rank.")
ORDER = _of_daemon(
    "order_seconds",
    "histogram",
    "From the frame that made a rule fire to its order leaving for the ranks.",
)
LAG = _of_daemon("lag_seconds", "histogram", "How late the daemon's clock ticked, once a second.")
BUILD = Family("sentinel_build_info", "gauge", "1, labeled with the version.", ("version",))

OWN: Mapping[str, Family] = {
    one.name: one for one in tuple(globals().values()) if isinstance(one, Family)
}
"""All of them, by name."""
