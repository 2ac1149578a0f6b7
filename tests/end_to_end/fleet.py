"""Training jobs that a test starts, meets at chosen points, and holds through their daemon.

All ranks are forked from one process that has imported what training needs: importing it anew for
every rank would take longer than all else.
"""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from tests.daemon.process import Daemon, eventually

T = TypeVar("T")

PATIENCE = 120.0  # s; a machine may be slow, and others may use it
# The last one is most of what `deepspeed.initialize` imports: 4 s of every rank's time.
PRELOADED = ["deepspeed", "sentinel_hooks.attach", "torch._inductor.lowering"]

JSON = dict[str, object]


@dataclass(frozen=True)
class Job:
    """What a job is: `stage` of ZeRO, or None for a plain loop over DistributedDataParallel.

    `timeout`: of every process group in seconds, or 0 for what they come with. `unagreed`: in the
    end rank 1 stands still at a boundary by itself, and rank 0 goes on.
    """

    name: str
    folder: Path
    daemon: str
    stage: int | None
    ranks: int = 2
    accumulate: int = 1
    timeout: float = 0.0
    unagreed: bool = False


@dataclass(frozen=True)
class Result:
    """What a rank puts down at its end: the losses of its watched run and of the one after it,
    and the timeout of every process group in seconds.
    """

    watched: list[str]
    undisturbed: list[str]
    timeouts: dict[str, float]


def live(job: Job, rank: int) -> None:
    """A rank's life. Only its own process imports what it trains with."""
    from tests.end_to_end.holding import enter

    enter(job, rank)


@dataclass
class Running:
    """A job whose ranks are alive, under a daemon."""

    job: Job
    daemon: Daemon
    ranks: list[multiprocessing.process.BaseProcess] = field(default_factory=list)

    def start(self) -> Running:
        """Start all ranks."""
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)
        self.ranks = [
            context.Process(target=live, args=(self.job, rank), daemon=True)
            for rank in range(self.job.ranks)
        ]
        for rank in self.ranks:
            rank.start()
        return self

    def kill(self) -> None:
        """End what still lives."""
        for rank in self.ranks:
            rank.kill()
            rank.join()

    def log(self) -> str:
        """What each rank has said last."""
        logs = sorted(self.job.folder.glob("log.*"))
        return "\n".join(f"{path.name}:\n{path.read_text()[-4000:]}" for path in logs)

    def await_(self, look: Callable[[], T | None], what: str) -> T:
        """What `look` finds, while all ranks are well."""

        def look_and_check() -> T | None:
            found = look()
            assert found or not any(rank.exitcode for rank in self.ranks), self.log()
            return found

        return eventually(look_and_check, f"{what} of {self.job.name}", PATIENCE)

    # Meeting the ranks.

    def wait_at(self, *points: str) -> Running:
        """Have ranks wait at these points. Only before the job starts or while it is held."""
        for point in points:
            for before in self.job.folder.glob(f"{point}.*"):
                before.unlink()
            (self.job.folder / point).touch()
        return self

    def met(self, point: str, ranks: Sequence[int] | None = None) -> None:
        """Return when all ranks, or these, wait at this point."""
        wanted = range(self.job.ranks) if ranks is None else ranks
        places = [self.job.folder / f"{point}.{rank}" for rank in wanted]
        self.await_(lambda: all(place.exists() for place in places), point)

    def go(self, point: str) -> None:
        """Let those who wait there go on."""
        (self.job.folder / point).unlink()

    def begun(self) -> list[int]:
        """How many micro-batches each rank has begun."""
        files = [self.job.folder / f"begun.{rank}" for rank in range(self.job.ranks)]
        return [int(file.read_text() or 0) if file.exists() else 0 for file in files]

    # Through the daemon.

    def status(self) -> JSON:
        """The run as the daemon tells it, or nothing yet."""
        code, answer = self.daemon.get(f"/api/v1/status?run={self.job.name}")
        runs: list[JSON] = json.loads(answer) if code == 200 else []
        return runs[0] if runs else {}

    def order(self, action: str, **body: object) -> int:
        """Give an order; its number."""
        code, answer = self.daemon.request("POST", f"/api/v1/runs/{self.job.name}/{action}", body)
        assert code == 200, answer
        return int(json.loads(answer)["id"])

    def became(self, order: int) -> JSON:
        """What became of an order, once it is known."""

        def look() -> JSON | None:
            code, answer = self.daemon.get(f"/api/v1/actions/{order}")
            assert code == 200, answer
            action: JSON = json.loads(answer)
            return action if action["state"] != "requested" else None

        return self.await_(look, f"order {order}")

    def pause(self) -> int:
        """Order a hold and wait for it; the step after which all ranks stand."""
        return self.held(self.order("pause"))

    def pausing(self) -> int:
        """Order a hold, and return once the job has agreed on its step; the order's number."""
        order = self.order("pause")

        self.await_(lambda: self.status()["hold"], "the agreement on a step")
        assert self.status()["state"] == "pausing"
        return order

    def held(self, order: int) -> int:
        """Wait for a hold that was ordered; the step after which all ranks really stand."""
        became = self.became(order)
        assert became["state"] == "done", (became, self.log())
        step = became["step"]
        assert isinstance(step, int)
        self.await_(lambda: self.place() == ("held", step, [("held", step)] * self.job.ranks), "it")
        self.stands(step)
        return step

    def place(self) -> tuple[object, ...]:
        """State, step of the hold, and phase and step of each rank, as the daemon tells them."""
        status = self.status()
        hold, ranks = status.get("hold"), status.get("ranks")
        if not isinstance(hold, dict) or not isinstance(ranks, list):
            return (status.get("state"),)
        return status["state"], hold["step"], [(rank["phase"], rank["step"]) for rank in ranks]

    def stands(self, step: int) -> None:
        """Every rank has begun what belongs to this step, all of it, and nothing after."""
        assert self.begun() == [step * self.job.accumulate] * self.job.ranks, self.log()

    def resume(self) -> None:
        """Order the held job to go on, and wait until it does."""
        became = self.became(self.order("resume"))
        assert became["state"] == "done", became

    def end(self, *, after: int) -> None:
        """Have the held job end after this step."""
        new = self.job.folder / "last.new"
        new.write_text(str(after))
        new.rename(self.job.folder / "last")

    def results(self) -> list[Result]:
        """What each rank has put down."""
        files = [self.job.folder / f"result.{rank}" for rank in range(self.job.ranks)]
        self.await_(lambda: all(file.exists() for file in files), "the end")
        return [Result(**json.loads(file.read_text())) for file in files]

    def finish(self) -> list[Result]:
        """Wait until all ranks have ended well; what each has put down."""
        for rank in self.ranks:
            rank.join(PATIENCE)
        assert [rank.exitcode for rank in self.ranks] == [0] * self.job.ranks, self.log()
        return self.results()
