"""What tests of several files read of one start of two ranks."""

from __future__ import annotations

import fcntl
import json
import os

import pytest

from tests.hooks.two_ranks import NO_COMPILER, two_ranks
from tests.hooks.zero_runs import Runs, cases


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """All cases of `zero_runs`, which the first process of a test run goes through for all."""
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent
    out, done = base / "zero", base / "zero.json"
    with (base / "zero.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            out.mkdir(exist_ok=True)
            asked = json.dumps(list(cases()))
            ranks = two_ranks("zero_cases", out, asked, **NO_COMPILER)
            done.write_text(json.dumps(ranks))
    return Runs(json.loads(done.read_text()))
