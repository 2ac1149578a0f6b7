"""The one line that `systemctl status` has for the daemon."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest

from sentinel.daemon.run import Run
from sentinel.daemon.status_line import status_line


def run(name: str, ranks: int, state: str = "running") -> Run:
    """As far as the line looks at one."""
    return cast(Run, SimpleNamespace(name=name, connected=frozenset(range(ranks)), state=state))


@pytest.mark.parametrize(
    ("active", "line"),
    [
        ([], "serving; no run goes on"),
        ([run("a", 1)], "serving 1 run with 1 rank"),
        ([run("a", 8), run("b", 8, "held")], "serving 2 runs with 16 ranks; held: b"),
        ([run("a", 2, "held"), run("b", 0, "held")], "serving 2 runs with 2 ranks; 2 are held"),
    ],
)
def test_it_counts_runs_and_ranks_and_names_what_is_held(active: list[Run], line: str) -> None:
    assert status_line(active) == line
