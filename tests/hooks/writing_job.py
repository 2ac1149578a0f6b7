"""Writes a black box, as a rank does, until it is killed. Argument: the folder."""

from __future__ import annotations

import sys
from pathlib import Path

from sentinel.blackbox import Header
from sentinel.wire import Frame, Series
from sentinel_hooks.blackbox import BlackBoxFile

SERIES = (Series("loss"), Series("lr"))

if __name__ == "__main__":
    box = BlackBoxFile(Path(sys.argv[1]), Header("run", 0, 1, "abc", "host", 1, 0.0), SERIES)
    step = 0
    while True:
        step += 1
        box.write(Frame(step, step, float(step), bytes(16)), SERIES, (f"{step:x}",))
        if step == 100:
            print("writing", flush=True)
