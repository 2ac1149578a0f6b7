"""What it costs a training process to say where its threads stand.

    python benchmarks/stacks.py

200 threads of 100 frames each. The peer is `faulthandler`, which writes the frames of 100 threads
without Python code. The time is an upper bound of how long the interpreter's lock is held, since
other threads may take it in between.
"""

from __future__ import annotations

import faulthandler
import os
import statistics
import threading
import time
from collections.abc import Callable

from sentinel_hooks.stacks import stack

THREADS, FRAMES, TIMES = 200, 100, 200


def stand(left: int, until: threading.Event) -> None:
    """So many frames, and then nothing."""
    if left:
        stand(left - 1, until)
    else:
        until.wait()


def seconds(work: Callable[[], object]) -> list[float]:
    """How long each of many goes takes."""
    taken = []
    for _ in range(TIMES):
        begun = time.perf_counter()
        work()
        taken.append(time.perf_counter() - begun)
    return taken


def main() -> None:
    """Measure, and print."""
    until = threading.Event()
    for _ in range(THREADS):
        threading.Thread(target=stand, args=(FRAMES, until), daemon=True).start()
    trains = threading.main_thread().ident or 0
    nowhere = os.open(os.devnull, os.O_WRONLY)
    ours = seconds(lambda: stack("incident", trains, "phase data"))
    peer = seconds(lambda: faulthandler.dump_traceback(nowhere, all_threads=True))
    until.set()
    for name, found in (("stack", ours), ("faulthandler", peer)):
        ranked = sorted(found)
        median, most = statistics.median(ranked) * 1e3, ranked[int(0.99 * TIMES)] * 1e3
        print(f"{name:<13} median {median:7.3f} ms   p99 {most:7.3f} ms")
    print(f"stack over faulthandler: {statistics.median(ours) / statistics.median(peer):.2f}")


if __name__ == "__main__":
    main()
