"""What the processes of a job share: the store that torch made when the job met.

The store holds the run's control state (see `sentinel.control.outcome`), and the name and the
daemon that rank 0 chose. A process on its own shares with itself.
"""

from __future__ import annotations

import atexit
import math
import os
import re
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Protocol

import torch
import torch.distributed as dist

from sentinel import clock
from sentinel.control.outcome import Register
from sentinel.errors import AttachError

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

_OPERATION_TIMEOUT = timedelta(seconds=30)
_LEASE_LIMIT = 60.0  # s
_PATIENCE = 300.0  # s for all ranks to attach, where one of them is to be guarded
_POLL, _POLL_PER_RANK = 0.02, 1e-4  # s between two looks at who has attached
_attached = 0  # how often this process has attached: every rank attaches equally often


class Board(Register, Protocol):
    """A register where rank 0 can also leave a note for the others."""

    def publish(self, name: str, text: str) -> None:
        """Leave a note under this name."""
        ...

    def look_up(self, name: str) -> str | None:
        """The note under this name, or None when there is none yet. Never waits for one."""
        ...


class StoreBoard:
    """A board in torch's store, under keys of its own. About 50 us an operation."""

    def __init__(self, store: Store, namespace: str) -> None:
        clone = getattr(store, "clone", None)  # a connection of our own, where torch has it
        self._store: Store = clone() if clone is not None else store
        if clone is not None:
            self._store.set_timeout(_OPERATION_TIMEOUT)
        self._namespace = namespace

    def read(self) -> bytes:
        """See `Register.read`."""
        key = self._key("outcome")
        return bytes(self._store.get(key)) if self._store.check([key]) else b""

    def swap(self, expected: bytes, desired: bytes) -> bool:
        """See `Register.swap`."""
        key = self._key("outcome")
        now = self._store.compare_set(key, expected.decode(), desired.decode())
        return bytes(now) == desired

    def count(self, name: str, add: int) -> int:
        """See `Register.count`."""
        return int(self._store.add(self._key(name), add))

    def publish(self, name: str, text: str) -> None:
        """See `Board.publish`."""
        self._store.set(self._key(name), text)

    def look_up(self, name: str) -> str | None:
        """See `Board.look_up`."""
        key = self._key(name)
        return bytes(self._store.get(key)).decode() if self._store.check([key]) else None

    def _key(self, name: str) -> str:
        return f"sentinel/{self._namespace}/{name}"


class LocalBoard:
    """The same for a process on its own."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._value = b""
        self._counts: dict[str, int] = {}
        self._notes: dict[str, str] = {}

    def read(self) -> bytes:
        """See `Register.read`."""
        return self._value

    def swap(self, expected: bytes, desired: bytes) -> bool:
        """See `Register.swap`."""
        with self._lock:
            if self._value != expected:
                return False
            self._value = desired
            return True

    def count(self, name: str, add: int) -> int:
        """See `Register.count`."""
        with self._lock:
            self._counts[name] = self._counts.get(name, 0) + add
            return self._counts[name]

    def publish(self, name: str, text: str) -> None:
        """See `Board.publish`."""
        self._notes[name] = text

    def look_up(self, name: str) -> str | None:
        """See `Board.look_up`."""
        return self._notes.get(name)


@dataclass(frozen=True)
class Job:
    """This process's place among those that train together."""

    rank: int
    world_size: int
    board: Board
    lease_limit: float  # s; a quarter of the shortest timeout of any process group, or less
    group_timeout: float = 0.0  # s; that timeout, 0 where there is none or it is not known

    def agree(self, *, guard: bool, patience: float = _PATIENCE) -> None:
        """Say whether this rank is guarded; one that is waits until all ranks have said so.

        A guarded rank alone would wait for the others at its first step, until the job's timeout.
        Raises `AttachError` when another rank is not guarded, or has not attached in `patience`.
        """
        self.board.count("guarded" if guard else "unguarded", 1)
        until = clock.monotonic() + patience
        while guard:
            guarded, others = (self.board.count(one, 0) for one in ("guarded", "unguarded"))
            if guarded == self.world_size:
                return
            if others:
                raise AttachError(
                    f"guard=True on rank {self.rank} and not on {others} of {self.world_size} "
                    "ranks: give it to attach on every rank or on none (or set SENTINEL_GUARD=1 "
                    "on every node)"
                )
            if clock.monotonic() > until:
                raise AttachError(
                    f"guard=True: only {guarded} of {self.world_size} ranks have called attach "
                    f"within {patience:g} s, and a guard needs every rank"
                )
            time.sleep(max(_POLL, self.world_size * _POLL_PER_RANK))


def join(declared_world_size: int) -> Job:
    """The job this process is part of.

    `declared_world_size` is what the launcher said. Raises `AttachError` when the processes of a
    launched job have not met yet: rank and store are known only after that.
    """
    global _attached
    if not (dist.is_available() and dist.is_initialized()):
        if declared_world_size > 1:
            raise AttachError(
                f"the launcher started {declared_world_size} processes, but torch.distributed is "
                "not initialized yet: call attach after init_process_group or "
                "deepspeed.initialize"
            )
        return Job(0, 1, LocalBoard(), _LEASE_LIMIT)
    world_size = dist.get_world_size()
    if world_size == 1:
        return Job(0, 1, LocalBoard(), _LEASE_LIMIT)
    _attached += 1
    store = dist.distributed_c10d._get_default_store()
    board, timeout = StoreBoard(store, str(_attached)), _group_timeout()
    lease_limit = min(_LEASE_LIMIT, timeout / 4) if timeout else _LEASE_LIMIT
    return Job(dist.get_rank(), world_size, board, lease_limit, timeout)


def deadline(environment: Mapping[str, str] = os.environ) -> float:
    """When the scheduler ends this job, in seconds since 1970; 0 where that is not known.

    Slurm says so in `SLURM_JOB_END_TIME` (sbatch(1), srun(1): a UNIX timestamp).
    """
    said = environment.get("SLURM_JOB_END_TIME", "")
    return float(said) if re.fullmatch(r"[1-9]\d{0,11}", said, re.ASCII) else 0.0


def dissolve_at_exit() -> None:
    """See to it that an ordered stop ends with exit status 0.

    Interpreters that end with a process group still there abort now and then (torch 2.13, gloo).
    """
    atexit.register(_dissolve)


def _dissolve() -> None:
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def _group_timeout() -> float:
    """The shortest timeout of any process group of this process, in seconds; 0: none is known."""
    shortest = math.inf
    for group in list(getattr(dist.distributed_c10d._world, "pg_map", {})):
        for device in ("cpu", "cuda"):
            try:
                timeout = group._get_backend(torch.device(device)).options._timeout
            except (AttributeError, RuntimeError, TypeError):
                continue  # no backend for this device, or one that has no such option
            shortest = min(shortest, timeout.total_seconds())
    return shortest if math.isfinite(shortest) else 0.0
