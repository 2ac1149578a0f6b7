"""A daemon that is killed by -9 at any instant leaves a record that is whole."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path

from sentinel.store import Recording, Store
from sentinel.store.outbox import to_all
from tests.store import jobs

# What must never be there: one half of what was written together.
HALVES = {
    "incident without a message": (
        "SELECT id FROM incidents WHERE id NOT IN "
        "(SELECT incident FROM outbox WHERE kind = 'opened')"
    ),
    "message without an incident": (
        "SELECT id FROM outbox WHERE incident NOT IN (SELECT id FROM incidents)"
    ),
    "incident without its alert": (
        "SELECT id FROM incidents WHERE id NOT IN (SELECT incident FROM alerts)"
    ),
    "incident without its action": (
        "SELECT id FROM incidents WHERE id NOT IN (SELECT incident FROM actions)"
    ),
    "resolution that was not told": (
        "SELECT id FROM incidents WHERE state = 'resolved' AND id NOT IN "
        "(SELECT incident FROM outbox WHERE kind = 'resolved')"
    ),
    "resolved incident whose alert fires": (
        "SELECT i.id FROM incidents i JOIN alerts a ON a.incident = i.id "
        "WHERE (i.state = 'resolved') != (a.state = 'resolved')"
    ),
    "action done that was not told": (
        "SELECT id FROM actions WHERE state = 'done' AND incident NOT IN "
        "(SELECT incident FROM outbox WHERE kind = 'held')"
    ),
    "told that an action was done which was not": (
        "SELECT o.id FROM outbox o JOIN actions a ON a.incident = o.incident "
        "WHERE o.kind = 'held' AND a.state != 'done'"
    ),
    "action that is not in the journal": (
        "SELECT id FROM actions WHERE id NOT IN (SELECT action FROM journal)"
    ),
    "reminder on record that was not told": (
        "SELECT name FROM runs WHERE hold_reminded > 0 AND (SELECT incident FROM actions "
        "WHERE action = 'pause' AND state = 'done' ORDER BY id DESC LIMIT 1) NOT IN "
        "(SELECT incident FROM outbox WHERE kind = 'reminder')"
    ),
    "reminder told twice": (
        "SELECT incident FROM outbox WHERE kind = 'reminder' GROUP BY incident HAVING count(*) > 1"
    ),
    "broken reference": "SELECT * FROM pragma_foreign_key_check",
}


def test_no_kill_leaves_half_of_a_change_or_loses_what_was_committed(tmp_path: Path) -> None:
    chance = random.Random(7)
    printed: set[str] = set()
    heads: set[str] = set()
    for round in range(8):
        with jobs.started("committing_job.py", tmp_path, str(1000 * round)) as process:
            printed.add(jobs.line(process))
            time.sleep(chance.uniform(0.0, 0.1))  # the instant of the kill is the test's input
            process.send_signal(signal.SIGKILL)
            assert process.stdout is not None
            printed |= {line.strip() for line in process.stdout if line.endswith("\n")}
            process.wait()

        store = Store.open(tmp_path, route=to_all(["slack"]))
        for what, query in HALVES.items():
            assert store._database.rows(query) == [], what
        links, broken = store.verify("gpt")
        assert broken is None
        heads |= {str(link.hash) for link in links}
        assert len(links) == len(heads), "a row that was there is there no more"
        ids = {shown["id"] for shown in store.incidents()}
        assert printed <= ids
        assert len(ids) <= len(printed) + round + 1
        assert "sending" not in store.outbox.counts()
        store.close()


def test_a_kill_loses_of_a_recording_only_what_was_not_flushed(tmp_path: Path) -> None:
    chance = random.Random(11)
    Store.open(tmp_path).close()
    flushed = 0
    for _ in range(5):
        with jobs.started("recording_job.py", tmp_path, str(flushed)) as process:
            jobs.line(process)
            time.sleep(chance.uniform(0.0, 0.1))  # the instant of the kill is the test's input
            process.send_signal(signal.SIGKILL)
            assert process.stdout is not None
            said = [int(line) for line in process.stdout if line.endswith("\n")]
            process.wait()

        recording = Recording.open(tmp_path, readonly=True)
        numbers = [int(entry.now) for entry in recording.messages("gpt")]
        recording.close()
        assert numbers == list(range(len(numbers)))
        assert len(numbers) >= max(said, default=flushed)
        flushed = len(numbers)
