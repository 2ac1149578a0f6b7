"""Training that a test holds: real ranks over gloo, and the places where the test can meet them.

`enter` is the whole life of a rank. It trains under Sentinel until the test says after which step
to end, and then once more from the start without, so that the losses of both can be compared.
"""

from __future__ import annotations

import json
import os
import time
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from torch.distributed import TCPStore  # type: ignore[attr-defined]
from torch.nn.parallel import DistributedDataParallel

import sentinel
from sentinel_hooks.watch import Watch
from tests.end_to_end.fleet import Job, Result
from tests.hooks.scripts.gpt import Gpt, batch


@dataclass
class Points:
    """Where a rank meets the test: at any point for which there is a file, until that is gone.

    The test makes these files before the job starts or while it is held, so that all ranks find
    the same. Where `on` is false no point is met.
    """

    folder: Path
    rank: int
    on: bool

    def has(self, point: str) -> bool:
        """Whether the test waits at this point."""
        return self.on and (self.folder / point).exists()

    def meet(self, point: str) -> None:
        """Tell the test that this rank is here, and wait until it may go on."""
        if not self.has(point):
            return
        (self.folder / f"{point}.{self.rank}").touch()
        while self.has(point):
            time.sleep(0.005)

    def last(self) -> float:
        """The step after which to end, once the test has said so."""
        told = self.folder / "last"
        return int(told.read_text()) if told.exists() else float("inf")


@dataclass
class Meeting:
    """Meets the test while it is pickled: in the midst of a checkpoint."""

    points: Points

    def __reduce__(self) -> tuple[type[str], tuple[()]]:
        self.points.meet("save")
        return str, ()


class Zero:
    """A loop over a DeepSpeed engine."""

    def __init__(self, job: Job) -> None:
        model = Gpt()
        config = {
            "train_micro_batch_size_per_gpu": 2,
            "gradient_accumulation_steps": job.accumulate,
            "gradient_clipping": 1.0,
            "zero_optimization": {"stage": job.stage},
            "zero_allow_untested_optimizer": True,
            "steps_per_print": None,
        }
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        self.engine: Any
        self.engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=config)

    def attach(self, job: Job) -> Watch:
        return sentinel.attach(self.engine, run=job.name, daemon=job.daemon)

    def train(self, rows: torch.Tensor, *, boundary: bool) -> str:
        loss = self.engine(rows[:, :-1], rows[:, 1:])
        self.engine.backward(loss)
        self.engine.step()
        return float(loss.item()).hex()

    def save(self, points: Points) -> None:
        folder = points.folder / "checkpoints"
        self.engine.save_checkpoint(str(folder), client_state={"meeting": Meeting(points)})

    def evaluate(self, points: Points) -> None:
        self.engine.eval()
        for number in range(2):
            rows = batch(number)
            with torch.no_grad():
                self.engine(rows[:, :-1], rows[:, 1:])
            points.meet("evaluation")
        self.engine.train()


class Plain:
    """A loop of one's own over DistributedDataParallel."""

    def __init__(self, job: Job) -> None:
        self.accumulate = job.accumulate
        self.model = DistributedDataParallel(Gpt())
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3)

    def attach(self, job: Job) -> Watch:
        return sentinel.attach(
            model=self.model, optimizer=self.optimizer, run=job.name, daemon=job.daemon
        )

    def train(self, rows: torch.Tensor, *, boundary: bool) -> str:
        with nullcontext() if boundary else self.model.no_sync():
            loss = self.model(rows[:, :-1], rows[:, 1:])
            (loss / self.accumulate).backward()
        if boundary:
            self.optimizer.step()
            self.optimizer.zero_grad()
        return float(loss.item()).hex()


Loop = Zero | Plain


def enter(job: Job, rank: int) -> None:
    """Be this rank of this job, from here to the process's end."""
    folder = job.folder
    output = os.open(folder / f"log.{rank}", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": job.ranks}
    os.environ.update({name: str(value) for name, value in place.items()})
    torch.set_num_threads(1)
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # needs a compiler
    join(job, rank)
    watched = train(job, Points(folder, rank, on=True))
    seconds = timeouts()
    undisturbed = train(job, Points(folder, rank, on=False), steps=len(watched) // job.accumulate)
    result = Result(watched, undisturbed, seconds)
    new = folder / f"result.{rank}.new"  # whoever waits for a result finds all of it
    new.write_text(json.dumps(asdict(result)))
    new.rename(folder / f"result.{rank}")
    dist.barrier()
    if job.unagreed:
        stand_alone(job, rank)


def join(job: Job, rank: int) -> None:
    """Meet the other ranks, at a port that rank 0 finds free."""
    told = job.folder / "port"
    if rank == 0:
        store = TCPStore("127.0.0.1", 0, job.ranks, is_master=True, wait_for_workers=False)
        told.with_suffix(".new").write_text(str(store.port))
        told.with_suffix(".new").rename(told)
    else:
        while not told.exists():
            time.sleep(0.005)
        store = TCPStore("127.0.0.1", int(told.read_text()), job.ranks)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=job.ranks)
    if job.stage is not None:
        deepspeed.init_distributed("gloo")


def timeouts() -> dict[str, float]:
    """The timeout of every process group of this rank, in seconds."""
    world = dist.distributed_c10d._world
    cpu = torch.device("cpu")
    return {
        world.pg_names[group]: group._get_backend(cpu).options._timeout.total_seconds()
        for group in world.pg_map
    }


def loop_of(job: Job) -> Loop:
    torch.manual_seed(0)
    loop = Plain(job) if job.stage is None else Zero(job)
    for group in [*dist.distributed_c10d._world.pg_map] if job.timeout else ():
        dist.distributed_c10d._set_pg_timeout(timedelta(seconds=job.timeout), group)
    return loop


def train(job: Job, points: Points, steps: float = float("inf")) -> list[str]:
    """Train for so many steps, or until the test says which one is the last; all losses."""
    loop = loop_of(job)
    watch = None
    if points.on:
        if points.rank == job.ranks - 1:
            points.meet("attach")
        watch = loop.attach(job)
    begun = (points.folder / f"begun.{points.rank}").open("w") if points.on else None
    losses: list[str] = []
    while len(losses) < min(steps, points.last()) * job.accumulate:
        for micro_batch in range(job.accumulate):
            if begun is not None:  # which micro-batch this rank has begun, from 1
                os.pwrite(begun.fileno(), b"%8d" % (len(losses) + 1), 0)
            rows = batch(job.ranks * len(losses) + points.rank)
            losses.append(loop.train(rows, boundary=micro_batch == job.accumulate - 1))
            if micro_batch == 0:
                points.meet("accumulation")
        if isinstance(loop, Zero) and points.has("save"):
            loop.save(points)
        if isinstance(loop, Zero) and points.has("evaluation"):
            loop.evaluate(points)
    if watch is not None:
        watch.close()
    return losses


def stand_alone(job: Job, rank: int) -> None:
    """Pause as a flag that each rank polls by itself would: one stands, the others go on."""
    loop = loop_of(job)
    loop.train(batch(rank), boundary=True)
    (job.folder / f"unagreed.{rank}").touch()
    while rank == 1:
        time.sleep(1)
    loop.train(batch(rank), boundary=True)
