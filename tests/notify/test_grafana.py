"""The receiver for Grafana, through grafana-api, against a loopback that answers as that does."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator

import msgspec
import pytest

from sentinel.errors import DeliveryError
from sentinel.notify.aside import Aside
from sentinel.notify.grafana import GrafanaReceiver
from sentinel.notify.notice import Incident, Other
from sentinel.notify.receiver import Posted
from tests.notify.loopbacks import LoopbackGrafana
from tests.notify.notices import HELD, letter, notice

TOKEN = "glsa_0123456789_secret"
BEGAN = 1_779_999_940.0


@pytest.fixture
async def grafana() -> AsyncIterator[LoopbackGrafana]:
    async with LoopbackGrafana(TOKEN) as server:
        yield server


def receiver(server: LoopbackGrafana, dashboard: str | None = "train") -> GrafanaReceiver:
    return GrafanaReceiver("graph", f"{server.url}/", TOKEN, dashboard, ["llm", "sentinel"])


async def test_an_incident_is_one_region_from_its_begin_to_its_end(
    grafana: LoopbackGrafana,
) -> None:
    ours = receiver(grafana)
    assert await ours.check() == "annotations on train"
    opened = msgspec.structs.replace(notice(severity="warning"), opened_at=BEGAN)
    head = await ours.deliver(letter(about=opened))
    assert head == Posted("train", "i1/1")
    annotation = grafana.annotations[1]
    assert annotation["dashboardUID"] == "train"
    assert (annotation["time"], annotation["timeEnd"]) == (1_779_999_940_000, 1_780_000_000_000)
    assert annotation["tags"] == [
        *("sentinel", "run:gpt", "severity:warning", "rule:NonFiniteUpdate", "incident:i1", "llm")
    ]
    over = msgspec.structs.replace(
        notice(state="resolved", actions=(HELD,)), opened_at=BEGAN, at=BEGAN + 600.0
    )
    assert await ours.deliver(letter("resolved", head=head, about=over)) == head
    assert len(grafana.annotations) == 1
    assert annotation["timeEnd"] - annotation["time"] == 600_000
    assert "severity:critical" in annotation["tags"]
    assert "resolved" in annotation["text"]
    assert "pause done at step 41, by rule:NonFiniteUpdate" in annotation["text"]
    await ours.close()


async def test_an_annotation_that_somebody_deleted_is_made_anew_once(
    grafana: LoopbackGrafana,
) -> None:
    ours = receiver(grafana, None)
    head = await ours.deliver(letter(about=None))
    grafana.annotations[7] = grafana.annotations.pop(1) | {"id": 7, "tags": ["somebody's"]}
    places = [
        await ours.deliver(letter("updated", event_id=f"e{n}", head=head, about=None))
        for n in range(3)
    ]
    assert {place.ts for place in places} == {"i1/2"}
    assert len(grafana.annotations) == 2
    assert "dashboardUID" not in grafana.annotations[2]


async def test_an_incident_whose_first_message_told_of_another_has_an_annotation_of_its_own(
    grafana: LoopbackGrafana,
) -> None:
    ours = receiver(grafana)
    head = Posted("train", "another/1")
    grafana.annotations[1] = {"id": 1, "time": 1, "tags": ["incident:another"], "text": "other"}
    for n in range(2):
        later = letter("updated", event_id=f"e{n}", head=head, about=None)
        assert (await ours.deliver(later)).ts == "i1/2"
    assert grafana.annotations[1]["text"] == "other"
    assert len(grafana.annotations) == 2


async def test_a_message_that_tells_of_several_is_an_annotation_for_each(
    grafana: LoopbackGrafana,
) -> None:
    ours = receiver(grafana)
    about = msgspec.structs.replace(notice(), others=(Other("i2", "bert", rule="LossSpike"),))
    for _ in range(2):  # sent again, it is not told again
        head = await ours.deliver(letter(about=about))
    assert {one["tags"][4] for one in grafana.annotations.values()} == {
        "incident:i1",
        "incident:i2",
    }
    later = msgspec.structs.replace(notice(), incident=Incident("i2", "bert"))
    before = len(grafana.annotations)
    await ours.deliver(letter("updated", event_id="e2", head=head, about=later))
    assert len(grafana.annotations) == before


async def test_a_dashboard_that_is_not_there_is_told_in_grafanas_words(
    grafana: LoopbackGrafana,
) -> None:
    with pytest.raises(DeliveryError, match="Invalid dashboard UID") as caught:
        await receiver(grafana, "nowhere").deliver(letter(about=None))
    assert caught.value.permanent


@pytest.mark.parametrize("status", [401, 403, 412])
async def test_what_grafana_refuses_is_permanent(grafana: LoopbackGrafana, status: int) -> None:
    grafana.refuses = status
    for talk in (receiver(grafana).deliver(letter(about=None)), receiver(grafana).check()):
        with pytest.raises(DeliveryError, match=f"HTTP {status}") as caught:
            await talk
        assert caught.value.permanent


async def test_a_grafana_under_a_path_is_found(grafana: LoopbackGrafana) -> None:
    ours = GrafanaReceiver("graph", f"{grafana.url}/grafana", TOKEN)
    with pytest.raises(DeliveryError, match="404"):
        await ours.deliver(letter(about=None))


async def test_calls_that_never_end_are_left_behind_and_counted() -> None:
    """What a library does in a thread cannot be stopped; but nobody waits, and it stays bounded."""
    aside, stuck = Aside("Grafana", 0.01), threading.Event()
    try:
        for _ in range(4):
            with pytest.raises(DeliveryError, match="no answer in time"):
                await aside.call(stuck.wait)
        with pytest.raises(DeliveryError, match="4 earlier requests"):
            await aside.call(stuck.wait)
    finally:
        stuck.set()

    async def free() -> None:
        while True:
            try:
                assert await aside.call(lambda: 7) == 7
                return
            except DeliveryError:
                await asyncio.sleep(0.01)

    await asyncio.wait_for(free(), 60)
