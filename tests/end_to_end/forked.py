"""The stranger's script in ranks that are forked from a process that has imported what it needs.

Importing it anew for every rank takes longer than all that the script does.
"""

from __future__ import annotations

import multiprocessing
import os
import socket
from dataclasses import dataclass
from pathlib import Path

from tests.daemon.process import environment
from tests.end_to_end.fleet import PRELOADED

RANKS = 2


@dataclass
class Script:
    """The ranks of a script that has been started; what they print is in `log`."""

    ranks: list[multiprocessing.process.BaseProcess]
    log: Path

    def finish(self) -> None:
        """Wait for its end, which is a good one."""
        for rank in self.ranks:
            rank.join(180)
        assert [rank.exitcode for rank in self.ranks] == [0] * RANKS, self.log.read_text()

    def kill(self) -> None:
        """End what still lives."""
        for rank in self.ranks:
            rank.kill()
            rank.join()


def start(log: Path, **env: object) -> Script:
    """Start the script with these variables beside those that a launcher sets."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    job = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": RANKS, **env}
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    ranks: list[multiprocessing.process.BaseProcess] = [
        context.Process(
            target=live,
            args=(log, environment(**{k: str(v) for k, v in job.items()}, RANK=str(rank))),
            daemon=True,
        )
        for rank in range(RANKS)
    ]
    for one in ranks:
        one.start()
    return Script(ranks, log)


def live(log: Path, settings: dict[str, str]) -> None:
    """A rank's life."""
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.environ.clear()
    os.environ.update(settings, LOCAL_RANK=settings["RANK"])
    from tests.end_to_end import train

    train.main()
