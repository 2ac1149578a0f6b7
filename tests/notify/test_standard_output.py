"""Lines on standard output: whole, at once, and with no harm from those who read."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import subprocess
import sys

import pytest

from sentinel.errors import DeliveryError
from sentinel.notify.standard_output import StdoutReceiver
from tests.notify.notices import letter, notice

F_SETPIPE_SZ = 1031
LONG = notice(summary="s" * 7000)


async def test_each_letter_is_a_line() -> None:
    reading, writing = os.pipe()
    ours = StdoutReceiver("out", descriptor=writing)
    for n in range(3):
        assert (await ours.deliver(letter(event_id=f"e{n}", about=None))).ts == f"e{n}"
    os.close(writing)
    with os.fdopen(reading) as lines:
        assert [json.loads(line)["id"] for line in lines] == ["e0", "e1", "e2"]


async def test_a_reader_that_is_gone_is_an_error_that_stays_and_no_more() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    ours = StdoutReceiver("out", descriptor=writing)
    for _ in range(2):
        with pytest.raises(DeliveryError, match="nobody reads") as caught:
            await ours.deliver(letter(about=None))
        assert caught.value.permanent
    os.close(writing)
    with pytest.raises(DeliveryError, match="nobody reads"):
        await ours.deliver(letter(about=None))


async def test_a_reader_that_stops_delays_nobody_and_gets_whole_lines_later() -> None:
    reading, writing = os.pipe()
    fcntl.fcntl(writing, F_SETPIPE_SZ, 4096)
    ours = StdoutReceiver("out", descriptor=writing, timeout=0.05)
    with pytest.raises(DeliveryError, match="full") as caught:
        await ours.deliver(letter(about=LONG))
    assert (caught.value.permanent, caught.value.doubtful) == (False, True)
    with pytest.raises(DeliveryError, match="full") as caught:
        await ours.deliver(letter(about=LONG))

    ours = _again(ours, 60.0)
    sending = asyncio.create_task(ours.deliver(letter(about=LONG)))
    with os.fdopen(reading, "rb") as lines:
        half = await asyncio.to_thread(lines.readline)
        whole = await asyncio.to_thread(lines.readline)
        await sending
    assert half.startswith(b'{"type"')
    assert json.loads(whole)["id"] == "e1"
    os.close(writing)


def _again(ours: StdoutReceiver, timeout: float) -> StdoutReceiver:
    ours._timeout = timeout
    return ours


PROGRAM = """
import asyncio
from sentinel.errors import DeliveryError
from sentinel.notify.standard_output import StdoutReceiver
from tests.notify.notices import letter

async def main():
    ours, told = StdoutReceiver("out"), 0
    try:
        while True:
            await ours.deliver(letter(about=None))
            told += 1
    except DeliveryError as error:
        assert error.permanent
    raise SystemExit(7)

asyncio.run(main())
"""


def test_a_process_outlives_the_end_of_its_pipe() -> None:
    process = subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert json.loads(process.stdout.readline())["type"] == "sentinel.incident.opened"
    process.stdout.close()
    assert process.wait(60) == 7
