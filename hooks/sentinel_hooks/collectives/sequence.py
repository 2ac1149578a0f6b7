"""How far a rank has come in the collectives of each of its groups.

Every backend numbers the collectives of a group as they are enqueued. The ranks of a group come
to the same numbers, so the one with the lowest has not entered what the others wait in.

Which of them are completed is known to torch's flight recorder alone, which is on by default. It
is asked for its status without the trace of collectives: that takes microseconds, where the trace
would hold the interpreter's lock for a tenth of a second. Its status goes by numbers of its own
for the groups, in the order in which their backends were made; a number is believed to belong to
a group only while what it says was enqueued agrees with the group's own word.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import msgspec
import torch
from msgspec import Struct

from sentinel_hooks.collectives.group import Groups, Known

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

Dump = Callable[[bool, bool], bytes]  # with collectives? only active ones?


class _Status(Struct):
    last_enqueued_collective: str = "-1"
    last_completed_collective: str = "-1"


class _Trace(Struct):
    pg_status: dict[str, _Status] = {}


log = logging.getLogger("sentinel")
_decoder = msgspec.json.Decoder(_Trace)


def recorder(backend: str) -> Dump | None:
    """What dumps the flight recorder of this backend as JSON, if this torch has it.

    There is an older call that gives a pickle, which must not be read.
    """
    name = "_dump_nccl_trace_json" if backend == "nccl" else "_dump_fr_trace_json"
    module = getattr(torch._C, "_distributed_c10d", None)
    found: Dump | None = getattr(module, name, None)
    return found


class Sequences:
    """Last collective enqueued, and last completed, in each group. Any thread may ask.

    It waits for nobody: neither for the training thread nor for a device. Groups in which ranks
    also send to one another are left out where the backend numbers that alike.
    """

    def __init__(
        self, groups: Groups, find_recorder: Callable[[str], Dump | None] = recorder
    ) -> None:
        self._groups = groups
        self._find = find_recorder

    def read(self) -> dict[str, tuple[int, int | None]]:
        """By the group's label; None where torch does not say what is completed. Never raises."""
        try:
            return self._read()
        except Exception as error:  # noqa: BLE001 - a heartbeat says at least that we live
            log.debug("sentinel: the groups' collectives could not be read: %s", error)
            return {}

    def _read(self) -> dict[str, tuple[int, int | None]]:
        known = [one for one in self._groups.known if one.label not in self._groups.mixed]
        before = {one: number_of(one) for one in known}
        completed = {backend: self._status(backend) for backend in {one.backend for one in known}}
        found: dict[str, tuple[int, int | None]] = {}
        for one in known:
            enqueued = number_of(one)
            if enqueued is not None:
                told = completed[one.backend].get(str(one.place))
                found[one.label] = (enqueued, _completed(before[one], enqueued, told))
        return found

    def _status(self, backend: str) -> Mapping[str, _Status]:
        dump = self._find(backend)
        if dump is None:
            return {}
        try:
            return _decoder.decode(dump(False, False)).pg_status
        except (msgspec.MsgspecError, RuntimeError, TypeError):
            return {}  # another version's format, or a recorder that is switched off


def _completed(before: int | None, enqueued: int, told: _Status | None) -> int | None:
    if enqueued == 0:
        return 0
    if told is None or before is None:
        return None
    last, done = int(told.last_enqueued_collective), int(told.last_completed_collective)
    # The group's number grows a moment before the recorder hears of it.
    if not before - 1 <= last <= enqueued:
        return None
    return max(0, min(done, enqueued))


def number_of(known: Known) -> int | None:
    """The number of the last collective that this rank has entered in a group, if it is told."""
    group = known.group()
    return None if group is None else number_in(group)


def number_in(group: ProcessGroup) -> int | None:
    """The same of a group itself."""
    try:
        number: int = group._get_sequence_number_for_group()  # type: ignore[attr-defined]
        return number
    except (AttributeError, RuntimeError):
        return None  # not every backend counts
