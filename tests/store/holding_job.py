"""Hold a state directory until told to end: prints "held", then waits for its standard input.

Usage: holding_job.py DIR
"""

from __future__ import annotations

import sys
from pathlib import Path

from sentinel.store import Recording, Store
from tests.store.changes import incident


def main() -> None:
    store = Store.open(Path(sys.argv[1]))
    recording = Recording.open(Path(sys.argv[1]))
    store.commit([incident()])
    recording.append("gpt", 0, 1.0, b"message")
    recording.flush()
    print("held", flush=True)
    sys.stdin.read()


main()
