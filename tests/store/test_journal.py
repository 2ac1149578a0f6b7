"""The journal: what was done is all there, and nothing of it can be changed without showing."""

from __future__ import annotations

import hashlib
import json
import re
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel.errors import StateError
from sentinel.store import Store
from sentinel.store.journal import GENESIS, MAX_TEXT, NO_RUN, Link, first_break
from sentinel.store.outbox import to_all
from sentinel.store.schema import FILE_NAME
from sentinel.store.writing import Refusal
from tests.store.changes import alert, incident, pause

PAGE = Path(__file__).parents[2] / "docs" / "record.md"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store.open(tmp_path, route=to_all(["slack"]))
    yield store
    store.close()


def fill(store: Store, run: str = "gpt") -> None:
    """A pause by a rule, and a resume by a person: five rows."""
    id = f"of {run}"
    about = {"run": run, "id": id}
    (asked,) = store.commit(
        [incident(**about), alert(run=run, incident=id), pause(run=run, incident=id)]  # type: ignore[arg-type]
    )
    store.update_action(asked, "done", at=1001.0, step=41)
    order = {"lr_scale": 0.5, "force": True}
    resume = store.add_action(
        run, "resume", by="user ann", at=1002.0, step=41, incident=id, order=order
    )
    store.update_action(resume, "failed", at=1003.0, detail="rank 1: out of memory")
    store.update_action(resume, "done", at=1004.0, detail="learning rate times 0.5")


def said(store: Store, run: str = "gpt") -> list[dict[str, object]]:
    return [json.loads(str(link.content)) for link in store.journal(run)]


def test_every_change_of_an_action_is_a_row_of_its_own(store: Store) -> None:
    fill(store)

    rows = said(store)
    assert [(row["action"], row["state"], row["step"], row["by"]) for row in rows] == [
        ("pause", "requested", 37, "rule:NonFiniteUpdate"),
        ("pause", "done", 41, "rule:NonFiniteUpdate"),
        ("resume", "requested", 41, "user ann"),
        ("resume", "failed", 41, "user ann"),
        ("resume", "done", 41, "user ann"),
    ]
    assert rows[3]["detail"] == "rank 1: out of memory"
    assert [row["number"] for row in rows] == [1, 2, 3, 4, 5]
    assert store.verify("gpt")[1] is None


def test_the_first_row_of_an_action_says_what_was_asked_for_and_on_what(store: Store) -> None:
    store.commit([incident(), alert(value=float("inf")), alert(labels={"rank": "2"}), pause()])
    store.add_action("gpt", "resume", by="token ci", at=1.0, incident="i1", order={"lr_scale": 0.5})

    by_rule, by_person = said(store)
    assert by_rule["order"] == {"unattended": "hold", "hold_for": 7200.0}
    evidence = by_rule["evidence"]
    assert isinstance(evidence, dict)
    assert (evidence["incident"], evidence["rule"], evidence["step"]) == (
        "i1",
        "NonFiniteUpdate",
        37,
    )
    assert evidence["alert_count"] == 2
    assert [(one["labels"], one["value"]) for one in evidence["alerts"]] == [
        ({"rank": "1"}, "Infinity"),
        ({"rank": "2"}, 1.0),
    ]
    assert (by_person["order"], by_person["evidence"]) == ({"lr_scale": 0.5}, {"incident": "i1"})


def test_the_head_is_shown_in_incidents_and_messages(store: Store) -> None:
    fill(store)

    head = store.journal("gpt")[-1].hash
    assert [shown["head"] for shown in store.incidents()] == [head]
    delivery = store.outbox.claim("slack", 2000.0)
    assert delivery is not None
    told = json.loads(delivery.payload)["incident"]["head"]
    assert told == store.journal("gpt")[0].hash


def test_refusals_are_in_the_chain_of_their_run_or_of_none(store: Store) -> None:
    store.add_action("gpt", "stop", by="user ann", at=1.0, state="refused", detail="it has ended")
    store.add_refusal(Refusal(2.0, "token eve", "resume", "a viewer may only look", "gpt"))
    store.add_refusal(Refusal(3.0, "10.0.0.3", "pause", "unknown token", "elsewhere"))
    store.add_refusal(Refusal(4.0, "10.0.0.3", "GET /api/v1/status", "unknown token"))

    assert [(row["action"], row["state"], row["by"]) for row in said(store)] == [
        ("stop", "refused", "user ann"),
        ("resume", "refused", "token eve"),
    ]
    assert [(row["action"], row["detail"], row["order"]) for row in said(store, NO_RUN)] == [
        ("pause", "unknown token", {"run": "elsewhere"}),
        ("GET /api/v1/status", "unknown token", {}),
    ]
    assert store.journals() == ["gpt", NO_RUN]
    assert [store.verify(run)[1] for run in store.journals()] == [None, None]
    assert [row.action for row in store.actions()] == ["stop"]


def test_any_text_can_be_on_record_and_none_without_bound(store: Store) -> None:
    store.add_action("ü/'\u202e", "pause", by="user \x00\n💥", at=1.0, reason="é" * 10_000)

    (row,) = said(store, "ü/'\u202e")
    assert (row["by"], row["reason"]) == ("user \x00\n💥", "é" * (MAX_TEXT - 1) + "…")
    assert store.verify("ü/'\u202e")[1] is None


def test_the_journal_is_only_added_to(store: Store) -> None:
    fill(store)
    for statement in ("UPDATE journal SET hash = 'x'", "DELETE FROM journal"):
        with (
            pytest.raises(sqlite3.IntegrityError, match="only added to"),
            store._database.transaction() as connection,
        ):
            connection.execute(statement)
    assert store.verify("gpt")[1] is None


DONE = 'content = replace(content, \'"state":"failed"\', \'"state":"done"\')'
TAMPERED = {
    "a row changed": (f"UPDATE journal SET {DONE} WHERE run = 'gpt' AND number = 4", 4, "changed"),
    "a hash changed": ("UPDATE journal SET hash = 'x' WHERE run = 'gpt' AND number = 2", 2, "chan"),
    "a row with its hash changed": (
        "UPDATE journal SET content = other.content, hash = other.hash FROM journal other "
        "WHERE journal.run = 'gpt' AND journal.number = 2 "
        "AND other.run = 'gpt' AND other.number = 3",
        2,
        "written as row 3",
    ),
    "the first row gone": ("DELETE FROM journal WHERE run = 'gpt' AND number = 1", 1, "missing"),
    "a row gone": ("DELETE FROM journal WHERE run = 'gpt' AND number = 3", 3, "missing"),
    "a row gone, the others counted anew": (
        "DELETE FROM journal WHERE run = 'gpt' AND number = 3;"
        "UPDATE journal SET number = number - 1 WHERE run = 'gpt' AND number > 3",
        3,
        "written as row 4",
    ),
    "a row added": (
        "INSERT INTO journal (run, number, content, hash) VALUES ('gpt', 6, '{}', 'x')",
        6,
        "changed",
    ),
    "a row added twice": (
        "INSERT INTO journal (run, number, content, hash) "
        "SELECT run, 6, content, hash FROM journal WHERE run = 'gpt' AND number = 5",
        6,
        "written as row 5",
    ),
    "two rows in another order": (
        "UPDATE journal SET number = 5 - number - 10 WHERE run = 'gpt' AND number IN (2, 3);"
        "UPDATE journal SET number = number + 10 WHERE run = 'gpt' AND number < 0",
        2,
        "written as row 3",
    ),
    "the rows of two runs swapped": (
        "UPDATE journal SET run = 'x' WHERE run = 'gpt' AND number = 2;"
        "UPDATE journal SET run = 'gpt' WHERE run = 'other' AND number = 2;"
        "UPDATE journal SET run = 'other' WHERE run = 'x'",
        2,
        "written for run 'other'",
    ),
    "all rows of two runs swapped": (
        "UPDATE journal SET run = 'x' WHERE run = 'gpt';"
        "UPDATE journal SET run = 'gpt' WHERE run = 'other';"
        "UPDATE journal SET run = 'other' WHERE run = 'x'",
        1,
        "written for run 'other'",
    ),
    "another kind of content": (
        "UPDATE journal SET content = CAST(content AS BLOB) WHERE run = 'gpt' AND number = 2",
        2,
        "changed",
    ),
    "the table of actions changed": (
        "UPDATE actions SET state = 'refused' WHERE action = 'resume' AND run = 'gpt'",
        5,
        "'refused' at step 41 by 'user ann' in the table of actions, but 'resume', 'done'",
    ),
    "an action gone": (
        "DELETE FROM actions WHERE action = 'resume' AND run = 'gpt'",
        5,
        "is not there in the table of actions",
    ),
    "an action added": (
        "INSERT INTO actions VALUES (99, 'gpt', NULL, 'stop', 'done', 1, 'user x', '', '', 1.0)",
        5,
        "but not there in the journal",
    ),
}


def tamper(state_dir: Path, script: str) -> None:
    connection = sqlite3.connect(state_dir / FILE_NAME)
    connection.executescript(
        "DROP TRIGGER IF EXISTS journal_no_update; DROP TRIGGER IF EXISTS journal_no_delete;"
        + script
    )
    connection.close()


@pytest.mark.parametrize("how", TAMPERED)
def test_tampering_shows_at_the_first_bad_row(tmp_path: Path, how: str) -> None:
    store = Store.open(tmp_path)
    fill(store)
    fill(store, "other")
    script, number, reason = TAMPERED[how]
    tamper(tmp_path, script)

    broken = store.verify("gpt")[1]
    assert broken is not None
    assert broken.number == number
    assert reason in broken.reason
    store.close()


def test_a_tail_that_was_cut_is_known_by_its_head_alone(tmp_path: Path) -> None:
    store = Store.open(tmp_path)
    fill(store)
    head = store.journal("gpt")[-1].hash
    tamper(
        tmp_path,
        "DELETE FROM journal WHERE number > 2; DELETE FROM actions WHERE action = 'resume'",
    )

    links, broken = store.verify("gpt")
    assert broken is None
    assert head not in [link.hash for link in links]
    store.close()


def linked(contents: list[str], run: str = "gpt") -> list[Link]:
    """A chain, made as the page says and not by the code that is tested."""
    links: list[Link] = []
    previous = GENESIS
    for number, text in enumerate(contents, 1):
        content = json.dumps({"run": run, "number": number, "previous": previous, "text": text})
        previous = hashlib.sha256(content.encode()).hexdigest()
        links.append(Link(run, number, content, previous))
    return links


@given(
    contents=st.lists(st.text(max_size=20), min_size=2, max_size=8),
    how=st.sampled_from(["drop", "double", "swap", "change", "renumber", "graft"]),
    data=st.data(),
)
def test_no_row_before_the_last_can_be_touched_without_showing(
    contents: list[str], how: str, data: st.DataObject
) -> None:
    links = linked(contents)
    assert first_break(links, "gpt") is None
    at = data.draw(st.integers(0, len(links) - 2))
    bad = [*links]
    if how == "drop":
        del bad[at]
    elif how == "double":
        bad.insert(at, bad[at])
    elif how == "swap":
        bad[at], bad[at + 1] = bad[at + 1], bad[at]
    elif how == "change":
        content = str(bad[at].content)
        place = data.draw(st.integers(0, len(content) - 1))
        bad[at] = replace(bad[at], content=content[:place] + "!" + content[place + 1 :])
    elif how == "renumber":
        bad[at] = replace(bad[at], number=data.draw(st.integers().filter(lambda n: n != at + 1)))
    else:  # the row of another chain in the same place, whole in itself
        bad[at] = linked([*contents[:at], contents[at] + "!"])[at]

    broken = first_break(bad, "gpt")
    assert broken is not None
    assert broken.number in (at + 1, at + 2)


def test_the_script_of_the_page_says_the_same(tmp_path: Path) -> None:
    (script,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    store = Store.open(tmp_path)
    fill(store)
    fill(store, "other")
    head = store.journal("gpt")[-1].hash

    def check() -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", script, str(tmp_path)]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)

    done = check()
    assert done.stdout.splitlines()[0] == f"gpt: 5 rows, head {head}", done.stderr
    tamper(tmp_path, TAMPERED["a row changed"][0])
    assert (check().returncode, check().stderr) == (1, "gpt: broken at row 4\n")
    store.close()


def test_a_journal_that_cannot_be_written_is_said(store: Store) -> None:
    store.close()
    with pytest.raises(StateError):
        store.add_refusal(Refusal(1.0, "eve", "pause", "no"))
