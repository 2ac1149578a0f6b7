"""From a press on a button in Slack to the run, the record and the answer."""

from __future__ import annotations

import asyncio
import json
import resource
from pathlib import Path

import pytest

from sentinel import wire
from sentinel.control.barrier import Verdict
from sentinel.daemon.buttons import Buttons
from sentinel.daemon.service import Service
from sentinel.daemon.web import Web
from sentinel.notify.buttons import Json
from sentinel.notify.loopback_slack import Fault
from sentinel.notify.loopback_socket import labels_of
from sentinel.notify.press import read_press
from tests.daemon.fake_job import FakeJob
from tests.daemon.process import Daemon, eventually
from tests.daemon.scenes import APPLIED_NAN, broken, in_state, incidents
from tests.daemon.slack_workspace import (
    OFFERS,
    ORDERS,
    QUIETING,
    Workspace,
    in_slack,
    serving,
    settings,
    workspace,
)


async def test_a_daemon_of_its_own_hears_a_press_and_names_who_pressed(tmp_path: Path) -> None:
    async with in_slack(tmp_path) as (slack, socket):
        env = {
            "SLACK_BOT_TOKEN": slack.token,
            "SLACK_CHANNEL": "training",
            "SLACK_BASE_URL": slack.url,
            "SLACK_APP_TOKEN": socket.app_token,
            "SLACK_ALLOWED_USERS": " U0ANN, U0BO ,",
        }
        daemon = await asyncio.to_thread(Daemon(tmp_path / "state", env=env).start)
        at = Workspace(slack, socket, daemon)
        try:
            job = await at.held()
            assert "sentinel resume" not in at.first.as_text()
            clicked = socket.press("Resume at half the learning rate")
            await at.goes_on(job)
            assert [rank.applied for rank in job.ranks] == [[wire.Remedies(0.5)]] * 2
            assert "asked to be resumed at half" in await at.answer(clicked)
            await at.said("by slack:U0ANN (ann): learning rate times 0.5")
            rows = [(row["action"], row["state"], row["by"]) for row in at.journal()]
            ann = "slack:U0ANN (ann)"
            assert rows[2:] == [
                ("press resume_half", "requested", ann),
                ("resume", "requested", ann),
                ("resume", "done", ann),
            ]
            assert daemon.process is not None
            unlimited = resource.prlimit(daemon.process.pid, resource.RLIMIT_FSIZE)
            resource.prlimit(daemon.process.pid, resource.RLIMIT_FSIZE, (0, unlimited[1]))
            clicked = socket.press("Stop the run")
            assert "nothing was done" in await at.answer(clicked)
            resource.prlimit(daemon.process.pid, resource.RLIMIT_FSIZE, unlimited)
            for _ in range(5):
                assert await asyncio.to_thread(job.train) is Verdict.GO
        finally:
            daemon.kill()


async def test_who_may_not_press_is_told_who_may_and_it_is_on_the_record(tmp_path: Path) -> None:
    async with workspace(tmp_path) as at:
        job = await at.held()
        clicked = at.socket.press("Resume", user="U0EVE", name="eve")
        assert "only <@U0ANN>, <@U0BO> may" in await at.answer(clicked)
        changes: list[Json] = [
            {"api_app_id": "A0OTHER"},
            {"team": {"id": "T0OTHER"}},
            {"container": {"message_ts": "1.0", "channel_id": "C0OTHER"}},
        ]
        for change in changes:
            strange = at.socket.send(clicked.payload | {"user": {"id": "U0ANN"}} | change)
            assert "othing was done" in await at.answer(strange)
        assert await asyncio.to_thread(job.poll) is Verdict.STAND
        refused = [row for row in at.journal() if row["action"] == "press resume"]
        assert [(row["state"], row["by"]) for row in refused] == [
            ("refused", "slack:U0EVE (eve)"),
            *[("refused", "slack:U0ANN")] * 3,
        ]
        assert await at.orders() == []


async def test_of_two_people_at_once_one_is_told_that_the_other_was_faster(tmp_path: Path) -> None:
    async with workspace(tmp_path) as at:
        job = await at.held()
        clicks = [
            at.socket.press("Resume"),
            at.socket.press("Resume"),
            at.socket.press("Stop the run", user="U0BO", name="bo"),
        ]
        answers = [await at.answer(clicked) for clicked in clicks]
        await at.goes_on(job)
        (order,) = await at.orders()
        assert order in (("resume", "done", "slack:U0ANN (ann)"),)
        assert [answer.startswith("Run run was asked") for answer in answers].count(True) == 1
        late = [one for one in answers if not one.startswith("Run run was asked")]
        assert all("slack:U0ANN (ann) has already asked" in one for one in late), late


async def test_a_press_on_a_message_of_an_earlier_hold_does_nothing_to_a_later_one(
    tmp_path: Path,
) -> None:
    async with workspace(tmp_path) as at:
        job = await at.held()
        old = at.first
        at.socket.press("Resume", user="U0BO", name="bo")
        await at.goes_on(job)
        clicked = at.socket.press("Resume", message=old)
        assert "already resumed by slack:U0BO (bo)" in await at.answer(clicked)
        await asyncio.to_thread(job.train)
        await asyncio.to_thread(job.train, APPLIED_NAN)
        await asyncio.to_thread(job.await_hold_order)
        await asyncio.to_thread(job.train_until_stand)
        await at.buttons(*ORDERS, *QUIETING)
        for label in ("Resume", "Stop the run"):
            clicked = at.socket.press(label, message=old)
            assert "already resumed by slack:U0BO (bo)" in await at.answer(clicked)
        assert await asyncio.to_thread(job.poll) is Verdict.STAND
        refused = [row["detail"] for row in at.journal() if row["state"] == "refused"]
        assert len(refused) == 3
        at.socket.press("Stop the run")
        assert await asyncio.to_thread(job.await_verdict) is Verdict.STOP


async def test_what_the_run_refuses_is_said_in_the_thread_and_the_way_back_is_open(
    tmp_path: Path,
) -> None:
    async with workspace(tmp_path) as at:
        job = await at.job(saved_and_broken)
        resume, half, stop = ORDERS
        await at.buttons(resume, half, "Roll back to step 5", stop, *QUIETING)
        at.socket.press("Resume")
        why = await at.said("non-finite weights")
        assert why.startswith("<@U0ANN>: Nothing was done: ")
        assert await at.orders() == [("resume", "refused", "slack:U0ANN (ann)")]
        at.socket.press("Roll back to step 5")
        await at.goes_on(job)
        assert [rank.applied for rank in job.ranks] == [[wire.Remedies(rollback="step5")]] * 2


def saved_and_broken(daemon: Daemon) -> FakeJob:
    """Held with weights that are not finite, three clean steps after a checkpoint."""
    job = FakeJob(daemon.place, offers=OFFERS, bad_weights="layers.1.mlp.weight").connect()
    for _ in range(5):
        job.train()
    for rank in job.ranks:
        there = () if rank.rank else ("step5",)
        rank.send(wire.Checkpoint(5, "step5", "/ckpt", 0.5, "", there))
    for _ in range(4):
        job.train()
    healthy = lambda: b'"healthy"' in daemon.get("/api/v1/checkpoints?run=run")[1]  # noqa: E731
    eventually(healthy, "a healthy checkpoint")
    job.train(APPLIED_NAN)
    job.await_hold_order()
    job.train_until_stand()
    in_state(daemon, job, "held")
    return job


@pytest.mark.parametrize("sticky", [True, False], ids=["same envelope", "another envelope"])
async def test_a_press_that_slack_delivers_again_is_done_once(tmp_path: Path, sticky: bool) -> None:
    async with workspace(tmp_path, redeliver_after=0.1, sticky_envelopes=sticky) as at:
        job = await at.held()
        at.socket.deaf = 2
        clicked = at.socket.press("Resume")
        await at.goes_on(job)
        await at.told_to_slack(clicked)
        assert len(clicked.deliveries) == 3
        assert len(clicked.answers) == 1
        assert await at.orders() == [("resume", "done", "slack:U0ANN (ann)")]


async def test_acknowledging_and_silencing_are_said_to_all_and_done_once(tmp_path: Path) -> None:
    async with workspace(tmp_path) as at:
        job = await at.job(broken, offers=OFFERS)
        await at.buttons(*ORDERS, *QUIETING)
        (incident,) = await asyncio.to_thread(incidents, at.daemon)
        rule = incident["cause"]["rule"]
        old = at.first
        clicked = at.socket.press("Acknowledge")
        assert "is acknowledged by slack:U0ANN (ann)" in await at.answer(clicked)
        await at.said("slack:U0ANN (ann) looks after")
        await at.buttons(*ORDERS, "Silence for 1 h")
        again = at.socket.press("Acknowledge", user="U0BO", name="bo", message=old)
        assert "acknowledged by slack:U0ANN (ann) already" in await at.answer(again)
        at.socket.press("Silence for 1 h", user="U0BO", name="bo")
        assert f"run=run, rule={rule}" in (await at.said("(1 h)")).replace('"', "")
        again = at.socket.press("Silence for 1 h", message=old)
        assert "already silenced by slack:U0BO (bo)" in await at.answer(again)
        by = [(row["action"], row["by"]) for row in at.journal() if row["state"] == "done"]
        assert ("acknowledge", "slack:U0ANN (ann)") in by
        silences = await asyncio.to_thread(at.daemon.get, "/api/v1/silences")
        assert [one["by"] for one in json.loads(silences[1])] == ["slack:U0BO (bo)"]
        at.socket.press("Resume", message=old)  # the message is silenced, not the button
        assert await asyncio.to_thread(job.await_verdict) is Verdict.GO


async def test_a_press_that_was_taken_when_the_daemon_died_is_told_as_lost(tmp_path: Path) -> None:
    async with in_slack(tmp_path) as (slack, socket):
        at = Workspace(slack, socket, Daemon(tmp_path))
        chosen = settings(tmp_path, slack, socket.app_token, ["U0ANN"])
        service = Service(chosen)
        buttons = Buttons(service, chosen.buttons)
        await service.open()
        web = Web(service, None)
        await web.open()
        job = await at.held()
        clicked = socket.press("Resume")  # nobody is connected yet
        await buttons.presses.take(read_press(clicked.payload))
        job.vanish()
        await web.close()
        await service.close()
        async with serving(settings(tmp_path, slack, socket.app_token, ["U0ANN"])):
            told = await at.said("taken just before the daemon ended")
            assert "slack:U0ANN (ann)" in told
            await at.told_to_slack(clicked)
            last = at.journal()[-1]
            assert (last["action"], last["state"]) == ("press resume", "lapsed")


async def test_without_a_token_that_slack_takes_messages_have_commands(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with workspace(tmp_path) as at:
        job = await at.held()
        at.slack.fail_next(*[Fault("error", "token_revoked", method="apps.connections.open")] * 9)
        await at.socket.disconnect("refresh_requested")
        await at.until(lambda: "token_revoked" in caplog.text, "a word in the log")
        await asyncio.to_thread(at.daemon.request, "POST", "/api/v1/runs/run/resume", {})
        assert await asyncio.to_thread(job.await_verdict) is Verdict.GO
        await at.until(lambda: "sentinel status run" in at.first.as_text(), "commands")
        assert labels_of(at.first) == []
