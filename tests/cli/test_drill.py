"""The drills, whole: real training on two ranks, broken on purpose."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from sentinel.cli.scenario import SCENARIOS
from tests.daemon.process import environment, sentinel


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("fault", [*SCENARIOS])
def test_a_drill_ends_well_because_everything_has_happened(tmp_path: Path, fault: str) -> None:
    state = tmp_path / "state"
    done = subprocess.run(
        [sys.executable, "-m", "sentinel", "drill", fault, "--state", str(state)],
        capture_output=True,
        text=True,
        env=environment(),
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "   NO  " not in done.stdout
    assert "Slack received" in done.stdout
    scenario = SCENARIOS[fault]
    (incident,) = json.loads(sentinel("incidents", "--json", "--state", state).stdout)
    assert incident["cause"]["module"] == scenario.module
    assert incident["cause"]["rank"] == scenario.rank
    assert scenario.rules & {alert["rule"] for alert in incident["alerts"]}
    actions = [(action["action"], action["state"]) for action in incident["actions"]]
    assert actions == ([("pause", "done"), ("resume", "done")] if scenario.paused else [])
