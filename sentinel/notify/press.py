"""A press on a button, out of what Slack sends: a `block_actions` payload.

https://docs.slack.dev/reference/interaction-payloads/block_actions-payload
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
from msgspec import Struct

from sentinel.errors import SentinelError
from sentinel.notify.buttons import Kind, Offer, read_button
from sentinel.notify.plain import plain

_NAME = 80  # characters of a person's name
_ID = 64  # characters of any of Slack's ids


class _User(Struct):
    id: str
    username: str = ""
    name: str = ""


class _Ided(Struct):
    id: str = ""


class _Container(Struct):
    message_ts: str = ""
    channel_id: str = ""


class _Action(Struct):
    action_id: str = ""
    action_ts: str = ""
    value: str = ""


class _Payload(Struct):
    """The part of the payload that counts; Slack sends null where there is no such thing."""

    user: _User
    actions: list[_Action]
    container: _Container
    api_app_id: str | None = None
    team: _Ided | None = None
    channel: _Ided | None = None
    response_url: str | None = None


@dataclass(frozen=True)
class Press:
    """One press. `id` is the same however often Slack delivers it.

    `channel` and `ts`: the message that the button is under. `response_url` answers the person
    alone, for half an hour; whoever has it can write into the channel, so it is kept nowhere.
    """

    id: str
    kind: Kind
    offer: Offer
    user: str
    name: str
    app: str
    team: str
    channel: str
    ts: str
    response_url: str

    @property
    def by(self) -> str:
        """Who it was, for the record."""
        return f"slack:{self.user} ({self.name})" if self.name else f"slack:{self.user}"


def read_press(payload: object) -> Press:
    """The press in a payload. Raises `SentinelError` when it is none on a button of ours."""
    try:
        said = msgspec.convert(payload, _Payload)
    except msgspec.ValidationError as error:
        raise SentinelError(f"Slack sent no press that can be read: {error}") from None
    if not said.actions:
        raise SentinelError("Slack sent a press on nothing")
    action, user, message = said.actions[0], plain(said.user.id, _ID), said.container
    kind, offer = read_button(action.action_id, action.value)
    return Press(
        # Of a press that Slack delivers again, the envelope may be another: this is not.
        id=plain(f"{user}/{message.message_ts}/{action.action_ts}/{kind}", 4 * _ID),
        kind=kind,
        offer=offer,
        user=user,
        name=plain(said.user.username or said.user.name, _NAME),
        app=said.api_app_id or "",
        team=said.team.id if said.team else "",
        channel=message.channel_id or (said.channel.id if said.channel else ""),
        ts=message.message_ts,
        response_url=said.response_url or "",
    )
