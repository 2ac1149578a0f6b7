"""Who may do what, of those who come over the network. Every refusal is on the record."""

from __future__ import annotations

import logging
from pathlib import Path

from sentinel import clock
from sentinel.daemon.refusals import Refusals
from sentinel.errors import AccessError, StateError
from sentinel.store.tokens import Role, Token, Tokens

log = logging.getLogger("sentinel.daemon")

_RISING: tuple[Role, ...] = ("viewer", "operator", "admin")  # each may do what those before it may


class ForbiddenError(AccessError):
    """It is known who they are, and this is not for them."""


def may(role: Role, wanted: Role) -> bool:
    """Whether this role is enough for what `wanted` may do."""
    if "trainer" in (role, wanted):
        return role == wanted
    return _RISING.index(role) >= _RISING.index(wanted)


class Access:
    """The tokens of a daemon's state directory, and what they open."""

    def __init__(self, state_dir: Path, refusals: Refusals) -> None:
        self.tokens = Tokens(state_dir)
        self.refusals = refusals
        self._broken = False

    def check(
        self, presented: str | None, wanted: Role, *, address: str, asked: str, run: str = ""
    ) -> Token:
        """Whose token this is. `address` is where they come from, `asked` what they want; `run` is
        what they call the run that they want it of.

        Raises `AccessError` when it is nobody's who is let in, `ForbiddenError` when `wanted` is
        not for them, `StateError` when the tokens cannot be read.
        """
        try:
            token = self._find(presented)
            if not may(token.role, wanted):
                raise ForbiddenError(
                    f"token {token.name} has the role {token.role}: {_needed(wanted)}",
                    by=f"token {token.name}",
                )
        except (AccessError, StateError) as error:
            kind = "role" if isinstance(error, ForbiddenError) else "token"
            known = error.by if isinstance(error, AccessError) else ""
            by = f"{known or 'somebody'} from {address}"
            on = run if known else ""  # no stranger writes on a run's record
            asked = asked if on or not run else f"{asked} {run}"
            self.refusals.note(kind, by, asked, str(error), known=known, run=on)
            raise
        return token

    def still_good(self, token: Token) -> str:
        """Why a token that was let in is not good any more, or nothing. Raises `StateError`."""
        for known in self._all():
            if known.digest == token.digest:
                return f"token {known.name} {why}" if (why := known.fault(clock.wall())) else ""
        return f"token {token.name} is not there any more"

    def _find(self, presented: str | None) -> Token:
        if presented is None:
            raise AccessError("a token is needed here")
        self._all()
        return self.tokens.find(presented, clock.wall())

    def _all(self) -> tuple[Token, ...]:
        try:
            found = self.tokens.all()
        except StateError as error:
            if not self._broken:  # said once, not for everybody who comes
                log.error("nobody is let in over the network: %s", error)
            self._broken = True
            raise StateError("the daemon cannot read its tokens and lets nobody in") from error
        self._broken = False
        return found


def _needed(wanted: Role) -> str:
    enough = ("trainer",) if wanted == "trainer" else _RISING[_RISING.index(wanted) :]
    return f"this takes {' or '.join(enough)}"
