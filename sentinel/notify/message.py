"""What a person reads about an incident: one message that names the culprit.

`compose` says it in plain words; how a receiver shows them (blocks, bold, code) is its own
business. Names that come from a run are cleaned here, so that they can do no harm anywhere.
"""

from __future__ import annotations

import shlex
import unicodedata
from dataclasses import dataclass
from pathlib import Path

from sentinel.clock import isoformat
from sentinel.notify.notice import Action, Alert, Notice

_NAME = 200  # characters of one name
_PROSE = 500  # characters of a summary, an advice, a detail
_ALERTS = 10
HEAD = 12  # digits of the journal's newest hash that a message shows


@dataclass(frozen=True)
class Command:
    """Something to be typed, exactly as it stands, and what it does."""

    line: str
    effect: str


@dataclass(frozen=True)
class Text:
    """A message. `facts` are pairs of a label and a value; what is empty is not shown."""

    headline: str
    summary: str = ""
    facts: tuple[tuple[str, str], ...] = ()
    done: str = ""
    way_back: str = ""
    alerts: tuple[str, ...] = ()
    more_alerts: int = 0
    advice: str = ""
    host: str = ""
    commands: tuple[Command, ...] = ()
    footer: str = ""


@dataclass(frozen=True)
class Station:
    """Where the commands of a message work: the daemon's host and its state directory."""

    host: str
    state_dir: Path


def plain(text: str, limit: int = _NAME) -> str:
    """One line of printable characters, at most `limit` of them."""
    printable = "".join(
        " " if unicodedata.category(character)[0] in "CZ" else character for character in text
    )
    line = " ".join(printable.split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def compose(notice: Notice, station: Station) -> Text:
    """The first message about an incident, as it stands now."""
    return Text(
        headline=_headline(notice),
        summary=plain(notice.summary, _PROSE),
        facts=_facts(notice),
        done=_done(notice),
        way_back=_way_back(notice),
        alerts=tuple(_alert(alert) for alert in notice.alerts[:_ALERTS]),
        more_alerts=max(0, notice.alert_count - min(len(notice.alerts), _ALERTS)),
        advice=plain(notice.advice, _PROSE),
        host=station.host,
        commands=_commands(notice, station),
        footer=_footer(notice),
    )


def compose_reply(kind: str, notice: Notice, station: Station) -> Text:
    """A later message in the thread of the first: only what is new."""
    if kind == "resolved":
        return Text(headline=_headline(notice), footer=_footer(notice))
    if kind == "updated":
        return Text(
            headline=_headline(notice),
            summary=plain(notice.summary, _PROSE),
            facts=_facts(notice),
            done=_done(notice),
            footer=_footer(notice),
        )
    if kind in ("reminder", "ending"):
        return _reminder(kind, notice, station)
    return Text(
        headline=_done(notice),
        summary=_warning(notice),
        facts=_terms(notice) if kind == "held" else (),
        way_back=_way_back(notice) if kind == "held" else "",
        advice=plain(notice.advice, _PROSE) if kind == "held" else "",
        host=station.host,
        commands=_commands(notice, station) if kind == "held" else (),
        footer=_footer(notice),
    )


def _reminder(kind: str, notice: Notice, station: Station) -> Text:
    """The run is still held: what that costs, and what comes if nobody answers."""
    step = notice.hold.step if notice.hold else notice.incident.cause.step
    run = plain(notice.incident.run)
    still = f"Run {run} is still held after step {step}; nobody has answered."
    soon = f"Run {run} is held after step {step} for ten more minutes; nobody has answered."
    return Text(
        headline=soon if kind == "ending" else still,
        summary=_warning(notice),
        facts=_terms(notice),
        way_back=_way_back(notice),
        host=station.host,
        commands=_commands(notice, station),
        footer=_footer(notice),
    )


def _terms(notice: Notice) -> tuple[tuple[str, str], ...]:
    hold = notice.hold
    return hold.terms.facts(hold.since, notice.at) if hold else ()


def _warning(notice: Notice) -> str:
    return notice.hold.terms.warning(notice.hold.since) if notice.hold else ""


def _headline(notice: Notice) -> str:
    incident = notice.incident
    cause = incident.cause
    label = "RESOLVED" if incident.state == "resolved" else plain(incident.severity).upper()
    where = f" on rank {cause.rank}" if cause.rank is not None else ""
    module = f", module {plain(cause.module)}" if cause.module else ""
    return (
        f"{label}: {plain(cause.rule)} in run {plain(incident.run)} at step {cause.step}"
        f"{where}{module}"
    )


def _facts(notice: Notice) -> tuple[tuple[str, str], ...]:
    cause = notice.incident.cause
    micro_batch = "" if cause.micro_batch is None else f", micro-batch {cause.micro_batch}"
    known = (  # as many as Slack shows
        ("Step", f"{cause.step}{micro_batch}"),
        ("Rank", "" if cause.rank is None else str(cause.rank)),
        ("Host", cause.host),
        ("Device", cause.device),
        ("Module", cause.module),
        ("Parameter", cause.parameter),
        ("Batch", cause.batch),
        ("Samples", ", ".join(cause.samples)),
        ("Signal", cause.signal),
        ("Rule", cause.rule),
    )
    return tuple((label, plain(value)) for label, value in known if value)


def _latest(notice: Notice) -> Action | None:
    """The action that says how the run stands now."""
    if notice.about is not None:
        return notice.about
    latest: Action | None = None
    for action in notice.actions:
        # Several rules may ask for the same pause: all but the first get nothing of their own.
        if latest and _pauses(latest) and _asks_again(action):
            continue
        latest = action
    return latest


def _pauses(action: Action) -> bool:
    return action.action == "pause" and action.state in ("requested", "done")


def _asks_again(action: Action) -> bool:
    return action.action == "pause" and action.state in ("requested", "refused")


def _done(notice: Notice) -> str:
    """What Sentinel did to the run, or did not."""
    action = _latest(notice)
    if action is None:
        return "Sentinel only warns: it has not touched the run."
    detail = plain(action.detail, _PROSE)
    because = f": {detail}" if detail else "."
    by = plain(action.by)
    sentences = {
        ("pause", "requested"): "Sentinel is bringing all ranks to a stand at the same step.",
        ("pause", "done"): f"All ranks are held at step {action.step}; nothing is torn down.",
        ("pause", "refused"): f"Sentinel did not pause the run{because}",
        ("pause", "failed"): f"The run could not be paused{because}",
        ("pause", "lapsed"): f"The pause lapsed and all ranks went on{because}",
        ("checkpoint", "requested"): "All ranks save a checkpoint after the same step, and go on.",
        ("checkpoint", "done"): f"All ranks saved a checkpoint after step {action.step}.",
        ("resume", "requested"): f"{by} has asked the run to go on.",
        ("resume", "done"): f"The run goes on from step {action.step}, by {by}{because}",
        ("stop", "requested"): f"{by} has asked the run to stop.",
        ("stop", "done"): f"The run was stopped at step {action.step}, by {by}.",
    }
    other = f"{plain(action.action)} (by {by}): {plain(action.state)}{because}"
    return sentences.get((action.action, action.state), other)


def _way_back(notice: Notice) -> str:
    good = notice.last_good
    if good is None or notice.incident.state == "resolved":
        return ""
    many = "s" * (good.back != 1)
    return f"Last good checkpoint: {plain(good.tag)}, {good.back} step{many} back."


def _alert(alert: Alert) -> str:
    labels = ", ".join(
        f"{plain(key, 40)}={plain(value, 80)}" for key, value in alert.labels.items()
    )
    return (
        f"{plain(alert.rule, 80)} ({plain(alert.severity, 20)}, {plain(alert.state, 20)}) "
        f"at step {alert.step}{': ' if labels else ''}{plain(labels, _NAME)}"
    )


def _commands(notice: Notice, station: Station) -> tuple[Command, ...]:
    incident = notice.incident
    run, state = shlex.quote(incident.run), f"--state {shlex.quote(str(station.state_dir))}"
    if plain(incident.run, len(incident.run)) != incident.run or "```" in run + state:
        return ()  # a name that cannot be shown cannot be typed either
    latest = _latest(notice)
    if latest and _pauses(latest):
        resume = f"sentinel resume {run}"
        back = Command(f"{resume} --rollback last-good {state}", "load the last good checkpoint")
        return (
            Command(f"{resume} {state}", "go on (refused if weights are not finite)"),
            Command(f"{resume} --lr-scale 0.5 {state}", "go on, learning rate halved"),
            *([back] if notice.last_good else []),
            Command(f"sentinel stop {run} {state}", "end the run cleanly"),
        )
    if incident.state == "resolved" or (latest and latest.action == "stop"):
        return (Command(f"sentinel incidents {run} {state}", "see it all"),)
    return (
        Command(f"sentinel status {run} {state}", "see how it stands"),
        Command(f"sentinel pause {run} {state}", "hold all ranks at the same step"),
    )


def _footer(notice: Notice) -> str:
    incident, at = notice.incident, isoformat(notice.at)
    head = f", record {plain(incident.head)[:HEAD]}" if incident.head else ""
    return f"incident {plain(incident.id)}, opened at step {incident.opened_step}, {at}{head}"


def as_text(text: Text) -> str:
    """The whole message as lines of plain text."""
    lines = [text.headline, text.summary]
    lines += [f"{label}: {value}" for label, value in text.facts]
    lines += [text.done, text.way_back, *(f"- {alert}" for alert in text.alerts)]
    lines += [f"- and {text.more_alerts} more"] if text.more_alerts else []
    lines += [text.advice]
    lines += [f"On {text.host}:"] if text.commands else []
    lines += [f"  {command.line}   # {command.effect}" for command in text.commands]
    return "\n".join(line for line in [*lines, text.footer] if line)
