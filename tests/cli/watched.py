"""A command for `sentinel run`: a job of fake ranks that goes as its arguments say.

`steps N`, `save`, `proven` (waits until what was saved is healthy), `nan` (applied on rank 1, then
stands until told), `finish`, `vanish`, `die`, `exit N`.
"""

from __future__ import annotations

import os
import sys
import time

from sentinel import address, wire
from sentinel.cli.client import Client
from sentinel.control.barrier import Verdict
from tests.daemon.fake_job import FakeJob
from tests.daemon.process import eventually
from tests.daemon.scenes import APPLIED_NAN


def main() -> None:
    """Do what the arguments say, one after the other."""
    job = FakeJob(address.default_address(), run=os.environ["SENTINEL_RUN"]).connect()
    words = iter(sys.argv[1:])
    for word in words:
        if word == "steps":
            for _ in range(int(next(words))):
                job.train()
                time.sleep(0.001)
        elif word == "save":
            tag = f"step{job.step}"
            for rank in job.ranks:
                rank.send(wire.Checkpoint(job.step, tag, "/ckpt", 0.1, "", (tag,)))
        elif word == "proven":
            eventually(_is_proven, "a healthy checkpoint")
        elif word == "nan":
            job.train(APPLIED_NAN)
            job.train_until_stand()
            if job.await_verdict() is Verdict.STOP:
                job.goodbye("stopped")
                os._exit(0)
        elif word == "finish":
            job.goodbye()
        elif word == "vanish":
            job.vanish()
        elif word == "die":  # rank 1 is gone, and the launcher takes down the rest
            job.ranks[1].close()
            time.sleep(0.2)
            os._exit(1)
        elif word == "exit":
            os._exit(int(next(words)))


def _is_proven() -> bool:
    known = Client(address.default_state_dir()).checkpoints(os.environ["SENTINEL_RUN"])
    return any(one["state"] == "healthy" for one in known)


if __name__ == "__main__":
    main()
