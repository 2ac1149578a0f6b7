"""Who may come over the network: `tokens.json` in the state directory, for this user alone.

The command line writes it and the daemon reads it, at the same time if need be. A token's name is
never given to another: the record speaks of its holder for ever. Nothing in the file lets anybody
in: of a token there is but the hash.
"""

from __future__ import annotations

import contextlib
import fcntl
import hmac
import os
import pwd
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, TypedDict

import msgspec
from msgspec import Struct

from sentinel import bearer
from sentinel.clock import isoformat
from sentinel.errors import AccessError, StateError

FILE_NAME = "tokens.json"
LOCK_NAME = "tokens.lock"

Role = Literal["viewer", "operator", "admin", "trainer"]
"""A viewer reads; an operator also gives orders to runs; an admin also makes and revokes tokens. A
trainer reports and obeys on a training connection, and may do nothing else."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
SHORTEST_LINK, LONGEST_LINK = 60.0, 30 * 86_400.0  # s that the token of a link may be good
_LINK = re.compile(r"page-[0-9a-f]{10}")
_REMEMBERED = 30 * 86_400.0  # s that the token of a link stays in the list after its end
_MAX_FILE = 1 << 20  # bytes, some 4,000 tokens


class Token(Struct, frozen=True, forbid_unknown_fields=True):
    """One token. Times are seconds since 1970; `expires` None: never, `revoked` None: not yet."""

    name: str
    role: Role
    digest: str
    made: float
    made_by: str
    expires: float | None = None
    revoked: float | None = None
    revoked_by: str = ""

    def fault(self, now: float) -> str:
        """Why it is not good any more, or nothing."""
        if self.revoked is not None:
            return "was revoked"
        return "has expired" if self.expires is not None and now >= self.expires else ""

    def forgotten(self, now: float) -> bool:
        """Whether it was of a link to the pages, and has been good for nothing for long.

        Links are made every day, under names that nobody else will ever have.
        """
        ends = [end for end in (self.expires, self.revoked) if end is not None]
        gone = bool(ends) and now - min(ends) > _REMEMBERED
        return gone and _LINK.fullmatch(self.name) is not None


class TokenJSON(TypedDict):
    """A token as `sentinel token list --json` shows it. `state`: good, expired or revoked."""

    name: str
    role: str
    state: str
    made: str
    made_by: str
    expires: str | None
    revoked: str | None
    revoked_by: str


def shown(token: Token, now: float) -> TokenJSON:
    """What may be known of a token. Times in ISO 8601."""
    return TokenJSON(
        name=token.name,
        role=token.role,
        state=(token.fault(now) or "is good").rpartition(" ")[2],
        made=isoformat(token.made),
        made_by=token.made_by,
        expires=None if token.expires is None else isoformat(token.expires),
        revoked=None if token.revoked is None else isoformat(token.revoked),
        revoked_by=token.revoked_by,
    )


class _File(Struct, frozen=True, forbid_unknown_fields=True):
    version: Literal[1] = 1
    tokens: tuple[Token, ...] = ()


def user_name(uid: int) -> str:
    """This user of this machine, as the record calls them: "user ann", or "user 1000"."""
    try:
        return f"user {pwd.getpwuid(uid).pw_name}"
    except KeyError:
        return f"user {uid}"


class Tokens:
    """The tokens of a state directory, read anew whenever the file is another.

    All methods raise `StateError` when the file cannot be read or trusted: nobody gets in then.
    """

    def __init__(self, state_dir: Path) -> None:
        self._path = state_dir / FILE_NAME
        self._lock = state_dir / LOCK_NAME
        self._read: tuple[int, int, int, int] | None = None
        self._tokens: tuple[Token, ...] = ()

    def all(self) -> tuple[Token, ...]:
        """All that were ever made, oldest first."""
        try:
            found = os.stat(self._path)
        except FileNotFoundError:
            return ()
        except OSError as error:
            raise self._unusable(error.strerror or str(error)) from error
        # A file is written under another name first, so that it has another inode when it changes.
        read = (found.st_ino, found.st_mtime_ns, found.st_size, found.st_mode)
        if read != self._read:
            self._read = None
            self._tokens = self._load()
            self._read = read
        return self._tokens

    def find(self, presented: str, now: float) -> Token:
        """The token that this text is. Raises `AccessError` when it is none that is good now."""
        digest = bearer.digest(presented[: bearer.MAX_TOKEN])
        found = None
        for token in self.all():  # all of them, so that the time taken tells nothing
            if hmac.compare_digest(token.digest, digest):
                found = token
        if found is None:
            raise AccessError("the daemon does not know this token")
        if why := found.fault(now):
            raise AccessError(f"token {found.name} {why}", by=f"token {found.name}")
        return found

    def add(self, name: str, role: Role, *, by: str, now: float, expires: float | None) -> str:
        """Make a token; returns it, which nobody can do a second time.

        Raises `AccessError` when the name cannot be had.
        """
        if _NAME.fullmatch(name) is None:
            raise AccessError(
                f"{name!r} cannot name a token: expected up to 64 letters, digits, '.', '_' or "
                "'-', the first a letter or digit"
            )
        secret = bearer.mint()
        with self._changing() as tokens:
            if any(token.name == name for token in tokens):
                raise AccessError(
                    f"there is or was a token {name} already, and the record speaks of its holder: "
                    "choose another name"
                )
            made = Token(name, role, bearer.digest(secret), now, by, expires)
            self._store((*(token for token in tokens if not token.forgotten(now)), made))
        return secret

    def revoke(self, name: str, *, by: str, now: float) -> None:
        """From now on it lets nobody in. Raises `AccessError` when there is none by that name."""
        with self._changing() as tokens:
            found = next((token for token in tokens if token.name == name), None)
            if found is None:
                known = ", ".join(token.name for token in tokens) or "none"
                raise AccessError(f"there is no token {name!r}, known: {known}")
            if found.revoked is not None:
                raise AccessError(f"token {name} was revoked before, by {found.revoked_by}")
            gone = msgspec.structs.replace(found, revoked=now, revoked_by=by)
            self._store(tuple(gone if token is found else token for token in tokens))

    @contextlib.contextmanager
    def _changing(self) -> Iterator[tuple[Token, ...]]:
        """The tokens, which nobody else changes in the meantime."""
        try:
            lock = os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise self._unusable(error.strerror or str(error)) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield self.all()
        finally:
            os.close(lock)

    def _load(self) -> tuple[Token, ...]:
        try:
            with self._path.open("rb") as file:
                found = os.fstat(file.fileno())
                if found.st_uid not in (0, os.geteuid()) or stat.S_IMODE(found.st_mode) & 0o077:
                    raise self._unusable(
                        "others than this user may read or change it: look at who did, then "
                        f"chmod 600 {self._path}"
                    )
                data = file.read(_MAX_FILE + 1)
        except OSError as error:
            raise self._unusable(error.strerror or str(error)) from error
        if len(data) > _MAX_FILE:
            raise self._unusable("it is too large to be right")
        try:
            return msgspec.json.decode(data, type=_File).tokens
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise self._unusable(
                f"it is damaged ({error}): put a copy of it back, or move it away and make new "
                "tokens"
            ) from error

    def _store(self, tokens: tuple[Token, ...]) -> None:
        """Put another file in place of the one that is there: whole, or not at all."""
        data = msgspec.json.format(msgspec.json.encode(_File(tokens=tokens)), indent=1)
        if len(data) > _MAX_FILE:
            raise self._unusable("it is full: move it away and make new tokens")
        fresh = self._path.with_suffix(".new")
        try:
            fresh.unlink(missing_ok=True)  # what a killed command has left
            file = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with open(file, "wb") as opened:
                opened.write(data)
                opened.flush()
                os.fsync(file)
            os.replace(fresh, self._path)
            folder = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            raise self._unusable(error.strerror or str(error)) from error

    def _unusable(self, why: str) -> StateError:
        return StateError(f"{self._path}: {why}")
