"""Open a state directory as a user who owns nothing, and say what came of it.

Usage: opening_job.py DIR write|read
"""

from __future__ import annotations

import os
import sys
import urllib.parse  # noqa: F401 (pathlib wants it later)
from pathlib import Path

import sentinel.store.writing  # noqa: F401 (imports come before the rights to read them go)
from sentinel.errors import StateError
from sentinel.store import Recording, Store

_NOBODY = 65534


def main() -> None:
    directory, mode = Path(sys.argv[1]), sys.argv[2]
    if os.getuid() == 0:
        os.setgroups([])
        os.setresgid(_NOBODY, _NOBODY, _NOBODY)
        os.setresuid(_NOBODY, _NOBODY, _NOBODY)
    try:
        store = Store.open(directory, readonly=mode == "read")
        print("opened", len(store.incidents()))
        if mode == "read":
            print("recorded", Recording.open(directory, readonly=True).runs())
    except StateError as error:
        print(type(error).__name__, error)


main()
