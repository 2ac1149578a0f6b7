"""A real daemon that is asked for quiet: what it sends, what it shows, who may ask."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from sentinel.cli.main import execute
from sentinel.notify.loopback_slack import LoopbackSlack
from sentinel.store import Store
from tests.daemon.process import Daemon, eventually, sentinel
from tests.daemon.scenes import broken, incidents
from tests.daemon.test_alerting import posted

NOTIFY = """
receivers:
  - name: oncall
    slack: {{channel: "#training", base_url: "{url}"}}
route:
  receivers: [oncall]
  repeat_interval: 1h
"""


def notified(slack: LoopbackSlack, folder: Path) -> Daemon:
    """A daemon with a notification file, not started."""
    file = folder / "notify.yaml"
    file.write_text(NOTIFY.format(url=slack.url))
    env = {"SLACK_BOT_TOKEN": slack.token, "SENTINEL_NOTIFY": str(file)}
    return Daemon(folder / "state", env=env)


def ranks_on_record(daemon: Daemon) -> int:
    """Of how many ranks another daemon would know that they belong to the job."""
    store = Store.open(daemon.state, readonly=True)
    try:
        return len(store.ranks("run"))
    finally:
        store.close()


async def test_a_silenced_incident_is_told_once_when_the_silence_is_ended(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with LoopbackSlack() as slack:
        daemon = await asyncio.to_thread(notified(slack, tmp_path).start)

        async def say(*arguments: str) -> str:
            command = [*arguments, "--state", str(daemon.state)]
            status = await asyncio.to_thread(execute, command)
            printed = capsys.readouterr()
            assert status == 0, printed.err
            return printed.out

        try:
            made = await say("silence", "run=run", "--for", "2h", "--comment", "moving racks")
            assert 'run="run"' in made
            job = await asyncio.to_thread(broken, daemon)
            (incident,) = incidents(daemon)
            assert incident["silenced"]["comment"] == "moving racks"
            assert "silenced by user " in await say("incidents")
            assert daemon.metrics()["sentinel_daemon_outbox_pending"] == 0
            assert slack.messages == []
            await asyncio.to_thread(eventually, lambda: ranks_on_record(daemon) == 2)
            await asyncio.to_thread(daemon.kill)  # what was withheld outlives this
            await asyncio.to_thread(daemon.start)
            await asyncio.to_thread(job.connect)
            (ended,) = json.loads(await say("silence", "--end", "1", "--json"))
            assert ended["state"] == "expired"
            await posted(slack, lambda texts: bool(texts))
            first = slack.messages[0]
            assert "layers.1.mlp" in first.as_text()
            assert (await say("ack", "run")).endswith("it will not be repeated\n")
            await posted(slack, lambda texts: any("looks after" in text for text in texts))
            await posted(slack, lambda texts: "acknowledged by user " in texts[0])
            assert "already" in await say("ack")
            assert "acknowledge done" in await say("audit", "run")
            await asyncio.to_thread(daemon.stop)
            assert [m.ts for m in slack.messages if m.thread_ts != first.ts] == [first.ts]
        finally:
            daemon.kill()


def test_quiet_is_asked_for_in_words_that_can_be_used(
    shared: Daemon, capsys: pytest.CaptureFixture[str]
) -> None:
    place = ["--state", str(shared.state)]
    assert execute(["silence", "severity=~.*", "--for", "5m", *place]) == 0
    assert "this matches EVERYTHING" in capsys.readouterr().err
    assert execute(["silence", "--list", "--json", *place]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [one["matchers"] for one in listed] == [['severity=~".*"']]
    assert shared.request("DELETE", f"/api/v1/silences/{listed[0]['id']}")[0] == 200
    assert json.loads(shared.get("/api/v1/silences")[1]) == []
    assert execute(["silence", "--list", *place]) == 0
    assert capsys.readouterr().out == "no silence\n"
    assert execute(["silence", "--list", "--all", *place]) == 0
    assert ", ended by user " in capsys.readouterr().out
    for arguments, reason in {
        ("silence", "run=a"): "say for how long",
        ("silence", "run=a", "--for", "soon"): "not 'soon'",
        ("silence", "run", "--for", "1h"): "expected NAME=VALUE",
        ("silence",): "give matchers and --for, or --list, or --end ID",
        ("silence", "--end", "999"): "no silence 999 is in force",
        ("ack", "nobody"): "there is no run or incident 'nobody'",
        ("ack",): "no incident is open",
    }.items():
        assert execute([*arguments, *place]) != 0
        assert reason in capsys.readouterr().err


def test_the_interface_refuses_what_cannot_be(shared: Daemon) -> None:
    for body, status, reason in (
        ({"matchers": [], "seconds": 60}, 400, "malformed"),
        ({"matchers": ["run=~(a+)+"], "seconds": 60}, 400, "may be repeated"),
        ({"matchers": ["run=a"], "seconds": 0}, 400, "malformed"),
        ({"matchers": ["run=a"], "seconds": 1e9}, 400, "malformed"),
        ({"matchers": ["run=a"], "seconds": 60, "who": "me"}, 400, "malformed"),
    ):
        code, answer = shared.request("POST", "/api/v1/silences", body)
        assert (code, reason in json.loads(answer)["error"]) == (status, True)
    code, answer = shared.request("POST", "/api/v1/incidents/none/acknowledge")
    assert (code, json.loads(answer)["error"]) == (409, "there is no incident 'none'")
    assert shared.request("DELETE", "/api/v1/silences/x")[0] == 409


async def test_a_sample_is_sent_to_each_and_says_that_it_is_one(tmp_path: Path) -> None:
    async with LoopbackSlack() as slack:
        file = tmp_path / "notify.yaml"
        other = (
            '  - name: closed\n    slack: {channel: "#a", base_url: "http://127.0.0.1:9/api/"}\n'
        )
        text = NOTIFY.format(url=slack.url).replace("route:", other + "route:")
        file.write_text(text.replace("[oncall]", "[oncall, closed]"))
        test = ["notify", "test", "--notify", str(file), "--state", str(tmp_path)]
        done = await asyncio.to_thread(sentinel, *test, SLACK_BOT_TOKEN=slack.token)
        lines = done.stdout.splitlines()
        assert done.returncode == 1
        assert lines[0].startswith("oncall: ok, as ")
        assert lines[1].startswith("closed: failed: Slack cannot be reached")
        first, last = slack.messages
        assert "This is a test of notifications: nothing is wrong" in first.as_text()
        assert last.thread_ts == first.ts
        assert "RESOLVED" in first.as_text().split("\n")[0]
        missing = await asyncio.to_thread(sentinel, *test[:4], SLACK_BOT_TOKEN="")
        assert missing.returncode == 1
        assert f"{file}:4:12: the environment variable SLACK_BOT_TOKEN is not set" in missing.stderr


def test_a_file_is_checked_without_sending_anything(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLACK_BOT_TOKEN", "xoxb-1")
    file = tmp_path / "notify.yaml"
    file.write_text(NOTIFY.format(url="http://127.0.0.1:9/"))
    assert execute(["notify", "check", str(file)]) == 0
    assert capsys.readouterr().out == f"{file}: 1 receiver, 1 route, 0 inhibit rules\n"
    assert execute(["notify", "test", "pager", "--notify", str(file)]) == 2
    assert "there is no receiver 'pager'" in capsys.readouterr().err
    file.write_text("route: {}")
    assert execute(["notify", "check", str(file)]) == 1
    assert f"{file}:1:1: a notification file lacks 'receivers'" in capsys.readouterr().err
