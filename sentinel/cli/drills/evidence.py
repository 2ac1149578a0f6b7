"""What a drill leaves behind, once its daemon has ended, and whether that is as it must be."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from sentinel.blackbox import MAX_FILE, read
from sentinel.cli import record
from sentinel.cli.drills.chronicle import Check
from sentinel.cli.drills.scenario import Scenario
from sentinel.cli.drills.stage import RUN
from sentinel.cli.whereabouts import whereabouts
from sentinel.engine.transition import Cause
from sentinel.errors import SentinelError
from sentinel.notify.loopback_message import Message
from sentinel.store.shapes import IncidentJSON, StatusJSON
from sentinel.store.store import Store


@dataclass(frozen=True)
class Evidence:
    """What the record, Slack, the black boxes and the trainer say.

    `outbox` counts messages by their state; `messages` are those that Slack took, where it could
    be looked into. `status` is the launcher's, `steps` and `loss` are the trainer's own last ones.
    """

    incidents: Sequence[IncidentJSON]
    run: StatusJSON | None
    outbox: dict[str, int]
    messages: Sequence[Message]
    batch: str
    status: int
    steps: int
    loss: float


def gather(
    state_dir: Path, before: Collection[str], messages: Sequence[Message], losses: Path, status: int
) -> Evidence:
    """All of it. `before`: ids of incidents of earlier drills. Raises `SentinelError`."""
    run = next(iter(record.status(state_dir, RUN)), None)
    incidents = [one for one in record.incidents(state_dir, RUN) if one["id"] not in before]
    store = Store.open(state_dir, readonly=True)
    try:
        outbox = store.outbox.counts()
    finally:
        store.close()
    batch = batch_of(incidents[0], state_dir / "blackbox") if incidents else ""
    return Evidence(incidents, run, outbox, messages, batch, status, *last_loss(losses))


def known(state_dir: Path) -> frozenset[str]:
    """The ids of the incidents that are on record already."""
    try:
        return frozenset(one["id"] for one in record.incidents(state_dir, RUN))
    except SentinelError:
        return frozenset()


def last_loss(file: Path) -> tuple[int, float]:
    """The last step that the trainer did, and its loss, from the trainer's own file."""
    try:
        step, _, loss = file.read_text().splitlines()[-1].partition(" ")
        return int(step), float.fromhex(loss)
    except (OSError, ValueError, IndexError):
        return 0, math.nan


def batch_of(incident: IncidentJSON, boxes: Path) -> str:
    """The fingerprint of the batch in question: by the cause, or else by the rank's black box."""
    cause = incident["cause"]
    if cause["batch"] or cause["rank"] is None:
        return cause["batch"] or ""
    try:
        with (boxes / incident["id"] / f"rank{cause['rank']}.blackbox").open("rb") as file:
            box = read(file.read(MAX_FILE))
    except (OSError, SentinelError):
        return ""
    kept = [one for one in box.records if one.frame.step == cause["step"]]
    return ", ".join(kept[-1].batches) if kept else ""


def judge(scenario: Scenario, evidence: Evidence) -> list[Check]:
    """Everything that the scenario demands, with whether it is so."""
    checks = [*_noticing(scenario, evidence), *_telling(scenario, evidence)]
    checks += _standing(scenario, evidence)
    checks.append(_acting(scenario, evidence))
    return [*checks, *_ending(scenario, evidence)]


def _noticing(scenario: Scenario, evidence: Evidence) -> list[Check]:
    rules = {alert["rule"] for one in evidence.incidents for alert in one["alerts"]}
    noticed = Check(
        f"it was noticed by {' or '.join(sorted(scenario.rules))}", bool(rules & scenario.rules)
    )
    if not evidence.incidents:
        return [noticed]
    cause = msgspec.convert(evidence.incidents[0]["cause"], Cause)
    right = (
        cause.rule in scenario.rules
        and scenario.rank in (None, cause.rank)
        and scenario.module in (None, cause.module)
    )
    checks = [
        noticed,
        Check(f"the cause is named: {cause.signal} ({cause.rule}) {whereabouts(cause)}", right),
    ]
    if scenario.evidence:
        found = [
            one["title"]
            for one in evidence.incidents[0]["evidence"]
            if (one["kind"], one["rank"]) == (scenario.evidence, scenario.rank)
        ]
        said = f"evidence speaks for it: {found[0]}" if found else "evidence speaks for it"
        checks.append(Check(said, bool(found)))
    if scenario.names_batch:
        where = "the incident" if cause.batch else "the black box"
        said = f"the batch is named by {where}: {evidence.batch}"
        checks.append(Check(said if evidence.batch else "the batch is named", bool(evidence.batch)))
    return checks


def _standing(scenario: Scenario, evidence: Evidence) -> list[Check]:
    """Where the rank stands that hangs, and where the one that waits for it."""
    if scenario.stands_in is None:
        return []
    found = [piece for one in evidence.incidents for piece in one["evidence"]]
    stacks = [piece for piece in found if piece["kind"] == "stack"]
    stood = [one for one in stacks if one["rank"] == scenario.rank]
    waited = [one for one in stacks if one["rank"] != scenario.rank]
    function = re.compile(rf"[ .]{scenario.stands_in}$", re.MULTILINE)
    return [
        Check(
            f"the stack of rank {scenario.rank} names the function in which it stands"
            + "".join(f": {one['title']}" for one in stood),
            any(function.search(one["text"]) for one in stood),
        ),
        Check(
            "a rank that waits for it stands in a collective"
            + "".join(f": {one['title']}" for one in waited),
            any("/torch/distributed/" in one["text"] for one in waited),
        ),
    ]


def _telling(scenario: Scenario, evidence: Evidence) -> list[Check]:
    sent = evidence.outbox.get("sent", 0)
    text = "\n".join(message.as_text() for message in evidence.messages)
    wanted = [scenario.module or "", "" if scenario.rank is None else f"rank {scenario.rank}"]
    shown = not evidence.messages or all(word in text for word in wanted)
    one = sent == 1
    checks = [
        Check(
            f"Slack received {sent} message{'' if one else 's'} that say{'s' if one else ''} so",
            sent > 0 and sent == sum(evidence.outbox.values()) and shown,
        )
    ]
    if evidence.messages:
        events = [event_id(message) for message in evidence.messages]
        checks.append(
            Check("none of them came twice", len(set(events)) == len(events) and "" not in events)
        )
    return checks


def event_id(message: Message) -> str:
    """What a message is about; the same each time that it is sent."""
    payload = message.metadata.get("event_payload") if isinstance(message.metadata, dict) else None
    return str(payload.get("event_id", "")) if isinstance(payload, dict) else ""


def _acting(scenario: Scenario, evidence: Evidence) -> Check:
    actions = [
        (action["action"], action["state"])
        for one in evidence.incidents
        for action in one["actions"]
    ]
    if not scenario.paused:
        return Check("no rule touched the run", not actions)
    return Check(
        "the record has one incident, with one pause and one resume, both done",
        len(evidence.incidents) == 1 and actions == [("pause", "done"), ("resume", "done")],
    )


def _ending(scenario: Scenario, evidence: Evidence) -> list[Check]:
    if not scenario.survives:
        ended = evidence.status != 0
        return [Check(f"the job has ended, and not well (status {evidence.status})", ended)]
    state = evidence.run["state"] if evidence.run else "unknown"
    return [
        Check(
            f"training came to its end: step {evidence.steps} of {scenario.steps}, {state}",
            evidence.steps == scenario.steps and state == "finished",
        ),
        Check(f"its last loss is finite: {evidence.loss:.4f}", math.isfinite(evidence.loss)),
        Check(f"the trainer ended with status {evidence.status}", evidence.status == 0),
    ]
