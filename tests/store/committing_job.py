"""Commit for ever, and print what has been committed: "NUMBER" after each incident.

Usage: committing_job.py DIR FIRST
"""

from __future__ import annotations

import sys
from pathlib import Path

from sentinel.held import HoldTerms
from sentinel.store import HoldRow, RunRow, Store
from sentinel.store.outbox import to_all
from sentinel.store.writing import Reminder
from tests.store.changes import alert, incident, pause, rank


def main() -> None:
    store = Store.open(Path(sys.argv[1]), route=to_all(["slack"]))
    number = int(sys.argv[2])
    while True:
        id = str(number)
        (action,) = store.commit([incident(id=id), alert(incident=id), pause(incident=id)])
        print(number, flush=True)
        hold = HoldRow(41, "rule:NonFiniteUpdate", 1001.0, HoldTerms())
        store.update_action(action, "done", at=1001.0, step=41, hold=hold)
        for _ in range(2):
            store.remind(Reminder("gpt", 900.0, 1901.0))
        if number % 2:
            store.commit([incident("resolved", id=id), alert("resolved", incident=id)])
        store.save_runs([(RunRow("gpt", step=number, hold=hold), [rank(0)])])
        if delivery := store.outbox.claim("slack", 2000.0):
            store.outbox.sent(delivery.event_id, "C1", "1.0")
        number += 1


main()
