"""Tokens: how those who come over the network show who they are.

A token is `sntl_` and 256 random bits. It travels under TLS and over loopback alone, and is kept by
those who present it in $SENTINEL_TOKEN or in a file; a daemon keeps nothing but its hash.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
from pathlib import Path

from sentinel.errors import AccessError

MAX_TOKEN = 256  # characters that are looked at
_MAX_FILE = 4096  # bytes
_FORM = re.compile(r"sntl_[A-Za-z0-9_-]{43}")


def mint() -> str:
    """A new token."""
    return f"sntl_{secrets.token_urlsafe(32)}"


def digest(token: str) -> str:
    """What a daemon keeps of a token. Random bits need no slow hash: nobody can guess them."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def looks_like(text: str) -> bool:
    """Whether a token is somewhere in this text."""
    return _FORM.search(text) is not None


def own_token(file: Path | None = None) -> str:
    """The token of this process: from `file`, $SENTINEL_TOKEN, or the file $SENTINEL_TOKEN_FILE.

    Raises `AccessError` when there is none, without a word of what was found instead.
    """
    if file is None and (token := os.environ.get("SENTINEL_TOKEN")):
        return _checked(token, "$SENTINEL_TOKEN")
    if file is None and (named := os.environ.get("SENTINEL_TOKEN_FILE")):
        file = Path(named)
    if file is None:
        raise AccessError(
            "no token: put the one that `sentinel token add` printed into $SENTINEL_TOKEN, or into "
            "a file named by $SENTINEL_TOKEN_FILE"
        )
    try:
        with file.open("rb") as opened:
            text = opened.read(_MAX_FILE + 1)
    except OSError as error:
        raise AccessError(f"{file}: no token can be read ({error.strerror or error})") from error
    return _checked(text.decode(errors="replace"), str(file))


def _checked(text: str, source: str) -> str:
    token = text.strip()
    if _FORM.fullmatch(token) is None:
        raise AccessError(
            f"{source} holds no token: expected sntl_ and 43 characters, and nothing else"
        )
    return token
