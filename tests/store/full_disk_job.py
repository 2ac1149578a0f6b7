"""Go on while the disk takes nothing (RLIMIT_FSIZE stands for it), and print what happened.

Usage: full_disk_job.py DIR
"""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path

from sentinel.errors import StateError
from sentinel.store import Recording, Store
from sentinel.store.outbox import to_all
from tests.store.changes import alert, incident, pause


def disk(*, full: bool) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 if full else hard, hard))


def deliver(store: Store) -> list[object]:
    """Send all that is due: kind, doubtful, what became of the last action."""
    found: list[object] = []
    while delivery := store.outbox.claim("slack", 2000.0):
        actions = json.loads(delivery.payload)["actions"]
        head = json.loads(delivery.payload)["incident"]["head"]
        state = actions[-1]["state"] if actions else None
        found.append([delivery.kind, delivery.incident, state, bool(head)])
        store.outbox.sent(delivery.event_id, "C1", "1.0")
    return found


def main() -> None:
    store = Store.open(Path(sys.argv[1]), route=to_all(["slack"]))
    recording = Recording.open(Path(sys.argv[1]), buffer_limit=10_000)
    said: dict[str, object] = {}
    (action,) = store.commit([incident(id="before"), pause(incident="before")])

    disk(full=True)
    for id in ("lost", "lost too"):
        try:
            store.commit([incident(id=id), alert(incident=id), pause(incident=id)])
        except StateError as error:
            said["refused"] = str(error)
    try:
        store.update_action(action, "done", at=1001.0, step=41)
    except StateError:
        said["action"] = "refused"
    try:
        store.add_action("gpt", "resume", by="ann", at=1002.0, incident="lost")
    except StateError:
        said["asked"] = "refused"
    said["readable"] = [shown["id"] for shown in store.incidents()]
    said["behind"] = store.behind
    said["told"] = deliver(store)
    recording.append("gpt", 0, 1.0, b"\x9f\xa5hello")
    for _ in range(100):
        recording.append("gpt", 0, 1.0, b"x" * 1000)
        try:
            recording.flush()
        except StateError:
            said["recording"] = "refused"
    said["buffered"] = recording.buffered
    said["dropped"] = recording.dropped

    disk(full=False)
    store.add_action("gpt", "stop", by="ann", at=1003.0, incident="lost")
    said["behind afterwards"] = store.behind
    said["told afterwards"] = deliver(store)
    said["outbox"] = store.outbox.counts()
    said["actions"] = [[row.incident, row.state, row.detail] for row in store.actions()]
    said["ids"] = [shown["id"] for shown in store.incidents()]
    recording.flush()
    messages = [entry.body for entry in recording.messages("gpt")]
    said["recorded"] = [messages[0] == b"\x9f\xa5hello", len(messages)]
    print(json.dumps(said))


main()
