"""The buttons under a message in Slack: which ones make sense now, and what each one carries.

A button carries what it was offered for, so that a press on an old message does nothing to a run
that stands otherwise by then. Nothing in it is secret: anybody in the channel can read it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import msgspec
from msgspec import Struct

from sentinel.errors import SentinelError
from sentinel.notify.notice import LastGood
from sentinel.notify.plain import plain

Kind = Literal["resume", "resume_half", "rollback", "stop", "acknowledge", "silence"]

SILENCE_FOR = 3600.0  # s
HALF = 0.5
_PREFIX = "sentinel:"  # of our action ids, among those that other apps' messages may have
_LABEL = 75  # characters on a button,
_VALUE = 2000  # in what it carries, and
_QUESTION = 300  # in what is asked before it counts

Json = dict[str, object]


class Offer(Struct, frozen=True, omit_defaults=True):
    """What a button was offered for.

    `stands` names the job and the hold that it stood in; an order is given only while that is
    still so. `tag`: the checkpoint to roll back to, `rule`: what is to be silenced.
    """

    incident: str
    run: str
    stands: str = ""
    tag: str = ""
    rule: str = ""


@dataclass(frozen=True)
class Situation:
    """How a run and its incident stand at this moment, as far as it decides about buttons.

    `stands` is the same for as long as nothing has been decided about the run. `offers`: the
    remedies that its trainer can carry out. `doubtful`: it is held, and a plain resume would be
    refused, since some weights are not finite.
    """

    incident: str
    run: str
    rule: str
    stands: str = ""
    state: Literal["running", "held", "other"] = "other"
    offers: frozenset[str] = frozenset()
    doubtful: bool = False
    last_good: LastGood | None = None
    open: bool = True
    done: frozenset[str] = frozenset()  # kinds that need no second press


@dataclass(frozen=True)
class _Button:
    kind: Kind
    label: str
    style: str = ""
    tag: str = ""
    question: str = ""


def actions_block(now: Situation) -> Json | None:
    """An actions block in Block Kit, or None where nothing is left to be pressed."""
    elements = [_element(button, now) for button in _fitting(now)]
    if not elements or any(len(str(element["value"])) > _VALUE for element in elements):
        return None  # names too long to be carried: commands do it
    return {"type": "actions", "elements": elements}


def _fitting(now: Situation) -> list[_Button]:
    buttons: list[_Button] = []
    if now.state == "held":
        buttons += _ways_on(now)
    if now.state in ("running", "held") and (now.open or now.state == "held"):
        buttons.append(
            _Button(
                "stop",
                "Stop the run",
                "danger",
                question=f"All ranks of {plain(now.run, 100)} end after the same step. "
                "This cannot be taken back: the run has to be started anew.",
            )
        )
    if now.open and "acknowledge" not in now.done:
        buttons.append(_Button("acknowledge", "Acknowledge"))
    if now.open and "silence" not in now.done:
        buttons.append(_Button("silence", "Silence for 1 h"))
    return buttons


def _ways_on(now: Situation) -> Sequence[_Button]:
    """What a held run can do next; the way that is sure to be open stands out."""
    back: list[_Button] = []
    good = now.last_good
    if good is not None and "load_checkpoint" in now.offers:
        many = "s" * (good.back != 1)
        back.append(
            _Button(
                "rollback",
                f"Roll back to step {good.step}",
                "primary" if now.doubtful else "",
                good.tag,
                f"All ranks of {plain(now.run, 80)} load checkpoint {plain(good.tag, 80)} and go "
                f"on from step {good.step}: the {good.back} step{many} after it are lost.",
            )
        )
    resume = _Button("resume", "Resume", "" if now.doubtful else "primary")
    halved = [_Button("resume_half", "Resume at half the learning rate")]
    return [resume, *(halved if "scale_lr" in now.offers else []), *back]


def _element(button: _Button, now: Situation) -> Json:
    order = button.kind not in ("acknowledge", "silence")
    rule = now.rule if button.kind == "silence" else ""
    offer = Offer(now.incident, now.run, now.stands if order else "", button.tag, rule)
    element: Json = {
        "type": "button",
        "action_id": f"{_PREFIX}{button.kind}",
        "text": {"type": "plain_text", "text": button.label[:_LABEL]},
        "value": msgspec.json.encode(offer).decode(),
    }
    if button.style:
        element["style"] = button.style
    if button.question:
        element["confirm"] = _confirmation(button)
    return element


def _confirmation(button: _Button) -> Json:
    return {
        "title": {"type": "plain_text", "text": f"{button.label}?"},
        "text": {"type": "plain_text", "text": button.question[:_QUESTION]},
        "confirm": {"type": "plain_text", "text": button.label[:30]},
        "deny": {"type": "plain_text", "text": "Cancel"},
        "style": "danger",
    }


_offers = msgspec.json.Decoder(Offer)


def read_button(action_id: str, value: str) -> tuple[Kind, Offer]:
    """Which button this is, and what it was offered for. Raises `SentinelError` if none of ours."""
    for kind in get_args(Kind):
        if action_id == f"{_PREFIX}{kind}":
            try:
                return kind, _offers.decode(value)
            except msgspec.MsgspecError as error:
                raise SentinelError(f"a button that carries what makes no sense: {error}") from None
    raise SentinelError(f"no button of ours: {plain(action_id)!r}")
