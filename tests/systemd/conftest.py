"""A booted system with the unit installed, for all tests of this folder."""

from __future__ import annotations

import asyncio
import os
import shutil
import threading
from collections.abc import Iterator

import pytest

from sentinel.notify.loopback_slack import LoopbackSlack
from tests.systemd.booted import SYSTEMD, Booted, NoSystemError, booted

TOOLS = ("unshare", "nsenter", "setpriv", "systemctl", "systemd-analyze", "useradd")


@pytest.fixture(scope="session")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Booted]:
    """A systemd. Where none can be booted the tests skip, or fail in CI."""
    missing = [name for name in TOOLS if shutil.which(name) is None]
    if os.geteuid() != 0:
        _not_here("only root can boot a systemd beside the machine's")
    if missing or not SYSTEMD.exists():
        _not_here(f"not installed: {', '.join(missing) or SYSTEMD}")
    try:
        with booted(tmp_path_factory.mktemp("booted")) as up:
            yield up
    except NoSystemError as error:
        _not_here(str(error))


def _not_here(why: str) -> None:
    if os.environ.get("CI") == "true":
        pytest.fail(why)
    pytest.skip(why)


@pytest.fixture(scope="session")
def slack() -> Iterator[LoopbackSlack]:
    """A Slack that takes one token, in a thread of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="slack")
    thread.start()
    made = LoopbackSlack(token="xoxb-by-credential")
    asyncio.run_coroutine_threadsafe(made.start(), loop).result(60)
    try:
        yield made
    finally:
        asyncio.run_coroutine_threadsafe(made.stop(), loop).result(60)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
