"""Bytes of real text, dealt out so that a place in the data is one integer.

Batch n of a rank is drawn from (seed, n, rank) alone: resuming, skipping and going back are sums
on an integer, and no two ranks read the same.
"""

from __future__ import annotations

import random
import sysconfig
from pathlib import Path

import torch
from torch import Tensor


def read_text(path: Path | None = None) -> Tensor:
    """The bytes of `path`, or of the Python standard library's own sources, as uint8 [size].

    Raises OSError if `path` cannot be read, or if this Python comes without its sources.
    """
    if path is not None:
        return torch.frombuffer(bytearray(path.read_bytes()), dtype=torch.uint8)
    library = Path(sysconfig.get_path("stdlib"))
    # topics.py is the language reference as `help()` shows it: prose among the code.
    sources = [*sorted(library.glob("*.py")), *library.glob("pydoc_data/topics.py")]
    text = bytearray(b"".join(source.read_bytes() for source in sources))
    if len(text) < 100_000:
        raise FileNotFoundError(f"no library sources in {library}; name a text file with --text")
    return torch.frombuffer(text, dtype=torch.uint8)


class Text:
    """All batches of one rank, by number. `rows` windows of `context` + 1 bytes make a batch."""

    def __init__(self, text: Tensor, *, rows: int, context: int, seed: int, rank: int) -> None:
        if len(text) <= context:
            raise ValueError(f"the text has {len(text)} bytes; a context of {context} needs more")
        self.text = text
        self.rows = rows
        self.context = context
        self.seed = seed
        self.rank = rank
        self._corrupted: list[tuple[float, float]] = []  # the first batch, and the first good one

    def corrupt(self, first: int, count: float) -> None:
        """From now on `count` batches from number `first` on are random bytes, each time read."""
        self._corrupted.append((first, first + count))

    def batch(self, number: int) -> Tensor:
        """Batch `number` as int64 [rows, context + 1]: tokens and, one to the right, targets."""
        # A string seeds through SHA-512: the same on every machine, and neighbors are unrelated.
        draw = random.Random(f"{self.seed}/{number}/{self.rank}")
        starts = [draw.randrange(len(self.text) - self.context) for _ in range(self.rows)]
        rows = torch.stack([self.text[at : at + self.context + 1] for at in starts]).long()
        if any(first <= number < good for first, good in self._corrupted):
            noise = draw.randbytes(rows.numel())
            return torch.frombuffer(bytearray(noise), dtype=torch.uint8).view_as(rows).long()
        return rows
