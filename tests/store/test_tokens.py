"""Who may come over the network: kept by hash, for one user, whole whatever happens."""

from __future__ import annotations

import json
import multiprocessing
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from sentinel.errors import AccessError, StateError
from sentinel.store.tokens import Tokens, shown


@pytest.fixture
def tokens(tmp_path: Path) -> Tokens:
    """An empty state directory's."""
    return Tokens(tmp_path)


def add(tokens: Tokens, name: str = "ann", expires: float | None = None) -> str:
    return tokens.add(name, "operator", by="user me", now=100.0, expires=expires)


def test_a_token_is_known_by_what_was_printed_and_by_nothing_else(tokens: Tokens) -> None:
    secret = add(tokens)
    assert tokens.find(secret, 200.0).name == "ann"
    for wrong in ("", secret[:-1], secret + "x", secret.swapcase(), "sntl_" + "\udcff" * 43):
        with pytest.raises(AccessError, match="does not know"):
            tokens.find(wrong, 200.0)


def test_no_two_tokens_are_alike_and_none_is_kept(tokens: Tokens, tmp_path: Path) -> None:
    secrets = {add(tokens, f"t{number}") for number in range(20)}
    assert len(secrets) == 20
    for file in tmp_path.iterdir():
        text = file.read_text()
        assert not any(secret in text or secret[5:] in text for secret in secrets)


def test_the_file_is_for_this_user_alone_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        add(Tokens(tmp_path))
    finally:
        os.umask(before)
    for file in tmp_path.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file


def test_it_expires_at_its_time(tokens: Tokens) -> None:
    secret = add(tokens, expires=150.0)
    assert tokens.find(secret, 149.9)
    with pytest.raises(AccessError, match="token ann has expired") as caught:
        tokens.find(secret, 150.0)
    assert caught.value.by == "token ann"


def test_another_process_sees_a_revocation_at_its_next_look(tokens: Tokens, tmp_path: Path) -> None:
    secret = add(tokens)
    other = Tokens(tmp_path)
    assert other.find(secret, 200.0)
    tokens.revoke("ann", by="user me", now=300.0)
    with pytest.raises(AccessError, match="token ann was revoked"):
        other.find(secret, 200.0)
    (kept,) = other.all()
    assert (kept.revoked, kept.revoked_by) == (300.0, "user me")
    assert shown(kept, 400.0)["state"] == "revoked"


def test_a_name_is_never_given_twice(tokens: Tokens) -> None:
    add(tokens)
    tokens.revoke("ann", by="user me", now=300.0)
    with pytest.raises(AccessError, match="choose another name"):
        add(tokens)
    with pytest.raises(AccessError, match="was revoked before, by user me"):
        tokens.revoke("ann", by="user you", now=301.0)
    with pytest.raises(AccessError, match="no token 'bob', known: ann"):
        tokens.revoke("bob", by="user me", now=300.0)


@pytest.mark.parametrize("name", ["", " ", "a b", "-x", "x" * 65, "a/b", "ä", "a\n", "sntl\x00"])
def test_a_name_that_is_none_is_refused(tokens: Tokens, name: str) -> None:
    with pytest.raises(AccessError, match="cannot name a token"):
        add(tokens, name)
    assert tokens.all() == ()


def _add_some(folder: str, who: int) -> None:
    tokens = Tokens(Path(folder))
    for number in range(10):
        add(tokens, f"t{who}-{number}")


def test_of_what_several_commands_add_at_once_nothing_is_lost(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    adding = [context.Process(target=_add_some, args=(str(tmp_path), who)) for who in range(4)]
    for process in adding:
        process.start()
    for process in adding:
        process.join(60)
    assert [process.exitcode for process in adding] == [0] * 4
    assert len({token.name for token in Tokens(tmp_path).all()}) == 40


def test_what_a_killed_command_has_left_is_in_nobodys_way(tokens: Tokens, tmp_path: Path) -> None:
    (tmp_path / "tokens.new").write_text("half of a fi")
    secret = add(tokens)
    assert Tokens(tmp_path).find(secret, 200.0)


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def _change(path: Path, **fields: object) -> None:
    content = json.loads(path.read_text())
    content["tokens"][0] |= fields
    path.write_text(json.dumps(content))


def _replace_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir(mode=0o700)


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "cut off": (_truncate, "is damaged"),
    "empty": (lambda path: path.write_bytes(b""), "is damaged"),
    "not text": (lambda path: path.write_bytes(bytes(range(256))), "is damaged"),
    "deep": (lambda path: path.write_bytes(b"[" * 100_000), "is damaged"),
    "a newer version": (lambda path: path.write_text('{"version":2,"tokens":[]}'), "is damaged"),
    "a role that is none": (lambda path: _change(path, role="root"), "is damaged"),
    "a field of a newer version": (lambda path: _change(path, only="runs/*"), "is damaged"),
    "huge": (lambda path: path.write_bytes(b" " * (2 << 20)), "too large"),
    "open to others": (lambda path: path.chmod(0o640), "chmod 600"),
    "a folder": (_replace_by_folder, "directory"),
}


@pytest.mark.parametrize(("breaks", "why"), BROKEN.values(), ids=BROKEN)
def test_a_file_that_cannot_be_trusted_lets_nobody_in_and_is_not_written_over(
    tmp_path: Path, breaks: Callable[[Path], object], why: str
) -> None:
    before = Tokens(tmp_path)
    secret = add(before)
    breaks(tmp_path / "tokens.json")
    for tokens in (before, Tokens(tmp_path)):
        with pytest.raises(StateError, match=why):
            tokens.find(secret, 200.0)
        with pytest.raises(StateError, match=why):
            add(tokens, "bob")


def test_a_full_file_says_so_and_stays_as_it_is(
    tokens: Tokens, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(tokens)
    monkeypatch.setattr("sentinel.store.tokens._MAX_FILE", 400)
    with pytest.raises(StateError, match="is full"):
        add(tokens, "bob")
    assert [token.name for token in Tokens(tmp_path).all()] == ["ann"]
