"""With a disk that takes nothing Sentinel still alerts, acts on nothing, and catches up later."""

from __future__ import annotations

import json

import pytest

from sentinel.store.writing import UNRECORDED
from tests.store import jobs


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    output = jobs.run("full_disk_job.py", tmp_path_factory.mktemp("state"))
    loaded: dict[str, object] = json.loads(output)
    return loaded


def test_what_cannot_be_written_is_refused_with_a_reason(said: dict[str, object]) -> None:
    assert "sentinel.db" in str(said["refused"])
    assert said["action"] == said["asked"] == "refused"


def test_nothing_of_it_is_half_written_and_the_rest_stays_readable(said: dict[str, object]) -> None:
    assert said["readable"] == ["before"]
    assert said["behind"] == 7


def test_people_are_told_all_the_same_and_that_nothing_was_done(said: dict[str, object]) -> None:
    assert said["told"] == [
        ["opened", "before", "requested", True],
        ["opened", "lost", "refused", False],  # no head: what it would stand for is not there
        ["opened", "lost too", "refused", False],
        ["held", "before", "done", False],
    ]


def test_the_record_catches_up_and_nobody_is_told_twice(said: dict[str, object]) -> None:
    assert said["behind afterwards"] == 0
    assert said["told afterwards"] == []
    assert said["outbox"] == {"sent": 4}
    assert said["ids"] == ["before", "lost", "lost too"]
    assert said["actions"] == [
        ["before", "done", ""],
        ["lost", "refused", UNRECORDED],
        ["lost too", "refused", UNRECORDED],
        ["lost", "requested", ""],
    ]


def test_a_recording_waits_in_bounded_memory_and_keeps_what_opens_it(
    said: dict[str, object],
) -> None:
    assert said["recording"] == "refused"
    assert isinstance(said["buffered"], int)
    assert isinstance(said["dropped"], int)
    assert 0 < said["buffered"] <= 10_000
    assert said["dropped"] > 50
    assert said["recorded"] == [True, 101 - said["dropped"]]
