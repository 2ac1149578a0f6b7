"""Where a rank holds weights that the optimizer updates, and looking at some of their elements."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sentinel_hooks.probes.coordinates import COUNT, draw
from sentinel_hooks.probes.probe import Sample
from sentinel_hooks.probes.squares import squares
from sentinel_hooks.probes.tensors import Tensors

REDRAW = 1000  # steps after which other elements are looked at
_SHARES = 50  # measured steps in which those are chosen
_FLOATS = (torch.float32, torch.float64)


@dataclass(frozen=True)
class Piece:
    """A run of elements of one parameter tensor, in one of the tensors that the optimizer has.

    Elements `start` to `start + count` of the flattened parameter `tensor` are `offset` to
    `offset + count` of the flattened storage `storage`.
    """

    tensor: int
    storage: int
    offset: int
    start: int
    count: int


@dataclass(frozen=True)
class Holdings:
    """The weights that this rank answers for, in the precision in which they are updated.

    `storages()` are the tensors that the base optimizer is given, and keeps its state of, as they
    are now; `pieces` of them are reported by this rank. `absent` says why they cannot be read.
    """

    tensors: Tensors
    pieces: tuple[Piece, ...]
    storages: Callable[[], Sequence[Tensor]]
    absent: str = ""

    @property
    def announced(self) -> list[int]:
        """The tensors that this rank answers for."""
        return [] if self.absent else sorted({piece.tensor for piece in self.pieces})


class Sampler:
    """Elements of the holdings: the same ones of a tensor on every rank that has some of it.

    `exact`: all of them. Otherwise as `coordinates.draw` has it, and others from time to time:
    the first are chosen when this is made, those to come little by little while it is used.
    """

    def __init__(self, holdings: Holdings, *, exact: bool = False) -> None:
        self.holdings = holdings
        self.exact = exact
        self._epoch = 0
        self._ahead: list[Tensor] = []  # what the next epoch looks at, as far as it is chosen
        self._chosen = [] if exact else self._choose(0, len(holdings.pieces))
        self._selection: Selection | None = None

    def _choose(self, epoch: int, count: int, first: int = 0) -> list[Tensor]:
        """The places that some of the pieces have in their storages."""
        tensors = self.holdings.tensors
        chosen = []
        for piece in self.holdings.pieces[first : first + count]:
            size, rows = tensors.sizes[piece.tensor], tensors.rows[piece.tensor]
            drawn = draw(tensors.names[piece.tensor], size, rows, epoch)
            chosen.append(_inside(piece, drawn))
        return chosen

    def now(self) -> Selection:
        """The elements to look at in this step."""
        if self._selection is None:
            chosen = None if self.exact else self._chosen
            self._selection = Selection(self.holdings, self.holdings.storages(), chosen)
        return self._selection

    def done(self, step: int) -> None:
        """This step was measured; the next may look elsewhere."""
        if self.exact:
            return
        epoch, count = step // REDRAW, len(self.holdings.pieces)
        if epoch == self._epoch:
            share = -(-count // _SHARES)
            self._ahead += self._choose(epoch + 1, share, len(self._ahead))
            return
        if epoch != self._epoch + 1:
            self._ahead = []
        rest = self._choose(epoch, count, len(self._ahead))
        self._epoch, self._chosen, self._ahead = epoch, self._ahead + rest, []
        self._selection = None


def _inside(piece: Piece, drawn: Tensor | None) -> Tensor:
    """Where a piece has the elements that were drawn of its tensor."""
    if drawn is None:
        return torch.arange(piece.offset, piece.offset + piece.count)
    edges = torch.tensor([piece.start, piece.start + piece.count])
    left, right = torch.searchsorted(drawn, edges).tolist()
    return drawn[left:right] + (piece.offset - piece.start)


class Selection:
    """A choice of elements: `chosen` are places in the storage of each piece, or None for all.

    `used` are the storages that have pieces.
    """

    def __init__(
        self,
        holdings: Holdings,
        storages: Sequence[Tensor],
        chosen: Sequence[Tensor] | None,
    ) -> None:
        tensors = holdings.tensors
        self._count = len(tensors.names)
        self._exact = chosen is None
        self._places: dict[int, list[Tensor]] = {}
        self._runs: dict[int, list[tuple[int, int]]] = {}  # (offset, count)
        self._owners: dict[int, list[tuple[int, int]]] = {}  # (tensor, elements)
        for number, piece in enumerate(holdings.pieces):
            count = piece.count
            if chosen is None:
                self._runs.setdefault(piece.storage, []).append((piece.offset, count))
            else:
                count = len(chosen[number])
                self._places.setdefault(piece.storage, []).append(chosen[number])
            self._owners.setdefault(piece.storage, []).append((piece.tensor, count))
        self.used = list(self._owners)
        devices = {storages[one].device for one in self.used}
        if len(devices) > 1:
            raise RuntimeError("the weights that the optimizer updates are on several devices")
        self.device = devices.pop() if devices else torch.device("cpu")
        self._index = {
            storage: self._index_of(storages[storage], torch.cat(places))
            for storage, places in self._places.items()
        }
        if chosen is not None:
            owned = [part for storage in self.used for part in self._owners[storage]]
            counts = torch.tensor([count for _, count in owned], dtype=torch.int64)
            owners = torch.tensor([tensor for tensor, _ in owned], dtype=torch.int64)
            self._owner = self._there(owners.repeat_interleave(counts))
            scales = [size / min(size, COUNT) for size in tensors.sizes]
            self._factors = self._there(torch.tensor(scales, dtype=torch.float64))

    def _index_of(self, storage: Tensor, places: Tensor) -> Tensor | None:
        """Where to look in it, or None for all of it, in order: most tensors are small."""
        size = storage.numel()
        if len(places) == size and torch.equal(places, torch.arange(size)):
            return None
        return self._there(places)

    def _there(self, values: Tensor) -> Tensor:
        """On the device of the weights, without waiting for it."""
        return values.to(self.device, non_blocking=True)

    def take(self, tensors: Iterable[tuple[int, Tensor]]) -> Tensor:
        """A copy of the chosen elements of tensors laid out like these storages: 1-d, float."""
        with torch.no_grad():
            return _floats([self._seen(*one) for one in tensors])

    def take_all(self, storages: Sequence[Tensor]) -> Tensor:
        """A copy of the chosen elements of all storages that have some, one after the other."""
        return self.take((one, storages[one]) for one in self.used)

    def _seen(self, storage: int, values: Tensor) -> Tensor:
        flat = values.reshape(-1)
        if self._exact:
            flat = torch.cat([flat.narrow(0, start, size) for start, size in self._runs[storage]])
        elif (index := self._index[storage]) is not None:
            flat = flat.index_select(0, index)
        return flat

    def count(self, storage: int) -> int:
        """How many elements of this storage are looked at."""
        return sum(count for _, count in self._owners[storage])

    def tensors_in(self, storage: int) -> set[int]:
        """The tensors of which this storage has pieces."""
        return {tensor for tensor, _ in self._owners[storage]}

    def squares(self, values: Tensor) -> Tensor:
        """The sum of squares over every tensor, as far as it is held here: float64, 1-d.

        `values` has a number for each chosen element, in the order of `take_all`.
        """
        sums = torch.zeros(self._count, dtype=torch.float64, device=values.device)
        if not self._exact:
            sums.index_add_(0, self._owner, values.double().square())
            return sums.mul_(self._factors)
        owned = [part for storage in self.used for part in self._owners[storage]]
        if not owned:
            return sums
        owner = self._there(torch.tensor([tensor for tensor, _ in owned]))
        return sums.index_add_(
            0, owner, _squares(torch.split(values, [count for _, count in owned]))
        )


def _squares(parts: Sequence[Tensor]) -> Tensor:
    if all(part.device.type == "cpu" for part in parts):
        return torch.tensor(squares(parts), dtype=torch.float64)
    return torch.stack(torch._foreach_norm(list(parts), 2, dtype=torch.float32)).double().square()


def _floats(parts: Sequence[Tensor]) -> Tensor:
    """These 1-d tensors, one after the other, in single precision at least."""
    joined = torch.cat(list(parts)) if parts else torch.empty(0)
    return joined if joined.dtype in _FLOATS else joined.to(torch.float32)


def read_back(sample: Sample, sums: Tensor, fill: Callable[[list[float]], None]) -> None:
    """Call `fill` with these sums of squares once they can be read.

    A device hands over their roots, since it does so in single precision.
    """
    if sums.device.type == "cpu":  # also where the rest of the rank is on a device
        fill(sums.tolist())
    else:
        sample.later(sums.sqrt(), lambda norms: fill([norm * norm for norm in norms]))
