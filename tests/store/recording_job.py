"""Record for ever, and print how many messages have been flushed.

Usage: recording_job.py DIR FIRST
"""

from __future__ import annotations

import sys
from pathlib import Path

from sentinel.store import Recording


def main() -> None:
    recording = Recording.open(Path(sys.argv[1]))
    number = int(sys.argv[2])
    while True:
        for _ in range(20):
            recording.append("gpt", number % 2, float(number), b"x" * (number % 700))
            number += 1
        recording.flush()
        print(number, flush=True)


main()
