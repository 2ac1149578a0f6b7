"""Every error that Sentinel raises on purpose.

SentinelError               what went wrong, where, what was expected, what to do
├── AddressError            a daemon address that cannot be parsed
├── AttachError             attach was given something that is no trainer
├── WireError               a message that breaks the protocol
│   ├── OrderError          a rank that gives orders
│   └── VersionError        a peer that speaks another major version
├── PlacedError             something in a file of settings, with its place
│   ├── RuleError           a rule file or an expression that cannot be used
│   └── NotifyError         a notification file, or a condition on labels, that cannot be used
├── AccessError             somebody who may not do what they asked, or cannot show who they are
├── ControlError            an order that cannot be carried out now
│   └── BadWeightsError     the run has weights that are not finite
├── StateError              a state directory that cannot be used
│   ├── DamagedError        a file in it that does not hold together
│   └── StateTakenError     another daemon lives there
├── ReplayError             a recording or log that cannot be read
├── BlackBoxError           a black box that cannot be read
├── NoDaemonError           no daemon answers where one was expected
└── DeliveryError           a message that was not delivered, or perhaps was
"""

from __future__ import annotations


class SentinelError(Exception):
    """Base of all errors raised on purpose; its text is for the person who must act."""


class AddressError(SentinelError, ValueError):
    """A daemon address that cannot be parsed."""


class AttachError(SentinelError, TypeError):
    """`attach` was given an object that is no trainer, or arguments that do not go together."""


class WireError(SentinelError):
    """A message that breaks the protocol: malformed, too large, or not allowed here."""


class OrderError(WireError):
    """A rank said what only the daemon may say: `tag` is that message's."""

    def __init__(self, tag: str) -> None:
        super().__init__(f"a rank reports and obeys, it gives no orders: it sent a {tag} message")
        self.tag = tag


class VersionError(WireError):
    """The peer speaks a version of the protocol that this side does not."""


class PlacedError(SentinelError):
    """What a person has written cannot be used.

    `file`, `line` and `column` say where, when they are known; lines and columns count from 1.
    Without a file, the column is one of the text that was given.
    """

    def __init__(
        self,
        reason: str,
        *,
        file: str | None = None,
        line: int | None = None,
        column: int | None = None,
    ) -> None:
        self.reason = reason
        self.file = file
        self.line = line
        self.column = column
        place = ":".join(str(part) for part in (file, line, column) if part is not None)
        if file is None and line is None and column is not None:
            place = f"column {column}"
        super().__init__(f"{place}: {reason}" if place else reason)


class RuleError(PlacedError):
    """A rule file or expression that cannot be used."""


class NotifyError(PlacedError):
    """A notification file, or a condition on labels, that cannot be used."""


class AccessError(SentinelError):
    """Somebody who may not do what they asked, or cannot show who they are.

    `by` names who it was as far as that is known ("token ann"), or is empty.
    """

    def __init__(self, reason: str, *, by: str = "") -> None:
        super().__init__(reason)
        self.by = by


class ControlError(SentinelError):
    """An order that cannot be carried out now: no such run, not held, weights not finite."""


class BadWeightsError(ControlError):
    """A run is not let go on because its weights are not finite."""


class StateError(SentinelError):
    """A state directory that cannot be used: not writable, newer schema, unsafe file system."""


class DamagedError(StateError):
    """A file of a state directory that does not hold together, or is of another kind."""


class StateTakenError(StateError):
    """Another daemon already uses this state directory or socket."""


class ReplayError(SentinelError):
    """A recording or a log that cannot be read."""


class BlackBoxError(SentinelError):
    """A file that is no black box, or too damaged to be read as one."""


class NoDaemonError(SentinelError):
    """No daemon answers where one was expected."""


class DeliveryError(SentinelError):
    """A message that was not delivered, or perhaps was.

    `permanent`: trying again will not help before a person has changed something. `doubtful`: it
    may have arrived all the same. `retry_after`: seconds that the receiver asked to be left alone.
    `code`: the receiver's own word for it.
    """

    def __init__(
        self,
        reason: str,
        *,
        permanent: bool = False,
        doubtful: bool = False,
        retry_after: float | None = None,
        code: str = "",
    ) -> None:
        super().__init__(reason)
        self.permanent = permanent
        self.doubtful = doubtful
        self.retry_after = retry_after
        self.code = code
