"""Open a record, tell Slack what it owes, and go on for ever: a daemon's sending half.

Usage: sending_job.py DIR BASE_URL
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from sentinel.notify.dispatcher import Dispatcher
from sentinel.notify.slack import SlackReceiver
from sentinel.store import Store
from sentinel.store.outbox import to_all
from tests.store.changes import incident


async def main() -> None:
    state_dir, url = Path(sys.argv[1]), sys.argv[2]
    store = Store.open(state_dir, route=to_all(["slack"]))
    store.commit([incident()])
    slack = SlackReceiver("xoxb-loopback", "#training", state_dir=state_dir, base_url=url)
    await Dispatcher(store.outbox, slack).run()


asyncio.run(main())
