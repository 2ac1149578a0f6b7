"""Those who are told: what every receiver of messages can do, and how it says that it could not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from sentinel.notify.notice import Notice


class Place(Protocol):
    """Where a message ended up."""

    @property
    def channel(self) -> str:
        """The receiver's name for the channel."""

    @property
    def ts(self) -> str:
        """The receiver's name for the message in it."""

    @property
    def incident(self) -> str:
        """The incident that the message is about in the first place, where that is known."""


@dataclass(frozen=True)
class Posted:
    """Where a message of ours has just ended up."""

    channel: str
    ts: str
    incident: str = ""


@dataclass(frozen=True)
class Letter:
    """One message to be delivered. `kind` is opened, updated, held, resumed, resolved ...

    `head` is where the first message about the same incident is; None: this one is the first.
    `late`: it comes so late that it is no news any more, and this is to be said with it.
    """

    event_id: str
    kind: str
    notice: Notice
    head: Place | None
    late: str = ""


class Receiver(Protocol):
    """Somebody who can be told. All methods raise `DeliveryError`."""

    @property
    def name(self) -> str:
        """What the outbox calls it."""

    @property
    def folds(self) -> bool:
        """Whether the present state is enough where several messages of an incident come late.

        True for those that show how things stand. False for those that are to see every event.
        """

    async def check(self) -> str:
        """Whether it would take messages; says as whom they would come."""

    async def deliver(self, letter: Letter) -> Posted:
        """Post a letter: the first of an incident by itself, later ones as replies to it."""

    async def find(self, letter: Letter, since: float) -> Posted | None:
        """Where a letter that was posted after `since` (s) is, None when it never arrived.

        A permanent error means that it cannot be known.
        """

    async def refresh(self, letter: Letter) -> None:
        """Bring the first message of the incident to the state that this later letter tells."""

    async def close(self) -> None:
        """Give back what it holds."""
