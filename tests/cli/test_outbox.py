"""Messages that did not arrive: shown with their reason, sent again, and mentioned elsewhere."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from sentinel.cli.main import execute
from sentinel.clock import steady
from sentinel.notify.loopback_slack import LoopbackSlack
from sentinel.store import Store
from sentinel.store.outbox import to_all
from tests.daemon.process import Daemon
from tests.store.changes import alert, incident

HINT = "could not be delivered: see `sentinel outbox`"


Run = Callable[..., Awaitable[str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """What a command prints, in this process; on stderr where it ends with `status`."""

    async def run(*arguments: str | Path, status: int = 0) -> str:
        ended = await asyncio.to_thread(execute, [*map(str, arguments)])
        out, err = capsys.readouterr()
        assert (ended, bool(err)) == (status, bool(status)), out + err
        return err if status else out

    return run


async def settled(daemon: Daemon, state: Sequence[str]) -> list[dict[str, Any]]:
    """Wait until the messages that have not arrived are in these states."""
    while True:
        _, body = await asyncio.to_thread(daemon.get, "/api/v1/outbox")
        found: list[dict[str, Any]] = json.loads(body)
        if [one["state"] for one in found] == [*state]:
            return found
        await asyncio.sleep(0.02)


def owed(state: Path, *ids: str) -> None:
    """Somebody is to be told of these incidents."""
    store = Store.open(state, route=to_all(["slack"]))
    for id in ids:
        store.commit([incident(id=id, at=steady() - 30.0), alert(incident=id)])
    store.close()


async def test_what_failed_for_a_wrong_token_is_shown_and_goes_out_once_that_is_mended(
    tmp_path: Path, run: Run
) -> None:
    state = tmp_path / "state"
    owed(state, "i1", "i2")
    lines = (await run("outbox", "--state", state)).splitlines()
    waits = r"[0-9a-f]{12}  waiting  opened of gpt for slack, .* s old, 0 attempts, due"
    assert [bool(re.fullmatch(waits, line)) for line in lines] == [True, True]
    assert await run("outbox", "--failed", "--state", state) == "no message has failed\n"

    async with LoopbackSlack(token="xoxb-right") as slack:
        env = {"SLACK_CHANNEL": "training", "SLACK_BASE_URL": slack.url}
        daemon = Daemon(state, env={**env, "SLACK_BOT_TOKEN": "xoxb-wrong"})
        await asyncio.to_thread(daemon.start)
        try:
            first, second = await settled(daemon, ["failed", "failed"])
            assert set(first) == {
                *("id", "receiver", "run", "incident", "kind", "state", "created", "age_s"),
                *("attempts", "doubtful", "next_attempt", "error"),
            }
            assert "invalid_auth" in first["error"]
            assert (first["attempts"], first["next_attempt"]) == (1, None)
            metrics = await asyncio.to_thread(daemon.metrics)
            assert metrics["sentinel_daemon_outbox_failed"] == 2
            assert HINT in await run("incidents", "--state", state)
            shown = await run("outbox", "--state", state)
            assert f"{first['id'][:12]}  failed   opened of gpt for slack" in shown
            assert "set $SLACK_BOT_TOKEN" in shown

            again = await run("outbox", "resend", first["id"][:8], "--state", state)
            assert again == "1 message will be sent again\n"
            found = await settled(daemon, ["failed", "failed"])
            while found[0]["attempts"] < 2:
                found = await settled(daemon, ["failed", "failed"])
            told = ["resend", second["id"], "--wait", "60", "--state", state]
            again = await run("outbox", *told, status=1)
            assert "0 of 1 messages have arrived (Slack refused: invalid_auth" in again
            found = await settled(daemon, ["failed", "failed"])
            assert [one["attempts"] for one in found] == [2, 2]
            unknown = await run("outbox", "resend", "0123456789", "--state", state, status=1)
            assert "no message 0123456789 has failed" in unknown
        finally:
            daemon.kill()

        assert HINT in await run("status", "--state", state)
        failed = json.loads(await run("outbox", "--failed", "--json", "--state", state))
        assert [one["id"] for one in failed] == [first["id"], second["id"]]

        daemon = Daemon(state, env={**env, "SLACK_BOT_TOKEN": slack.token})
        await asyncio.to_thread(daemon.start)
        try:
            await settled(daemon, [])
            ids = [str(message.metadata) for message in slack.messages if not message.thread_ts]
            assert len(ids) == 2
            assert first["id"] in ids[0]
            assert second["id"] in ids[1]
            assert await run("outbox", "--state", state) == "every message has arrived\n"
            assert HINT not in await run("status", "--state", state)
            all_of_none = await run("outbox", "resend", "--all", "--state", state)
            assert all_of_none == "0 messages will be sent again\n"
        finally:
            daemon.kill()


@pytest.mark.parametrize(
    ("arguments", "status", "reason"),
    [
        (["outbox", "resend"], 2, "--all"),
        (["outbox", "resend", "ab12cd34", "--all"], 2, "--all"),
        (["outbox", "--failed", "resend", "--all"], 2, "give options after `resend`"),
        (["outbox", "resend", "--all", "--state", "nowhere"], 1, "no daemon answers"),
        (["outbox", "--state", "nowhere"], 1, "no daemon answers"),
    ],
    ids=str,
)
async def test_what_makes_no_sense_is_said(
    arguments: list[str], status: int, reason: str, tmp_path: Path, run: Run
) -> None:
    given = [str(tmp_path / "x") if one == "nowhere" else one for one in arguments]
    assert reason in await run(*given, status=status)
