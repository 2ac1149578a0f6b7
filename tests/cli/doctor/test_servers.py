"""The servers that `sentinel doctor` asks: Slack, Prometheus, Grafana and receivers of a file."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
from aiohttp import web

from sentinel.cli.doctor.check import Finding, Setup
from sentinel.notify.loopback_slack import SCOPES, LoopbackSlack
from tests.cli.doctor.looking import HANGS, SECRET, is_sound, look, worst
from tests.notify.loopbacks import Loopback, LoopbackGrafana


async def asked(name: str, setup: Setup) -> Finding:
    """As `worst`, beside a server in this loop."""
    found = await asyncio.to_thread(worst, name, setup)
    assert is_sound(found)
    assert SECRET not in f"{found}"
    return found


@pytest.mark.parametrize(
    ("channel", "scopes", "level", "said"),
    [
        ("#training", SCOPES, "ok", "sentinel in loopback"),
        ("C0LOOPBACK0", SCOPES, "ok", "sentinel in loopback"),
        ("training", SCOPES - {"chat:write"}, "problem", "lacks the scope chat:write"),
        ("training", SCOPES - {"files:write"}, "note", "lacks the scope files:write"),
        ("training", SCOPES - {"channels:read"}, "note", "cannot be looked at"),
        ("trainign", SCOPES, "problem", "sees no channel trainign"),
        ("C0NOWHERE99", SCOPES, "problem", "channel_not_found"),
        ("closed", SCOPES, "problem", "not_in_channel"),
        ("", SCOPES, "problem", "half set up"),
    ],
)
async def test_slack_is_asked_for_scopes_and_channel(
    setup: Setup,
    monkeypatch: pytest.MonkeyPatch,
    channel: str,
    scopes: frozenset[str],
    level: str,
    said: str,
) -> None:
    channels = ("training", "closed")
    async with LoopbackSlack(token=SECRET, channels=channels, scopes=scopes) as slack:
        slack.closed["closed"] = "not_in_channel"
        monkeypatch.setenv("SLACK_BOT_TOKEN", SECRET)
        monkeypatch.setenv("SLACK_CHANNEL", channel)
        monkeypatch.setenv("SLACK_BASE_URL", slack.url)
        found = await asked("Slack", setup)
        assert (found.level, said in found.text) == (level, True), found
        assert not slack.messages


async def test_a_token_that_slack_does_not_take_is_a_problem(
    setup: Setup, monkeypatch: pytest.MonkeyPatch, refused: str, hanging: str
) -> None:
    monkeypatch.setenv("SLACK_BOT_TOKEN", SECRET)
    monkeypatch.setenv("SLACK_CHANNEL", "training")
    async with LoopbackSlack() as slack:
        monkeypatch.setenv("SLACK_BASE_URL", slack.url)
        assert "refuses the token: invalid_auth" in (await asked("Slack", setup)).text
    monkeypatch.setenv("SLACK_BASE_URL", f"http://{refused}/api/")
    assert "Connection refused" in (await asked("Slack", setup)).text
    monkeypatch.setenv("SLACK_BASE_URL", f"http://{hanging}/api/")
    found = await asked("Slack", replace(setup, within=HANGS))
    assert (found.level, "timed out" in found.text) == ("problem", True)


class Prometheus(Loopback):
    """As much of its HTTP interface as is asked."""

    targets: tuple[dict[str, str], ...] = ()

    def routes(self, router: web.UrlDispatcher) -> None:
        async def active(_: web.Request) -> web.Response:
            data = {"activeTargets": self.targets, "droppedTargets": []}
            return web.json_response({"status": "success", "data": data})

        router.add_get("/api/v1/targets", active)


@pytest.mark.parametrize(
    ("url", "health", "level", "said"),
    [
        ("http://node-1:9475/metrics", "up", "ok", "it scrapes http://node-1:9475"),
        ("http://node-1:9475/metrics", "down", "problem", "cannot scrape http://node-1:9475: 401"),
        ("http://node-1:9475/metrics", "unknown", "note", "not scraped this daemon yet"),
        ("http://node-1:9100/metrics", "up", "problem", "none on port 9475"),
    ],
)
async def test_prometheus_is_asked_whether_it_scrapes_this_daemon(
    setup: Setup, url: str, health: str, level: str, said: str
) -> None:
    async with Prometheus() as server:
        server.targets = ({"scrapeUrl": url, "health": health, "lastError": "401"},)
        found = await asked("Prometheus", replace(setup, prometheus=server.url))
    assert (found.level, said in found.text) == (level, True), found


async def test_servers_that_are_none_are_problems_without_their_passwords(
    setup: Setup, monkeypatch: pytest.MonkeyPatch, refused: str, hanging: str
) -> None:
    monkeypatch.setenv("GRAFANA_TOKEN", SECRET)
    quick = replace(setup, within=HANGS)
    for name in ("prometheus", "grafana"):
        for where, said in ((refused, "Connection refused"), (hanging, "no answer in time")):
            changed = replace(
                quick, prometheus=f"http://me:{SECRET}@{where}", grafana=f"http://{where}"
            )
            found = await asked(name.capitalize(), changed)
            assert (found.level, said in found.text) == ("problem", True), found
        async with LoopbackGrafana("another") as server:  # it knows neither of the two paths
            changed = replace(setup, prometheus=server.url, grafana=server.url)
            found = await asked(name.capitalize(), changed)
            assert (found.level, "HTTP 404" in found.text) == ("problem", True), found
    found = await asked("Grafana", replace(quick, grafana=f"http://me:{SECRET}@{refused}"))
    assert (found.level, "holds a password" in found.text) == ("problem", True), found


class Grafana(Loopback):
    """As much of its HTTP interface as is asked."""

    def routes(self, router: web.UrlDispatcher) -> None:
        async def organization(request: web.Request) -> web.Response:
            if request.headers.get("Authorization") != f"Bearer {SECRET}":
                return web.json_response({"message": "Invalid API key"}, status=401)
            return web.json_response({"id": 1, "name": "Main Org."})

        router.add_get("/api/org", organization)


async def test_grafana_is_asked_whether_it_takes_the_token(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Grafana() as server:
        chosen = replace(setup, grafana=server.url)
        assert (await asked("Grafana", chosen)).level == "note"
        monkeypatch.setenv("GRAFANA_TOKEN", SECRET)
        assert "Main Org." in (await asked("Grafana", chosen)).text
        monkeypatch.setenv("GRAFANA_TOKEN", "glsa_wrong")
        found = await asked("Grafana", chosen)
        assert (found.level, "does not take the token" in found.text) == ("problem", True)


async def test_receivers_of_a_file_are_asked_and_webhooks_never_called(
    setup: Setup, tmp_path: Path, refused: str
) -> None:
    async with Grafana() as server:
        file = tmp_path / "notify.yaml"
        file.write_text(
            "receivers:\n"
            f"- {{name: hook, webhook: {{url: '{server.url}/hook'}}}}\n"
            f"- {{name: pager, alertmanager: {{url: 'http://{refused}'}}}}\n"
            "route: {receivers: [hook, pager]}\n"
        )
        chosen = replace(setup, notify=file)
        assert (await asked("notifications", chosen)).level == "ok"
        found = await asyncio.to_thread(look, "other receivers", chosen)
        assert [one.level for one in found] == ["note", "problem"]
        assert "sentinel notify test hook" in found[0].advice
        assert not server.bodies
        file.write_text("receivers: [{name: hook, webhok: {}}]\nroute: {receivers: [hook]}\n")
        found = [await asked("notifications", chosen)]
        assert (found[0].level, "notify.yaml:1:" in found[0].text) == ("problem", True)
