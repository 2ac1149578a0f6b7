"""Secrets that a service manager hands over as files."""

from __future__ import annotations

from pathlib import Path

import pytest

from sentinel.credentials import environment
from sentinel.errors import SentinelError


def test_without_a_service_manager_the_environment_is_as_it_is() -> None:
    given = {"SLACK_BOT_TOKEN": "xoxb-1"}
    assert environment(given) is given


def test_a_credential_stands_for_the_variable_of_its_name_and_goes_before_it(
    tmp_path: Path,
) -> None:
    (tmp_path / "SLACK_BOT_TOKEN").write_text("xoxb-2\n")
    (tmp_path / "key.pem").write_text("is read by its path")
    given = {
        "CREDENTIALS_DIRECTORY": str(tmp_path),
        "SLACK_BOT_TOKEN": "xoxb-1",
        "SLACK_CHANNEL": "c",
    }
    assert environment(given) == {**given, "SLACK_BOT_TOKEN": "xoxb-2"}


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "is empty"),
        (b" \n", "is empty"),
        (b"x" * 5000, "is too large"),
        (b"\xff\xfe", "holds no text"),
    ],
)
def test_a_credential_that_cannot_be_one_is_refused_without_showing_it(
    tmp_path: Path, data: bytes, reason: str
) -> None:
    (tmp_path / "SLACK_BOT_TOKEN").write_bytes(data)
    with pytest.raises(SentinelError, match=f"SLACK_BOT_TOKEN {reason}"):
        environment({"CREDENTIALS_DIRECTORY": str(tmp_path)})


def test_a_folder_that_is_not_there_is_said() -> None:
    with pytest.raises(SentinelError, match="CREDENTIALS_DIRECTORY"):
        environment({"CREDENTIALS_DIRECTORY": "/nowhere/at/all"})
