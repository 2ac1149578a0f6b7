"""What modules returned on a device in one step, judged there and read later.

Nothing can be decided while the pass runs, since nobody waits for the device. So the largest
magnitude of what is looked at is taken there: NaN or Inf exactly if an element is. With whole
outputs read, watching took 4.6% of a step of 843M parameters on an H100, and 0.6% with one element
of each row. What takes a small model's time is the host, which starts every operation: there is
one for each output, which finds its row, one for each block, which lays its rows side by side,
and two for the pass.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

SMALL = 4096  # elements; what is smaller is looked at whole
MOST = 1 << 22  # elements laid side by side until their magnitudes are taken
_Shape = tuple[torch.dtype, int, torch.Size]  # with the number of the device
_Length = tuple[torch.dtype, int, int]


class DeviceOutputs:
    """The outputs of one step, in call order."""

    def __init__(self) -> None:
        self._places: list[int] = []  # of each output, that of its row among all rows
        self._rows = 0
        self._waiting: dict[_Shape, tuple[list[int], list[Tensor]]] = {}
        self._copied: dict[_Length, list[tuple[list[int], Tensor]]] = {}  # rows side by side
        self._elements = 0  # of these
        self._order: list[int] = []
        self._magnitudes: list[Tensor] = []

    def __len__(self) -> int:
        return len(self._places)

    @torch.inference_mode()
    def add(self, tensors: Iterable[Tensor], *, whole: bool) -> None:
        """The next outputs, such as those of a block, of which none is kept alive any longer.

        Unless `whole`, one element of each row is looked at. What a module passes on of the one
        before it is looked at once.
        """
        last = None
        for tensor in tensors:
            if tensor is not last:
                last = tensor
                self._look(tensor, whole=whole)
                self._rows += 1
            self._places.append(self._rows - 1)
        self._copy()

    def _look(self, tensor: Tensor, *, whole: bool) -> None:
        if tensor.dim() < 2 or tensor.numel() <= SMALL:
            row = tensor.reshape(-1)
        elif whole:
            largest = torch.linalg.vector_norm(tensor, math.inf, dtype=torch.float32)
            self._put([self._rows], largest.reshape(1))
            return
        else:
            row = tensor.select(-1, 0)
        group = (row.dtype, row.get_device(), row.shape)
        waiting = self._waiting.get(group)
        if waiting is None:
            waiting = self._waiting[group] = ([], [])
        waiting[0].append(self._rows)
        waiting[1].append(row)

    def _copy(self) -> None:
        """Lay the rows side by side, so that what they are of can go."""
        for (dtype, device, _), (numbers, found) in self._waiting.items():
            rows = torch.stack(found).flatten(1)
            self._copied.setdefault((dtype, device, rows.shape[1]), []).append((numbers, rows))
            self._elements += rows.numel()
        self._waiting.clear()
        if self._elements > MOST:
            self.pass_ended()

    @torch.inference_mode()
    def pass_ended(self) -> None:
        """Take the magnitudes of the rows that were copied, and keep none of these."""
        for group in self._copied.values():
            rows = torch.cat([one for _, one in group]) if len(group) > 1 else group[0][1]
            self._put(
                [number for numbers, _ in group for number in numbers],
                torch.linalg.vector_norm(rows, math.inf, dim=1, dtype=torch.float32),
            )
        self._copied.clear()
        self._elements = 0

    def _put(self, numbers: list[int], magnitudes: Tensor) -> None:
        self._order += numbers
        self._magnitudes.append(magnitudes)

    def magnitudes(self) -> tuple[Tensor, list[int]]:
        """The largest of what was looked at, as one float32 tensor on the device, and the place
        in it of each output."""
        self.pass_ended()
        at = {number: place for place, number in enumerate(self._order)}
        return torch.cat(self._magnitudes), [at[number] for number in self._places]
