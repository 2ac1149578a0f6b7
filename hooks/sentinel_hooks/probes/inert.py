"""Hooks that vanish from copies of the model they are on."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial


class InertInCopies:
    """A hook that a copy or a pickle of its module carries on as a call that does nothing.

    That call is the standard library's own, so that a pickled model loads where Sentinel is not
    installed, and copies of it do not measure: a log record below every level.
    """

    __slots__ = ()

    def __reduce__(self) -> tuple[type, tuple[Callable[..., None], int]]:
        return partial, (logging.getLogger("sentinel_hooks.copied").log, -1)
