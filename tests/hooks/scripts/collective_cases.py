"""Collectives of every kind on two gloo ranks under a watch; writes down what was seen.

Started by `torchrun -m` from the repository's root with a folder that gets one file per rank.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from sentinel_hooks.adapters.choice import choose
from sentinel_hooks.probes.collective_time import CollectiveTimeProbe
from tests.hooks.scripts.counted import Counter
from tests.hooks.watched import Watched

Result = dict[str, Any]
HELD_UP = 0.2  # s


class Loop:
    """A model and its optimizer under a watch; a step does nothing but step."""

    def __init__(self) -> None:
        model = nn.Linear(2, 2)
        self.optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        self.watched = Watched(choose(model=model, optimizer=self.optimizer))

    def step(self) -> dict[str, float]:
        self.optimizer.step()
        return self.watched.steps[-1].values

    def probe(self) -> CollectiveTimeProbe:
        probes = self.watched.adapter.panel.probes
        return next(one for one in probes if isinstance(one, CollectiveTimeProbe))

    def detach(self) -> None:
        self.watched.adapter.detach()


def methods() -> list[str]:
    """What stands on torch's classes now."""
    found = {**vars(dist.ProcessGroup), **vars(dist.Work)}
    return [f"{name} {type(one).__name__}" for name, one in found.items()]


def ordinary(result: Result) -> None:
    """Kinds, sizes and groups of what Python starts, at once and later."""
    data = dist.new_group([0, 1], group_desc="data")
    lonely = dist.new_group([1], group_desc="lonely")
    loop = Loop()
    counter = Counter()
    tensor = torch.ones(100)
    parts = [torch.zeros(100), torch.zeros(100)]
    dist.all_reduce(tensor)
    work = dist.all_reduce(tensor, async_op=True)
    assert work is not None
    work.wait()
    dist.all_gather(parts, tensor, group=data)
    dist.reduce_scatter(torch.zeros(100), parts, group=data)
    dist.barrier()
    if dist.get_rank() == 1:
        dist.broadcast(tensor, 1, group=lonely)
    result["first"] = loop.step()
    result["counted"] = counter.count
    result["sum"] = tensor.tolist()[0]
    late = dist.new_group([0, 1], group_desc="data")
    dist.all_reduce(tensor, group=late)
    result["second"] = loop.step()
    result["lost"] = [one.reason for one in loop.watched.lost]
    loop.detach()


def hanging(result: Result) -> None:
    """Rank 0 stands in a collective that rank 1 enters only once rank 0 is seen to stand."""
    loop = Loop()
    sequences = loop.watched.adapter.sequences
    store = dist.distributed_c10d._get_default_store()
    tensor = torch.ones(3)
    if dist.get_rank() == 0:
        before = sequences.read()["default:0-1"][0]

        def look() -> None:
            while True:
                entered, completed = sequences.read()["default:0-1"]
                if entered == before + 1 and completed == before:
                    break
                time.sleep(0.01)
            result["stands"] = [entered - before, completed - before]
            store.set("stands", "yes")

        watcher = threading.Thread(target=look)
        watcher.start()
        dist.all_reduce(tensor)
        watcher.join()
    else:
        before = sequences.read()["default:0-1"][0]
        store.get("stands")  # waits for it
        result["stands"] = [sequences.read()["default:0-1"][0] - before]
        time.sleep(HELD_UP)
        dist.all_reduce(tensor)
    result["values"] = loop.step()
    loop.detach()


def inside_torch(result: Result) -> None:
    """What C++ starts is not seen, and that is said."""
    from torch.distributed import _functional_collectives as functional

    wait: Callable[[object], object] = functional.wait_tensor
    group = dist.group.WORLD
    assert group is not None
    loop = Loop()
    tensor = torch.ones(3)
    dist.all_reduce(tensor)
    result["seen"] = loop.step()
    dist.all_reduce(tensor)
    for _ in range(2):
        wait(functional.all_reduce(tensor, "sum", group))
    result["unseen"] = loop.step()
    dist.all_reduce(tensor)
    result["again"] = loop.step()
    result["lost"] = [[one.signal, one.every, one.reason] for one in loop.watched.lost]
    loop.detach()


def together(result: Result) -> None:
    """Two watches, and somebody else's wrapper on top."""
    before = methods()
    first, second = Loop(), Loop()
    tensor = torch.ones(3)
    dist.all_reduce(tensor)
    result["both"] = [first.step(), second.step()]
    first.detach()
    dist.all_reduce(tensor)
    result["one"] = second.step()
    groups: Any = dist.ProcessGroup
    ours = groups.allreduce
    calls: list[int] = []

    def theirs(*args: Any, **options: Any) -> Any:
        calls.append(1)
        return ours(*args, **options)

    groups.allreduce = theirs
    dist.all_reduce(tensor)
    second.detach()
    dist.all_reduce(tensor)
    third = Loop()
    dist.all_reduce(tensor)
    result["over theirs"] = third.step()
    third.detach()
    result["theirs stands"] = groups.allreduce is theirs
    result["theirs called"] = len(calls)
    result["sum"] = tensor.tolist()[0]
    groups.allreduce = ours.__wrapped__
    after = [one.replace("builtin_function_or_method", "instancemethod") for one in methods()]
    result["as before"] = sorted(after) == sorted(before)


def sending(result: Result) -> None:
    """Ranks send to one another in a group of their own."""
    pipe = dist.new_group([0, 1], group_desc="pipe")
    loop = Loop()
    tensor = torch.ones(3)
    dist.all_reduce(tensor, group=pipe)
    dist.monitored_barrier()
    result["before"] = loop.step()
    if dist.get_rank() == 0:
        dist.send(tensor, 1, group=pipe)
    else:
        dist.recv(tensor, 0, group=pipe)
    result["after"] = loop.step()
    result["lost"] = [one.signal for one in loop.watched.lost]
    result["sequences"] = loop.watched.adapter.sequences.read()
    loop.detach()


def broken(result: Result) -> None:
    """A fault of ours on the way costs the signal, and nothing else."""
    os.environ["SENTINEL_RAISE"] = "0"
    loop = Loop()
    loop.probe()._kinds = None  # type: ignore[assignment]
    tensor = torch.ones(3)
    dist.all_reduce(tensor)
    result["values"] = loop.step()
    result["sum"] = tensor.tolist()[0]
    result["lost"] = [one.signal for one in loop.watched.lost]
    result["left"] = [one for one in methods() if one == "allreduce function"]
    loop.detach()
    os.environ["SENTINEL_RAISE"] = "1"


def forked(result: Result) -> None:
    """A child of the process measures nothing."""
    loop = Loop()
    probe, group = loop.probe(), dist.group.WORLD
    assert group is not None
    child = os.fork()
    if child == 0:
        os._exit(0 if probe.entered(group, "barrier", ()) is None else 1)
    result["silent child"] = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    result["loud parent"] = probe.entered(group, "barrier", ()) is not None
    loop.detach()


def compiled(result: Result) -> None:
    """Compiled code does the same as without a watch."""

    def reduced(x: torch.Tensor) -> torch.Tensor:
        y = x * 2
        dist.all_reduce(y)
        return y + 1

    results = []
    for watch in (False, True):
        torch._dynamo.reset()
        loop = Loop() if watch else None
        results.append(torch.compile(reduced, backend="eager")(torch.ones(3)).tolist())
        if loop is not None:
            loop.step()
            loop.detach()
    result["results"] = results


CASES: tuple[Callable[[Result], None], ...] = (
    ordinary,
    hanging,
    inside_torch,
    together,
    sending,
    broken,
    forked,
    compiled,
)


def main() -> None:
    os.environ["SENTINEL_RAISE"] = "1"
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    results: dict[str, Result] = {}
    for case in CASES:
        case(results.setdefault(case.__name__, {}))
    out = Path(sys.argv[1]) / f"rank{dist.get_rank()}.json"
    out.write_text(json.dumps(results))
    dist.barrier()
    dist.destroy_process_group()
    os._exit(0)  # torch's gloo may abort at an orderly exit


if __name__ == "__main__":
    main()
