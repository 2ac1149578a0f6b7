"""Daemons that are killed by -9 at random instants tell of every incident, and of none twice.

`python benchmarks/kill_storm.py` is the same with 200 kills.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.kill_storm import storm


@pytest.mark.slow
async def test_every_incident_of_a_storm_is_told_once_however_often_the_daemon_is_killed(
    tmp_path: Path,
) -> None:
    report = await storm(tmp_path, kills=8, seed=3)

    assert report.problems == []
    assert (report.kills, report.incidents) == (8, report.runs)
    assert report.incidents >= 3
