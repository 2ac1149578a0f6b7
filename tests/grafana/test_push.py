"""Bringing the dashboards to a Grafana, through grafana-api, against a loopback one."""

from __future__ import annotations

import asyncio
import copy
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from aiohttp import web

from sentinel.cli.main import execute
from sentinel.errors import SentinelError
from sentinel.grafana.push import Pushed, has, push
from sentinel.grafana.server import GrafanaServer
from sentinel.grafana.shipped import DASHBOARDS
from tests.grafana.loopback import PROMETHEUS, LoopbackGrafana

TOKEN = "glsa_0123456789_secret"
PAGE = "https://sentinel.example"
OURS = ["sentinel-run", "sentinel-fleet", "sentinel-daemon"]
OTHER = {"id": 2, "uid": "other", "name": "Mimir, all", "type": "prometheus"}


@pytest.fixture
async def grafana() -> AsyncIterator[LoopbackGrafana]:
    async with LoopbackGrafana(TOKEN) as server:
        yield server


async def pushed(
    grafana: LoopbackGrafana,
    *,
    folder: str | None = None,
    datasource: str | None = None,
    page_url: str = PAGE,
    token: str = TOKEN,
) -> list[Pushed]:
    """What became of the three."""

    def work() -> list[Pushed]:
        with GrafanaServer(grafana.url, token) as server:
            made = [make() for make in DASHBOARDS.values()]
            return [*push(server, made, page_url=page_url, folder=folder, datasource=datasource)]

    return await asyncio.to_thread(work)


def changes(found: list[Pushed]) -> list[str]:
    return [one.change for one in found]


def variable(dashboard: dict[str, object], name: str) -> dict[str, object]:
    templating = dashboard["templating"]
    assert isinstance(templating, dict)
    return next(one for one in templating["list"] if one["name"] == name)


async def test_dashboards_are_made_in_a_new_folder_with_the_only_prometheus(
    grafana: LoopbackGrafana,
) -> None:
    found = await pushed(grafana)
    assert changes(found) == ["created"] * 3
    assert [*grafana.dashboards] == OURS
    assert [*grafana.folders.values()] == ["Sentinel"]
    assert set(grafana.places.values()) == {*grafana.folders}
    for one in found:
        stored = grafana.dashboards[one.uid]
        assert variable(stored, "datasource")["current"] == {"text": "Metrics", "value": "prom"}
        assert variable(stored, "page")["query"] == PAGE
        assert one.url == f"{grafana.url}/d/{one.uid}/slug"


async def test_what_is_so_already_gets_no_new_version(grafana: LoopbackGrafana) -> None:
    await pushed(grafana)
    again = await pushed(grafana)
    assert changes(again) == ["unchanged"] * 3
    assert [one.version for one in again] == [1, 1, 1]
    assert len(grafana.messages) == 3
    assert len(grafana.folders) == 1


async def test_what_somebody_changed_is_brought_back_and_nothing_else(
    grafana: LoopbackGrafana,
) -> None:
    await pushed(grafana)
    grafana.dashboards["sentinel-fleet"]["panels"][1]["title"] = "Mine"
    grafana.dashboards["sentinel-fleet"]["version"] = 5
    assert changes(await pushed(grafana)) == ["unchanged", "updated", "unchanged"]
    assert grafana.dashboards["sentinel-fleet"]["version"] == 6
    assert grafana.dashboards["sentinel-fleet"]["panels"][1]["title"] != "Mine"


async def test_another_address_of_the_page_is_an_update(grafana: LoopbackGrafana) -> None:
    await pushed(grafana)
    assert changes(await pushed(grafana, page_url="https://new.example")) == ["updated"] * 3
    assert variable(grafana.dashboards["sentinel-run"], "page")["query"] == "https://new.example"


async def test_a_dashboard_stays_where_people_moved_it_unless_a_folder_is_named(
    grafana: LoopbackGrafana,
) -> None:
    grafana.folders = {"ml": "Machine learning"}
    await pushed(grafana)
    grafana.places["sentinel-run"] = "ml"
    assert changes(await pushed(grafana)) == ["unchanged"] * 3
    assert grafana.places["sentinel-run"] == "ml"
    named = await pushed(grafana, folder="Machine learning")
    assert changes(named) == ["unchanged", "updated", "updated"]
    assert set(grafana.places.values()) == {"ml"}
    assert changes(await pushed(grafana, folder="ml")) == ["unchanged"] * 3
    assert len(grafana.folders) == 2


async def test_a_folder_is_found_among_thousands(grafana: LoopbackGrafana) -> None:
    grafana.folders = {f"f{at}": f"Folder {at}" for at in range(1500)}
    await pushed(grafana, folder="Folder 1499")
    assert set(grafana.places.values()) == {"f1499"}


async def test_a_dashboard_of_somebody_else_is_left_alone_and_nothing_is_written(
    grafana: LoopbackGrafana,
) -> None:
    theirs = {"uid": "sentinel-fleet", "title": "Sheep", "tags": ["farm"], "version": 3}
    grafana.dashboards["sentinel-fleet"] = theirs
    with pytest.raises(SentinelError, match="'Sheep' has the uid 'sentinel-fleet', and is not"):
        await pushed(grafana)
    assert grafana.dashboards == {"sentinel-fleet": theirs}
    assert grafana.folders == {}


async def test_a_change_at_the_same_moment_is_not_lost(grafana: LoopbackGrafana) -> None:
    await pushed(grafana)

    def change() -> None:
        grafana.dashboards["sentinel-run"]["version"] += 1

    grafana.dashboards["sentinel-run"]["title"] = "Mine"
    grafana.meanwhile = change
    with pytest.raises(SentinelError, match=r"412 .*changed by someone else.*try again"):
        await pushed(grafana)
    assert grafana.dashboards["sentinel-run"]["title"] == "Mine"


async def test_two_at_once_make_one_of_each(grafana: LoopbackGrafana) -> None:
    both = await asyncio.gather(pushed(grafana), pushed(grafana), return_exceptions=True)
    for one in both:
        assert isinstance(one, list) or "try again" in str(one)
    assert any(isinstance(one, list) for one in both)
    assert changes(await pushed(grafana)) == ["unchanged"] * 3
    assert [*grafana.folders.values()] == ["Sentinel"]


async def test_a_folder_that_somebody_has_just_made_or_renamed_is_taken(
    grafana: LoopbackGrafana,
) -> None:
    await pushed(grafana)
    (uid,) = grafana.folders
    grafana.folders = {uid: "Our monitor"}
    grafana.dashboards.clear()
    assert changes(await pushed(grafana)) == ["created"] * 3
    assert grafana.folders == {uid: "Our monitor"}


def _sources(*sources: dict[str, object]) -> Callable[[LoopbackGrafana], None]:
    def change(grafana: LoopbackGrafana) -> None:
        grafana.datasources = [*sources]

    return change


def _version(version: str) -> Callable[[LoopbackGrafana], None]:
    def change(grafana: LoopbackGrafana) -> None:
        grafana.version = version

    return change


def _lacks(permission: str) -> Callable[[LoopbackGrafana], None]:
    def change(grafana: LoopbackGrafana) -> None:
        grafana.lacks = {permission}

    return change


def _provisioned(grafana: LoopbackGrafana) -> None:
    made = DASHBOARDS["run"]()
    grafana.dashboards[made.uid] = {"title": made.title, "tags": ["sentinel"], "version": 1}
    grafana.provisioned = {made.uid}


def _down(grafana: LoopbackGrafana) -> None:
    grafana.refuses = 503


@pytest.mark.parametrize(
    ("change", "options", "said"),
    [
        (_version("9.5.18"), {}, "is version 9.5.18: the dashboards need 10.0 or newer"),
        (_sources(), {}, "no Prometheus datasource"),
        (_sources(PROMETHEUS, OTHER), {}, "'Metrics' (uid prom), 'Mimir, all' (uid other)"),
        (_sources(PROMETHEUS), {"datasource": "x"}, "no Prometheus 'x': expected one of 'Metrics'"),
        (_sources(PROMETHEUS), {"token": "wrong"}, "HTTP 401 (Invalid API key)"),
        (_sources(PROMETHEUS), {"token": "wrong"}, "make a service account"),
        (_lacks("datasources:read"), {}, "Permissions needed: datasources:read"),
        (_lacks("folders:create"), {}, "Permissions needed: folders:create"),
        (_lacks("dashboards:write"), {}, "needs the role Editor"),
        (_provisioned, {}, "sentinel dashboards export"),
        (_down, {}, "failed: HTTP 503"),
    ],
)
async def test_what_cannot_be_done_says_what_would_be_right(
    grafana: LoopbackGrafana,
    change: Callable[[LoopbackGrafana], None],
    options: dict[str, str],
    said: str,
) -> None:
    change(grafana)
    with pytest.raises(SentinelError) as caught:
        await pushed(grafana, **options)
    assert said in str(caught.value)
    assert TOKEN not in str(caught.value)
    assert grafana.messages == []


@pytest.mark.parametrize("wanted", ["other", "Mimir, all"])
async def test_one_of_several_prometheus_is_chosen_by_uid_or_name(
    grafana: LoopbackGrafana, wanted: str
) -> None:
    grafana.datasources = [PROMETHEUS, OTHER]
    await pushed(grafana, datasource=wanted)
    chosen = variable(grafana.dashboards["sentinel-run"], "datasource")["current"]
    assert chosen == {"text": "Mimir, all", "value": "other"}


async def test_a_grafana_that_hides_its_version_and_lies_under_a_path_is_taken() -> None:
    async with LoopbackGrafana(TOKEN, prefix="/grafana") as server:
        server.version = ""
        found = await pushed(server)
        assert changes(found) == ["created"] * 3
        assert found[0].url.endswith("/grafana/d/sentinel-run/slug")


@pytest.mark.parametrize(
    "answer",
    [
        web.Response(text="<html>Welcome</html>"),
        web.json_response({"status": "fine"}),
        web.json_response([1, 2]),
        web.json_response({"database": 7}),
    ],
)
async def test_what_is_no_grafana_is_told_so(
    grafana: LoopbackGrafana, answer: web.Response
) -> None:
    async def other(_: web.Request) -> web.Response:
        return copy.copy(answer)

    class Other(LoopbackGrafana):
        def routes(self, router: web.UrlDispatcher) -> None:
            router.add_get("/api/health", other)

    async with Other(TOKEN) as server:
        with pytest.raises(SentinelError, match="no Grafana, look at the URL"):
            await pushed(server)


async def test_a_redirect_is_not_followed_with_the_token(grafana: LoopbackGrafana) -> None:
    async def away(_: web.Request) -> web.Response:
        raise web.HTTPFound(f"{grafana.url}/api/health")

    class Other(LoopbackGrafana):
        def routes(self, router: web.UrlDispatcher) -> None:
            router.add_get("/api/health", away)

    async with Other(TOKEN) as server:
        with pytest.raises(SentinelError, match="redirects are not followed"):
            await pushed(server)
    assert grafana.headers == []


@pytest.mark.parametrize(
    ("stored", "wanted", "same"),
    [
        ({"a": 1, "more": 2}, {"a": 1}, True),
        ({}, {"a": [], "b": {}, "c": ""}, True),
        ({"a": 0}, {"a": None}, True),
        ({}, {"a": 0}, False),
        ({}, {"a": False}, False),
        ({"a": [1, 2]}, {"a": [1]}, False),
        ({"a": [{"b": 1}]}, {"a": [{"b": 2}]}, False),
        ({"a": True}, {"a": 1}, False),
        ({"a": 1.0}, {"a": 1}, True),
        ({"a": "1"}, {"a": 1}, False),
        ({"a": "x"}, {"a": ""}, False),
        ([1], {"a": 1}, False),
    ],
)
def test_what_grafana_adds_or_leaves_out_is_no_change(
    stored: object, wanted: object, same: bool
) -> None:
    assert has(stored, wanted) is same


async def test_the_command_tells_what_became_of_each(
    grafana: LoopbackGrafana,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    async def run(*arguments: str) -> tuple[int, str]:
        command = ["dashboards", "push", "--url", grafana.url, *arguments]
        status = await asyncio.to_thread(execute, command)
        said = capsys.readouterr()
        return status, said.out + said.err

    monkeypatch.delenv("GRAFANA_TOKEN", raising=False)
    status, said = await run()
    assert (status, "there is no token for Grafana" in said) == (2, True)

    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    file.chmod(0o644)
    status, said = await run("--token-file", str(file))
    assert (status, "can be read by others" in said) == (1, True)
    assert grafana.headers == []

    file.chmod(0o600)
    status, said = await run("--token-file", str(file), "--folder", "Training")
    assert status == 0
    assert said.splitlines()[0] == (
        f"Sentinel: a run: created, version 1, {grafana.url}/d/sentinel-run/slug"
    )

    monkeypatch.setenv("GRAFANA_TOKEN", TOKEN)
    status, said = await run("--json")
    assert status == 0
    assert [(one["uid"], one["change"]) for one in json.loads(said)] == [
        (uid, "unchanged") for uid in OURS
    ]

    grafana.provisioned = {"sentinel-fleet"}
    del grafana.dashboards["sentinel-fleet"], grafana.dashboards["sentinel-run"]
    status, said = await run("--json")
    assert status == 1
    first, error = said.splitlines()
    assert [(one["uid"], one["change"]) for one in json.loads(first)] == [
        ("sentinel-run", "created")
    ]
    assert "Cannot save provisioned dashboard" in error

    status, said = await run("--page-url", "sentinel.example")
    assert (status, "--page-url" in said) == (2, True)
