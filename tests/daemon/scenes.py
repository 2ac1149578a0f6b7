"""What several tests bring about."""

from __future__ import annotations

import json
from typing import Any

from sentinel.control.barrier import Verdict
from tests.daemon.fake_job import FakeJob
from tests.daemon.process import Daemon, eventually

APPLIED_NAN = {1: {"nonfinite_activation": 3.0, "loss": float("nan"), "nonfinite_update": 1.0}}
SKIPPED = {0: {"skipped": 1.0}, 1: {"skipped": 1.0}}

Json = dict[str, Any]


def status(daemon: Daemon, run: str = "run") -> Json:
    """A run, as `status --json` shows it."""
    code, body = daemon.get(f"/api/v1/status?run={run}")
    assert code == 200, body
    (entry,) = json.loads(body)
    found: Json = entry
    return found


def incidents(daemon: Daemon, run: str = "run") -> list[Json]:
    """Its incidents, as `incidents --json` shows them."""
    found: list[Json] = json.loads(daemon.get(f"/api/v1/incidents?run={run}")[1])
    return found


def in_state(daemon: Daemon, job: FakeJob, state: str, run: str = "run") -> Json:
    """Wait, standing if the job stands, until the run is in this state."""

    def look() -> Json | None:
        if job.stands:
            assert job.poll() is Verdict.STAND
        entry = status(daemon, run)
        return entry if entry["state"] == state else None

    return eventually(look, f"{run} being {state}")


def broken(daemon: Daemon, **options: Any) -> FakeJob:
    """A job of two ranks that is held after a NaN was applied to the weights of rank 1."""
    job = FakeJob(daemon.place, **options).connect()
    for _ in range(5):
        job.train()
    job.train(APPLIED_NAN)
    job.await_hold_order()  # on a busy machine many steps pass meanwhile, and it would be over
    job.train_until_stand()
    in_state(daemon, job, "held", options.get("run", "run"))
    return job
