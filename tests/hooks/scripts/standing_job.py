"""Ranks that meet in torch's store, have a collective at every step, and stand at the real gate.

    python standing_job.py PORT

Torch is imported once. Each line on standard input, a JSON object with `case`, `rank`, `size` and,
for a rank that is to take long at something, `slow`, forks one rank. Ranks say on standard output,
a JSON object a line, what they do.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from datetime import timedelta

import torch.distributed as dist
from torch._C._distributed_c10d import PrefixStore, TCPStore

from sentinel.control.barrier import Barrier, Verdict
from sentinel.wire import Remedies
from sentinel_hooks.gate import Gate
from sentinel_hooks.job import StoreBoard

BEAT = 0.1  # s
LEASE = SILENCE = 2.0  # s
MINUTES = timedelta(minutes=5)


class Rank:
    """One rank; it is its own gate's attendant."""

    def __init__(self, case: str, rank: int, size: int, slow: str) -> None:
        self.case, self.rank, self.size, self.slow = case, rank, size, slow

    def say(self, what: object) -> None:
        """To the test; what the gate has for a daemon is not its concern."""
        if isinstance(what, str):
            line = json.dumps(
                {"case": self.case, "rank": self.rank, "does": what, "pid": os.getpid()}
            )
            os.write(1, line.encode() + b"\n")

    def _take_long_at(self, what: str) -> None:
        if self.slow == what:
            self.say(what)
            time.sleep(600)

    def settle(self) -> None:
        """See `gate.Attendant`."""
        self._take_long_at("settle")

    def first_bad_weight(self) -> str:
        """See `gate.Attendant`."""
        return ""

    def absent(self) -> float:
        """See `gate.Attendant`."""
        return 0.0

    def apply(self, remedies: Remedies) -> str:
        """See `Barrier`."""
        self._take_long_at("apply")
        return ""

    def train(self, port: int) -> None:
        """Until told to stop, or until a collective fails because a rank is gone."""
        server = TCPStore("127.0.0.1", port, is_master=False)
        store = PrefixStore(self.case, server)
        dist.init_process_group(
            "gloo", store=store, rank=self.rank, world_size=self.size, timeout=MINUTES
        )
        barrier = Barrier(
            StoreBoard(store, "job"),
            self.rank,
            self.size,
            accept=lambda remedies: "",
            apply=self.apply,
            lease_limit=LEASE,
            silence=SILENCE,
        )
        gate = Gate(barrier, self)
        threading.Thread(target=beat, args=(barrier,), daemon=True).start()
        self.say("train")
        verdict, step = Verdict.GO, 0
        while verdict is not Verdict.STOP:
            try:
                dist.barrier()
            except RuntimeError:
                self.say("broken")
                barrier.depart()  # as `Watch` does when a script ends with an error
                return
            step += 1
            verdict = gate.boundary(step, lambda: self.say("stand"))
            time.sleep(0.002)
        self.say("stop")


def beat(barrier: Barrier) -> None:
    """As a rank's sender does."""
    while True:
        barrier.refresh()
        time.sleep(BEAT)


if __name__ == "__main__":
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for order in sys.stdin:
        if os.fork() == 0:
            wanted = json.loads(order)
            Rank(wanted["case"], wanted["rank"], wanted["size"], wanted["slow"]).train(
                int(sys.argv[1])
            )
            os._exit(0)
