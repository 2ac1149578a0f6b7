"""What a terminal says of where something went wrong."""

from __future__ import annotations

import pytest

from sentinel.cli.whereabouts import whereabouts
from sentinel.engine.transition import Cause


@pytest.mark.parametrize(
    ("cause", "said"),
    [
        (Cause("R", "loss", 7), "at step 7"),
        (Cause("R", "loss", 7, 2, "node-a", "cuda:1"), "on rank 2 (node-a, cuda:1) at step 7"),
        (
            Cause("R", "s", 7, 2, None, None, "h.3", "h.3.weight", 0, "9f86", ("a\x1b[31m", "b")),
            "in h.3, h.3.weight on rank 2 at step 7, micro-batch 0 of batch 9f86 "
            "with samples a [31m, b",
        ),
        (Cause("R", "s", 7, parameter="bias"), "in bias at step 7"),
    ],
)
def test_what_is_known_is_said_in_one_line(cause: Cause, said: str) -> None:
    assert whereabouts(cause) == said
