"""Reads the record for those who look on, beside the thread that writes it.

On a connection and in a thread of its own, so that nothing that a page asks for, however long that
takes, delays an order.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from sentinel.store.store import Store

T = TypeVar("T")


class Reader:
    """The store as it was last written."""

    def __init__(self, state_dir: Path) -> None:
        """Raises `StateError` when it cannot be read."""
        self._store = Store.open(state_dir, readonly=True)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="reading")

    async def call(self, look: Callable[[Store], T]) -> T:
        """What `look` finds. Raises what it raises, such as `StateError`."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, look, self._store)

    def close(self) -> None:
        """Finish what is being read, and read no more."""
        self._thread.shutdown(cancel_futures=True)
        self._store.close()
