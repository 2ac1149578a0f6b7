"""Stand around the methods by which Python starts collectives and waits for them.

`torch.distributed.ProcessGroup` and `Work` are classes of which every group and every pending
collective is an instance, so replacing their methods also catches callers that kept references
to the functions of `torch.distributed`, as DeepSpeed does when it is initialized. What C++ starts
by itself, such as the buckets of DistributedDataParallel and functional collectives, does not
come this way.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Protocol

import torch
import torch.distributed as dist

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

OPERATIONS = {
    "allreduce": "all_reduce",
    "allreduce_coalesced": "all_reduce",
    "broadcast": "broadcast",
    "reduce": "reduce",
    "allgather": "all_gather",
    "_allgather_base": "all_gather",
    "all_gather_single": "all_gather",
    "allgather_coalesced": "all_gather",
    "allgather_into_tensor_coalesced": "all_gather",
    "all_gather_single_coalesced": "all_gather",
    "reduce_scatter": "reduce_scatter",
    "_reduce_scatter_base": "reduce_scatter",
    "reduce_scatter_single": "reduce_scatter",
    "reduce_scatter_tensor_coalesced": "reduce_scatter",
    "reduce_scatter_single_coalesced": "reduce_scatter",
    "alltoall": "all_to_all",
    "alltoall_base": "all_to_all",
    "all_to_all_single": "all_to_all",
    "gather": "gather",
    "scatter": "scatter",
    "barrier": "barrier",
    "monitored_barrier": "barrier",
    "send": "send",
    "recv": "recv",
    "recv_anysource": "recv",
}

Function = Callable[..., object]


class Listener(Protocol):
    """Is told of collectives in the caller's stack; keeps its own faults to itself."""

    def entered(self, group: ProcessGroup, operation: str, args: tuple[object, ...]) -> object:
        """A collective is about to be started. None: nothing more is to be told of it."""
        ...

    def left(self, call: object, work: object) -> None:
        """The call came back with this work; `call` is what `entered` returned."""
        ...

    def waiting(self, work: object) -> object:
        """Somebody is about to wait for this work. None: nothing more is to be told of it."""
        ...

    def waited(self, wait: object) -> None:
        """It is done; `wait` is what `waiting` returned."""
        ...


class _Replaced:
    """One method of a class, replaced."""

    def __init__(self, owner: type, name: str, wrap: Callable[[Function], Function]) -> None:
        self._owner, self._name = owner, name
        self._before = vars(owner).get(name)
        self._ours = wrap(getattr(owner, name))
        setattr(owner, name, self._ours)

    def restore(self) -> None:
        """Put back what was there. Under somebody else's later wrapper, leave it: it is silent."""
        if vars(self._owner).get(self._name) is not self._ours:
            return
        if self._before is None:
            delattr(self._owner, self._name)
        else:
            setattr(self._owner, self._name, self._before)


class Tap:
    """There from the first listener to the last; what it replaced is then as it was."""

    def __init__(self) -> None:
        self._listeners: tuple[Listener, ...] = ()
        self._replaced: list[_Replaced] = []
        self._open = [False]  # shared with the wrappers of one placing, which never open again

    def listen(self, listener: Listener) -> None:
        """Tell this listener, too."""
        self._listeners = (*self._listeners, listener)
        if len(self._listeners) == 1:
            self._place()

    def leave(self, listener: Listener) -> None:
        """Tell it no more."""
        before = len(self._listeners)
        self._listeners = tuple(one for one in self._listeners if one is not listener)
        if before and not self._listeners:
            self._open[0] = False
            for replaced in reversed(self._replaced):
                replaced.restore()
            self._replaced = []

    def _place(self) -> None:
        self._open = [True]
        for name, operation in OPERATIONS.items():
            if callable(getattr(dist.ProcessGroup, name, None)):
                wrap = self._around_call(operation, self._open)
                self._replaced.append(_Replaced(dist.ProcessGroup, name, wrap))
        self._replaced.append(_Replaced(dist.Work, "wait", self._around_wait(self._open)))

    def _around_call(self, operation: str, is_open: list[bool]) -> Callable[[Function], Function]:
        def wrap(original: Function) -> Function:
            @wraps(original)
            def collective(group: ProcessGroup, *args: object, **options: object) -> object:
                if not is_open[0] or torch.compiler.is_compiling():
                    return original(group, *args, **options)
                calls = [(one, one.entered(group, operation, args)) for one in self._listeners]
                work = original(group, *args, **options)
                for one, call in calls:
                    if call is not None:
                        one.left(call, work)
                return work

            return collective

        return wrap

    def _around_wait(self, is_open: list[bool]) -> Callable[[Function], Function]:
        def wrap(original: Function) -> Function:
            @wraps(original)
            def wait(work: object, *args: object, **options: object) -> object:
                if not is_open[0] or torch.compiler.is_compiling():
                    return original(work, *args, **options)
                waits = [(one, one.waiting(work)) for one in self._listeners]
                result = original(work, *args, **options)
                for one, token in waits:
                    if token is not None:
                        one.waited(token)
                return result

            return wait

        return wrap


TAP = Tap()  # one for the process: the classes are
