"""The receiver for Alertmanager against a real one, from what it is posted to what it sends on."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from sentinel import clock
from sentinel.errors import SentinelError
from sentinel.notify.alertmanager import LIFETIME, AlertmanagerReceiver
from sentinel.notify.notice import Alert, Cause, Incident, Notice, Other
from sentinel.notify.receiver import Posted
from tests.daemon.process import eventually
from tests.notify.loopbacks import LoopbackAlertmanager, LoopbackWebhook
from tests.notify.notices import HELD, letter, notice
from tests.package.tools import tool

JSON = dict[str, Any]
HEAD = Posted("am", "i1")
LABELS = {
    "alertname": "NonFiniteUpdate",
    "run": "gpt",
    "severity": "critical",
    "incident": "i1",
    "rank": "1",
    "host": "node-a",
    "device": "cuda:1",
    "module": "transformer.h.3.mlp",
    "layer": "layer.0",
    "team": "llm",
}


class Alertmanager:
    """A real one in a process of its own, which tells a webhook of ours at once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._log = folder / "alertmanager.log"
        self.configuration = folder / "alertmanager.yml"

    def start(self, webhook: str) -> Alertmanager:
        route = {"receiver": "us", "group_wait": "0s", "group_interval": "100ms"}
        told = {"name": "us", "webhook_configs": [{"url": f"{webhook}/hook"}]}
        # JSON is YAML.
        self.configuration.write_text(json.dumps({"route": route, "receivers": [told]}))
        with self._log.open("w") as log:
            self.process = subprocess.Popen(
                [
                    tool("prometheus-alertmanager"),
                    f"--config.file={self.configuration}",
                    f"--storage.path={self._folder}",
                    "--web.listen-address=127.0.0.1:0",
                    "--cluster.listen-address=",
                ],
                stdout=log,
                stderr=log,
            )
        pattern = r"address=(127\.0\.0\.1:\d+)"
        found = eventually(lambda: re.search(pattern, self._log.read_text()), "Alertmanager")
        self.url = f"http://{found[1]}"
        return self

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()

    def firing(self) -> list[JSON]:
        """The alerts that are on now."""
        with urllib.request.urlopen(f"{self.url}/api/v2/alerts", timeout=10) as answer:
            return cast(list[JSON], json.load(answer))

    def labels(self) -> list[JSON]:
        return [alert["labels"] for alert in self.firing()]


@pytest.fixture
def real(tmp_path: Path) -> Iterator[Alertmanager]:
    tool("prometheus-alertmanager")
    server = Alertmanager(tmp_path)
    yield server
    server.stop()


def now(**changed: Any) -> Notice:
    """A notice of something that began a minute ago."""
    about = notice(**{"severity": "critical", **changed})
    return replace_at(about, clock.wall())


def replace_at(about: Notice, at: float) -> Notice:
    return msgspec.structs.replace(about, at=at, opened_at=at - 60.0)


async def test_a_real_alertmanager_fires_then_resolves_with_all_labels(
    real: Alertmanager,
) -> None:
    async with LoopbackWebhook() as told:
        await asyncio.to_thread(real.start, told.url)
        ours = AlertmanagerReceiver("am", real.url, {"team": "llm"})
        assert re.fullmatch(r"alerts to Alertmanager \d+\.\d+.*", await ours.check())

        # Opened as a warning; it becomes critical, by which time the daemon is another one.
        await ours.deliver(letter(about=now(severity="warning")))
        assert await asyncio.to_thread(real.labels) == [LABELS | {"severity": "warning"}]
        await ours.close()
        ours = AlertmanagerReceiver("am", real.url, {"team": "llm"})
        opened = now()
        await ours.deliver(letter("updated", head=HEAD, about=opened))
        (alert,) = await asyncio.to_thread(real.firing)
        assert alert["labels"] == LABELS
        assert alert["startsAt"] == clock.isoformat(opened.opened_at)
        assert clock.timestamp(alert["endsAt"]) > clock.wall() + LIFETIME - 600
        assert "generatorURL" not in alert or not alert["generatorURL"]
        assert alert["annotations"]["summary"] == opened.summary
        assert "run gpt, step 37, rank 1" in alert["annotations"]["description"]

        def sent(status: str) -> list[JSON]:
            alerts = [alert for event in told.events for alert in event["alerts"]]
            return [alert["labels"] for alert in alerts if alert["status"] == status]

        await _until(lambda: LABELS in sent("firing"))
        await ours.deliver(letter("held", head=HEAD, about=now(about=HELD)))
        assert len(await asyncio.to_thread(real.firing)) == 1, "the same again is the same"
        await ours.deliver(letter("resolved", head=HEAD, about=now(state="resolved")))
        assert await asyncio.to_thread(real.firing) == []

        await _until(lambda: LABELS in sent("resolved"))
        await ours.close()


async def test_what_is_open_is_sent_again_until_it_is_resolved() -> None:
    """Alertmanager forgets with its process, and takes what has no news for resolved in time."""
    async with LoopbackAlertmanager() as server:
        ours = AlertmanagerReceiver("am", server.url, every=0.01)
        await ours.deliver(letter(about=now()))
        first = server.alerts.popitem()[1]
        await _until(lambda: len(server.alerts) == 1)
        assert [alert["labels"] for alert in server.alerts.values()] == [first["labels"]]
        server.refuses = 503
        seen = len(server.bodies)
        await _until(lambda: len(server.bodies) > seen + 1)
        server.refuses = 0
        server.alerts.clear()
        await _until(lambda: len(server.alerts) == 1)

        await ours.deliver(letter("resolved", head=HEAD, about=now(state="resolved")))
        (alert,) = server.alerts.values()
        assert clock.timestamp(alert["endsAt"]) <= clock.wall()
        seen = len(server.bodies)
        await ours.deliver(letter(about=now(run="another")))  # something else to send again
        await _until(lambda: len(server.bodies) > seen + 2)
        (alert,) = [one for one in server.alerts.values() if one["labels"]["run"] == "gpt"]
        assert clock.timestamp(alert["endsAt"]) <= clock.wall(), "it fires again"
        await ours.close()


async def _until(condition: Callable[[], object]) -> None:
    await asyncio.to_thread(eventually, condition)


async def test_another_cause_resolves_the_alert_of_the_first() -> None:
    async with LoopbackAlertmanager() as server:
        ours = AlertmanagerReceiver("am", server.url)
        await ours.deliver(letter(about=now()))
        other = now(cause=Cause("RankSilent", "silence", 36, 0, "node-b"))
        await ours.deliver(letter("updated", head=HEAD, about=other))
        ends = {
            alert["labels"]["alertname"]: clock.timestamp(alert["endsAt"]) > clock.wall()
            for alert in server.alerts.values()
        }
        assert ends == {"NonFiniteUpdate": False, "RankSilent": True}
        await ours.close()


async def test_a_message_that_tells_of_several_is_an_alert_for_each() -> None:
    async with LoopbackAlertmanager() as server:
        ours = AlertmanagerReceiver("am", server.url)
        others = (Other("i2", "bert", rule="LossSpike", step=9, rank=3, host="node-b"),)
        await ours.deliver(letter(about=msgspec.structs.replace(now(), others=others)))
        assert {alert["labels"]["incident"] for alert in server.alerts.values()} == {"i1", "i2"}
        later = msgspec.structs.replace(
            now(state="resolved", run="bert"), incident=Incident("i2", "bert", "resolved")
        )
        await ours.deliver(letter("resolved", head=HEAD, about=later))
        firing = {
            alert["labels"]["incident"]
            for alert in server.alerts.values()
            if clock.timestamp(alert["endsAt"]) > clock.wall()
        }
        assert firing == {"i1"}
        await ours.close()


async def test_an_end_before_the_begin_is_not_posted() -> None:
    async with LoopbackAlertmanager() as server:
        ours = AlertmanagerReceiver("am", server.url)
        about = replace_at(now(state="resolved"), clock.wall() + 7200.0)  # a clock that was set
        await ours.deliver(letter("resolved", about=about))
        (alert,) = server.alerts.values()
        assert alert["startsAt"] <= alert["endsAt"] <= clock.isoformat(clock.wall())
        await ours.close()


@pytest.mark.parametrize("label", ["", "1st", "a-b", "é", "a b"])
def test_a_label_that_alertmanager_would_refuse_is_refused_at_once(label: str) -> None:
    with pytest.raises(SentinelError, match="expected"):
        AlertmanagerReceiver("am", "http://localhost:9093", {label: "x"})


def test_labels_of_ours_are_not_overwritten() -> None:
    ours = AlertmanagerReceiver("am", "http://localhost:9093/am/", {"run": "no", "team": "llm"})
    about = now(alerts=0)
    labels = ours._labels(replace_labels(about, {"run": "neither", "layer": "l", "é": "x"}))
    assert (labels["run"], labels["team"], labels["layer"], "é" in labels) == (
        *("gpt", "llm", "l"),
        False,
    )


def replace_labels(about: Notice, labels: dict[str, str]) -> Notice:
    return msgspec.structs.replace(about, alerts=(Alert("NonFiniteUpdate", labels=labels),))
