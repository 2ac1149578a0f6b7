"""A token is found where it was put, and what is found instead of one is never shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from sentinel import bearer
from sentinel.errors import AccessError

SECRET = "sntl_" + "aB3_-" * 8 + "xyz"


@pytest.fixture(autouse=True)
def _nothing_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SENTINEL_TOKEN", "SENTINEL_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)


def test_a_new_token_has_the_form_that_is_looked_for() -> None:
    assert all(bearer.looks_like(bearer.mint()) for _ in range(50))


def test_the_file_that_is_named_comes_first_then_the_variable_then_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, third = (bearer.mint() for _ in range(3))
    for name, secret in (("named", first), ("environment", third)):
        (tmp_path / name).write_text(f"{secret}\n")
    monkeypatch.setenv("SENTINEL_TOKEN_FILE", str(tmp_path / "environment"))
    assert bearer.own_token() == third
    monkeypatch.setenv("SENTINEL_TOKEN", second)
    assert bearer.own_token() == second
    assert bearer.own_token(tmp_path / "named") == first


@pytest.mark.parametrize(
    "content",
    [b"", b"hunter2", SECRET.encode() + b"x", b"\xff" * 48, b"sntl_" * 4096, SECRET.encode() * 2],
)
def test_what_is_no_token_is_refused_without_being_shown(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_bytes(content)
    with pytest.raises(AccessError) as caught:
        bearer.own_token(file)
    assert str(file) in str(caught.value)
    for part in ("hunter2", SECRET):
        assert part not in str(caught.value)


def test_a_missing_token_or_file_says_where_one_belongs(tmp_path: Path) -> None:
    with pytest.raises(AccessError, match=r"\$SENTINEL_TOKEN"):
        bearer.own_token()
    with pytest.raises(AccessError, match="No such file"):
        bearer.own_token(tmp_path / "none")
