"""The process groups that this rank is in, and what all their ranks call them."""

from __future__ import annotations

import hashlib
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Sequence, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

MAX_GROUPS = 64
_LONGEST = 160  # characters of a label
_NAMED_BY_TORCH = ("", "undefined")  # descriptions that say nothing


@dataclass(frozen=True)
class Known:
    """One process group. `group` dies with it: nothing here keeps a group alive.

    `backend` is the one that works on the device which trains: "gloo", "nccl". `place` is how many
    groups with this backend the process is known to have made before.
    """

    group: Callable[[], ProcessGroup | None]
    label: str
    backend: str
    place: int


class Groups:
    """The groups of this rank, looked up by the training thread and read by any other.

    `known` is replaced, never changed, so that a thread of ours can go through it at any time.
    """

    def __init__(
        self,
        device: torch.device,
        living: Callable[[], Sequence[ProcessGroup]] | None = None,
    ) -> None:
        self._device = device
        self._living = living or living_groups
        self._by_id: dict[int, Known] = {}
        self._seen: list[int] = []
        self._places: Counter[str] = Counter()
        self.known: tuple[Known, ...] = ()
        self.mixed: frozenset[str] = frozenset()  # labels; see `mix`
        self.refresh()

    def refresh(self) -> None:
        """Take in groups that were made, and forget those that are gone."""
        living = self._living()
        seen = [id(group) for group in living]
        if seen == self._seen and all(one.group() is not None for one in self.known):
            return
        found: list[Known] = []
        for group in living:
            one = self._by_id.get(id(group))
            if one is None or one.group() is not group:
                one = self._name(group, {other.label for other in found})
            found.append(one)
        self._by_id = {id(group): one for one, group in zip(found, living, strict=True)}
        self._seen = seen
        self.known = tuple(found[:MAX_GROUPS])

    def find(self, group: ProcessGroup) -> Known | None:
        """What is known of this group; None for one that `torch.distributed` does not list."""
        one = self._by_id.get(id(group))
        if one is None or one.group() is not group:
            self.refresh()
            one = self._by_id.get(id(group))
        return one

    def mix(self, known: Known) -> None:
        """A rank has sent or received in this group.

        gloo numbers that among the collectives, and its ranks then come to different numbers,
        which are not to be compared any more. NCCL has two numbers.
        """
        if known.backend != "nccl" and known.label not in self.mixed:
            self.mixed |= {known.label}

    def _name(self, group: ProcessGroup, taken: Set[str]) -> Known:
        name, ranks = group.group_name, dist.get_process_group_ranks(group)
        label = label_of(group.group_desc, name, ranks)
        if label in taken:  # the same ranks under the same description: torch's name differs
            label = label_of(f"{group.group_desc}#{name}", name, ranks)
        backend = backend_of(group, self._device)
        place = self._places[backend]
        self._places[backend] += 1
        return Known(weakref.ref(group), label, backend, place)


def living_groups() -> list[ProcessGroup]:
    """The groups that this rank is in, in the order in which they were made."""
    if not (dist.is_available() and dist.is_initialized()):
        return []
    made: dict[ProcessGroup, object] = getattr(dist.distributed_c10d._world, "pg_map", {})
    return list(made)


def backend_of(group: ProcessGroup, device: torch.device) -> str:
    """The name of the backend by which this group works on tensors of the device."""
    try:
        return str(group._get_backend(device).name())
    except (AttributeError, RuntimeError):
        return "none"


def label_of(description: str, name: str, ranks: Iterable[int]) -> str:
    """`default:0-7`, `data:0-6/2`: a group's description, or else its name, and its ranks.

    All ranks of a group come to the same label: torch numbers the groups alike on all of them.
    """
    if description == "default_pg":
        description = "default"
    elif description in _NAMED_BY_TORCH:
        description = f"group-{name}"
    return shortened(f"{description[:80]}:{compact(sorted(ranks))}")


def compact(ranks: Sequence[int]) -> str:
    """Ranks in ascending order as ranges: `0-3,8`, and `0-6/2` for every second from 0 to 6."""
    parts: list[str] = []
    at = 0
    while at < len(ranks):
        step = ranks[at + 1] - ranks[at] if at + 1 < len(ranks) else 1
        end = at
        while end + 1 < len(ranks) and ranks[end + 1] - ranks[end] == step:
            end += 1
        if step > 1 and end - at < 2:  # two ranks do not make a pattern
            end = at
        if end == at:
            parts.append(str(ranks[at]))
        else:
            parts.append(f"{ranks[at]}-{ranks[end]}" + (f"/{step}" if step > 1 else ""))
        at = end + 1
    return ",".join(parts)


def shortened(label: str) -> str:
    """A label of bearable length: what is cut off is told apart by a digest of the whole."""
    if len(label) <= _LONGEST:
        return label
    digest = hashlib.blake2b(label.encode(), digest_size=4).hexdigest()
    return f"{label[: _LONGEST - 9]}~{digest}"
