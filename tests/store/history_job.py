"""Keep the history of a run, and say what happened.

Usage: history_job.py DIR endless|full
"""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path

from sentinel.errors import StateError
from tests.store.past import RUN, Kept, measured, row


def endless(state: Path) -> None:
    """Print how many steps have been flushed, for ever."""
    kept, step = Kept(state), 0
    while True:
        for _ in range(7):
            step += 1
            kept.history.append(RUN, row(step, measured(float(step))))
        kept.history.flush(everything=True)
        print(step, flush=True)


def full(state: Path) -> None:
    """Go on while the disk takes nothing, for which RLIMIT_FSIZE stands, and then again."""
    kept = Kept(state, buffer_limit=20_000)
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1, hard))
    said: dict[str, object] = {}
    for step in range(1, 1001):
        kept.history.append(RUN, row(step, measured(float(step))))
        if step % 50 == 0:
            try:
                kept.history.flush(everything=True)
            except StateError as error:
                said["refused"] = str(error)
    said["waiting"] = kept.history.waiting
    said["dropped"] = kept.history.dropped
    said["readable"] = len(kept.values())
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    kept.history.flush(everything=True)
    kept.reopen()
    said["afterwards"] = len(kept.values())
    print(json.dumps(said))


{"endless": endless, "full": full}[sys.argv[2]](Path(sys.argv[1]))
