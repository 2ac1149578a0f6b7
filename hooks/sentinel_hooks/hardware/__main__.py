"""`python -m sentinel_hooks.hardware REPORT INTERVAL PARENT`: the sampler's process.

It is started by a rank (see `keeper`) with a pipe as its standard input, and lives no longer than
that process does, however it ends.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
from pathlib import Path

from sentinel_hooks.hardware.sampler import Sampler

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main() -> None:
    """Sample until the parent is gone."""
    path, interval, parent = Path(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
    # SIGKILL: a thread inside the driver's library may heed nothing else.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a crash in the library is told, not kept
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the training process
    status = 0
    if os.getppid() == parent:  # else it ended before the line above
        status = Sampler(path, interval, parent, sys.stdin.fileno()).run()
    os._exit(status)  # threads that hang in the library are not waited for


if __name__ == "__main__":
    main()
