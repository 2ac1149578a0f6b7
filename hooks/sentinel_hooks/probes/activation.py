"""The first module whose output is not finite."""

from __future__ import annotations

import math
import weakref
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from time import perf_counter

import torch
from torch import Tensor
from torch.nn import Module, ModuleDict, ModuleList, Sequential
from torch.utils.hooks import RemovableHandle

from sentinel.wire import Finding, Series
from sentinel_hooks.probes.device_outputs import SMALL, DeviceOutputs
from sentinel_hooks.probes.finite import is_bad, tensors_in
from sentinel_hooks.probes.inert import InertInCopies
from sentinel_hooks.probes.probe import Barrier, Probe, Sample

_THOROUGH = 100  # steps
_KEPT = 8  # blocks, and modules outside of them, whose output is kept for a while
Returned = tuple[str, object]  # a module's name, and what it returned
Place = tuple[str, int]  # a module's name, and the micro-batch
_CONTAINERS = (ModuleList, ModuleDict, Sequential)


class Role(Enum):
    """What a module's output means to the search."""

    OPEN = "looked at by itself"
    BLOCK = "looked at; when it is bad, so is what is inside it"
    INSIDE = "part of a block, looked at only when the block's output is bad"


_STRIDE = {Role.OPEN: 6, Role.BLOCK: 4, Role.INSIDE: 1}  # one in so many is looked at


class KeepHook(InertInCopies):
    """A forward hook inside a block: all it does is keep the output for a while.

    There is one on nearly every module, so it does as little as can be. On a device what is kept
    lives no longer than its block, and an output that autograd does not keep is not kept either:
    it may be meant to be recomputed.
    """

    __slots__ = ("__weakref__", "name", "probe")

    def __init__(self, probe: ActivationProbe, name: str) -> None:
        self.probe = probe
        self.name = name

    def __call__(self, module: Module, args: tuple[object, ...], output: object) -> None:
        probe = self.probe
        if probe.watching and not torch.compiler.is_compiling():
            if probe.on_cpu:
                probe.recent.entries.append((self.name, output))
            elif torch.is_grad_enabled():
                probe.inside.append((self.name, output))
            else:
                probe.see(self.name, Role.INSIDE, output)


class OutputHook(InertInCopies):
    """A forward hook that hands one module's output to the probe."""

    __slots__ = ("__weakref__", "name", "probe", "role")

    def __init__(self, probe: ActivationProbe, name: str, role: Role) -> None:
        self.probe = probe
        self.name = name
        self.role = role

    def __call__(self, module: Module, args: tuple[object, ...], output: object) -> None:
        # Traced by torch.compile this is nothing at all: the compiled code is as it was.
        if self.probe.watching and not torch.compiler.is_compiling():
            self.probe.see(self.name, self.role, output)


class ActivationProbe(Probe):
    """Counts the modules whose output had NaN or Inf, and names the first in call order.

    Looks at what every module returns, after all hooks that others have put on it, in forward
    passes of the root that are trained on; the passes that activation checkpointing repeats in
    the backward are not looked at again.

    What is inside a block (an element of the model's lists of modules) counts only if the
    block's own output is bad, too, or if gradients were: a NaN or Inf that is gone at the end
    of its block and in the backward, such as the -Inf of a mask, is nobody's trouble.

    On the CPU nearly all of the work is saved. Of what every fourth block returns one element of
    each row is looked at: a NaN or Inf in one place of a row has spread over all of it one block
    later, at the latest through the next normalization or linear layer. So what the modules
    returned since the block before the last one that was looked at is kept, that of five blocks
    at most, and searched whole when something is bad. For some steps after one in which that was
    too late to tell where it began, or whose gradients were bad with no cause in sight (an Inf
    that a softmax swallowed), every output is looked at whole. On a device, where nothing can be
    decided while the pass runs, one element of each row of every output is looked at, block by
    block, and read later; for some steps after something bad, every output whole.

    `root` is called `root_name`, every other module by its dotted name. Hooks on modules that
    are compiled never fire; a root that is compiled later ends the watch, with that reason.
    """

    name = "non-finite activations"
    signals = ("nonfinite_activation",)

    def __init__(self, root: Module, root_name: str, device: torch.device) -> None:
        self._root = root
        self._root_name = root_name
        self.on_cpu = device.type == "cpu"
        self._absent = _why_unseen(root)
        self._first = 0
        self._barrier: Barrier | None = None
        self._hooks: list[tuple[RemovableHandle, Module]] = []
        self.watching = False
        self._passes = 0  # forward passes of this step
        self.recent = Recent()
        self.inside: list[Returned] = []  # on a device, since a block ended
        self._bad: list[Finding] = []
        self._hidden: list[Finding] = []  # bad inside a block that returned nothing bad
        self._thorough = 0  # steps for which all is looked at whole
        self._unseen = dict.fromkeys(Role, 0)  # modules since one was looked at
        self._later: list[tuple[Place, Role]] = []  # of the outputs that are on a device
        self._outputs = DeviceOutputs()
        self._last: weakref.ref[Tensor] | None = None
        self._last_state = (-1, False)  # version of the last tensor looked at; was it bad

    def series(self) -> Sequence[Series]:
        return () if self._absent else (Series("nonfinite_activation"),)

    def missing(self) -> Mapping[str, str]:
        return {"nonfinite_activation": self._absent} if self._absent else {}

    def start(self, first: int, barrier: Barrier) -> None:
        self._first = first
        self._barrier = barrier
        roles = {} if self._absent else roles_of(self._root)
        for name, module in self._root.named_modules():
            if module in roles:
                role = roles[module]
                keep = role is Role.INSIDE
                hook = KeepHook(self, name) if keep else OutputHook(self, name, role)
                self._hooks.append((module.register_forward_hook(hook), module))

    def forward_began(
        self, args: tuple[object, ...], kwargs: Mapping[str, object], training: bool
    ) -> None:
        self.watching = training and not self._absent
        if not self.watching:
            return
        self._passes += 1
        self.inside = []  # of a pass that ended in an error: what it kept is let go
        for handle, module in self._hooks:
            hooks = module._forward_hooks
            if next(reversed(hooks), None) != handle.id and handle.id in hooks:
                # What others add may change the output: be the last to see it.
                hooks[handle.id] = hooks.pop(handle.id)

    def forward_ended(self, output: object) -> None:
        if self.watching:
            self._look(self._root_name, Role.OPEN, output)
            self._outputs.pass_ended()
        self._forget()

    def _forget(self) -> None:
        self.watching, self._last = False, None
        self._unseen = dict.fromkeys(Role, 0)
        self.recent = Recent()
        self.inside = []

    def see(self, name: str, role: Role, output: object) -> None:
        """A module returned this. Called from its hook, so it guards itself."""
        barrier = self._barrier
        if barrier is None:
            return
        if self.on_cpu and not self._is_due(role):
            self.recent.ended(name, output)
            return
        began = perf_counter()
        try:
            self._look(name, role, output)
        except Exception as error:  # noqa: BLE001 - a probe's fault stays with the probe
            barrier.fault(self, error)
        barrier.spent(self, perf_counter() - began)

    def _look(self, name: str, role: Role, output: object) -> None:
        on_host = [one for one in tensors_in(output) if one.is_cpu]
        if not self.on_cpu:
            inside, self.inside = self.inside, []
            tensors = [one for entry in inside for one in self._there(Role.INSIDE, *entry)]
            tensors += self._there(role, name, output)
            self._outputs.add(tensors, whole=self._thorough > 0)
        if role is not Role.INSIDE and (self.on_cpu or on_host):
            self._judge(name, role, output, bad=any(map(self._is_bad, on_host)))

    def _there(self, role: Role, name: str, output: object) -> list[Tensor]:
        """Those of the tensors that are to be judged on the device."""
        tensors = [one for one in tensors_in(output) if not one.is_cpu]
        self._later += [((name, self._passes - 1), role)] * len(tensors)
        return tensors

    def _judge(self, name: str, role: Role, output: object, *, bad: bool) -> None:
        """A block, or a module outside of blocks, returned this on the host."""
        self.recent.ended(name, output)
        if bad:
            self._search()
        elif self._thorough:
            self._hidden += self._findings(_all_bad(self.recent.latest()[:-1]))
        if role is Role.BLOCK or self.recent.is_long:
            self.recent.strip()

    def _is_due(self, role: Role) -> bool:
        """Whether to look at this one, or only to keep it."""
        if self._thorough or self._bad:
            return True
        self._unseen[role] = (self._unseen[role] + 1) % _STRIDE[role]
        return not self._unseen[role]

    def _search(self) -> None:
        """Something bad was put out here: find where it began, among what is still there."""
        first = not self._bad
        found = _all_bad(self.recent.entries if first else self.recent.latest())
        if first and found and self.recent.is_vague(found[0]):
            self._thorough = _THOROUGH
        self._bad += self._findings(found)

    def _findings(self, names: Iterable[str]) -> list[Finding]:
        return [Finding("nonfinite_activation", name, self._passes - 1) for name in names]

    def _is_bad(self, tensor: Tensor) -> bool:
        """Whether this has a NaN or Inf; a module that passes on its child's output is free."""
        if self._last is not None and self._last() is tensor:
            version, bad = self._last_state
            if version == tensor._version:
                return bad
        values = tensor.detach()
        if not self._thorough and tensor.dim() > 1 and tensor.numel() > SMALL:
            values = values.select(-1, 0)
        bad = is_bad(values)
        self._last, self._last_state = weakref.ref(tensor), (tensor._version, bad)
        return bad

    def read(self, sample: Sample) -> None:
        passes, bad, hidden, later = self._passes, self._bad, self._hidden, self._later
        self._passes, self._bad, self._hidden, self._later = 0, [], [], []
        self._forget()
        self._thorough = max(0, self._thorough - 1)
        if not passes:  # nothing was looked at
            if self._barrier is not None and (reason := _why_unseen(self._root)):
                self._barrier.retire(self, reason)
            return
        if not later:
            self._put(sample, bad, hidden)
            return
        magnitudes, places = self._outputs.magnitudes()
        self._outputs = DeviceOutputs()

        def fill(read: list[float]) -> None:
            seen, masked = _judged(later, [read[place] for place in places])
            if seen:
                self._thorough = _THOROUGH
            self._put(sample, bad + seen, hidden + masked)

        sample.later(magnitudes, fill)

    def _put(self, sample: Sample, bad: list[Finding], hidden: list[Finding]) -> None:
        """Comes after the gradients, which say whether what is hidden did harm."""
        found = bad or (hidden if sample.bad_gradients else [])
        sample.put(self._first, float(len(found)))
        if found:
            sample.find(found[0])
        elif sample.bad_gradients:
            self._thorough = _THOROUGH

    def detach(self) -> None:
        for handle, _ in self._hooks:
            handle.remove()
        self._hooks, self._bad, self._hidden, self._later = [], [], [], []
        self._forget()


class Recent:
    """What the latest modules outside of blocks, and those inside the latest blocks, returned."""

    def __init__(self) -> None:
        self.entries: list[Returned] = []  # in call order
        self._ends: list[int] = []  # where in it blocks, and modules outside of them, returned
        self._stripped: set[str] = set()  # those of which what was inside is not kept
        self._lost = False  # whether there were others before these

    def ended(self, name: str, output: object) -> None:
        """A block, or a module outside of blocks, returned this."""
        self._ends.append(len(self.entries))
        self.entries.append((name, output))

    def latest(self) -> list[Returned]:
        """What the last block's modules returned, and it, or a module outside of blocks."""
        return self.entries[self._ends[-2] + 1 if len(self._ends) > 1 else 0 :]

    @property
    def is_long(self) -> bool:
        """Whether this is more than is kept of them."""
        return len(self._ends) > _KEPT

    def strip(self) -> None:
        """All is well up to here: keep no more of the blocks before the last than their outputs."""
        starts = [0, *(end + 1 for end in self._ends)]
        latest = self.latest()
        before = self._ends[:-1]
        self._stripped.update(
            self.entries[end][0] for start, end in zip(starts, before, strict=False) if end > start
        )
        self._lost = self._lost or len(before) >= _KEPT
        outputs = [self.entries[end] for end in before[1 - _KEPT :]]
        self.entries = [*outputs, *latest]
        self._ends = [*range(len(outputs)), len(self.entries) - 1]

    def is_vague(self, name: str) -> bool:
        """Whether something that is kept no more may have come before this one."""
        return name in self._stripped or (self._lost and name == self.entries[0][0])


def roles_of(root: Module) -> dict[Module, Role]:
    """The role of every module below the root, except containers that are never called."""
    roles: dict[Module, Role] = {}

    def visit(module: Module, role: Role) -> None:
        if module in roles:
            return
        if not isinstance(module, ModuleList | ModuleDict):
            roles[module] = role
        for child in module.children():
            if role is not Role.OPEN:
                visit(child, Role.INSIDE)
            elif isinstance(child, _CONTAINERS) or not isinstance(module, _CONTAINERS):
                visit(child, Role.OPEN)
            else:
                visit(child, Role.BLOCK)

    visit(root, Role.OPEN)
    roles.pop(root, None)
    return roles


def _why_unseen(root: Module) -> str:
    """Why outputs of this model's modules cannot be seen, or "" if they can."""
    if hasattr(root, "_orig_mod") or getattr(root, "_compiled_call_impl", None) is not None:
        return "the model is compiled (torch.compile): hooks on its modules never fire"
    return ""


def _judged(
    later: Sequence[tuple[Place, Role]], values: Sequence[float]
) -> tuple[list[Finding], list[Finding]]:
    """Of the outputs read from a device those that are bad, and those hidden in a good block."""
    bad: list[Finding] = []
    hidden: list[Finding] = []
    inside: list[Finding] = []
    if math.isfinite(sum(values)):
        return bad, hidden
    for ((name, micro_batch), role), value in zip(later, values, strict=True):
        is_bad = not math.isfinite(value)
        found = [Finding("nonfinite_activation", name, micro_batch)] if is_bad else []
        if role is Role.INSIDE:
            inside += found
        elif found:
            bad += [*inside, *found]
            inside = []
        else:
            hidden += inside
            inside = []
    return bad, hidden


def _all_bad(returned: Iterable[Returned]) -> list[str]:
    """The names of those modules that returned something bad, in their order."""
    return [
        name
        for name, output in returned
        if any(one.device.type == "cpu" and is_bad(one.detach()) for one in tensors_in(output))
    ]
