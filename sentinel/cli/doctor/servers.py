"""Prometheus and Grafana: reachable, and whether they know of this daemon."""

from __future__ import annotations

import os
from collections.abc import Iterator
from urllib.parse import urlencode, urlsplit

import msgspec
from msgspec import Struct

from sentinel.cli.doctor.check import Finding, Setup, check, note, ok, problem
from sentinel.cli.doctor.http import get, shown
from sentinel.errors import SentinelError
from sentinel.notify.request import checked

GROUP = "servers"
_GRAFANA_TOKEN = "GRAFANA_TOKEN"


class _Target(Struct, rename="camel"):
    scrape_url: str = ""
    health: str = ""
    last_error: str = ""


class _Targets(Struct, rename="camel"):
    active_targets: list[_Target] = []


class _Answer(Struct):
    data: _Targets


class _Organization(Struct):
    name: str = ""


@check(GROUP, "Prometheus", patience=3)
def prometheus(setup: Setup) -> Iterator[Finding]:
    """It answers, and scrapes this daemon."""
    if not setup.prometheus:
        yield ok("not asked: name it with --prometheus URL or $SENTINEL_PROMETHEUS_URL")
        return
    try:
        base = checked(setup.prometheus, "--prometheus")
        query = urlencode({"state": "active"})
        answer = get("Prometheus", f"{base}/api/v1/targets?{query}", setup.within)
    except SentinelError as error:
        yield problem(str(error), "see that it runs, and that this host may reach it")
        return
    try:
        targets = msgspec.json.decode(answer.body, type=_Answer).data.active_targets
    except msgspec.MsgspecError:
        said = f"{shown(base)} answers with HTTP {answer.status}, and not as Prometheus does"
        yield problem(said, "give the URL of its start page, without /api or /graph")
        return
    yield _scraping(setup, targets)


def _scraping(setup: Setup, targets: list[_Target]) -> Finding:
    port = setup.http.rstrip("/").rpartition(":")[2]
    ours = [one for one in targets if f":{port}/" in one.scrape_url]
    if not ours:
        return problem(
            f"it scrapes {len(targets)} target(s), none on port {port}",
            f"add a job with the target HOST:{port} to its scrape_configs",
        )
    down = [one for one in ours if one.health == "down"]
    if down:
        return problem(
            f"it cannot scrape {shown(down[0].scrape_url)}: {down[0].last_error[:200]}",
            "off loopback it needs a viewer's token, as `authorization: credentials_file:`",
        )
    if any(one.health != "up" for one in ours):
        return note("it has not scraped this daemon yet", "ask again after its scrape interval")
    return ok(f"it scrapes {shown(ours[0].scrape_url)}")


@check(GROUP, "Grafana", patience=3)
def grafana(setup: Setup) -> Iterator[Finding]:
    """It answers, and takes the token."""
    token = os.environ.get(_GRAFANA_TOKEN, "").strip()
    if not setup.grafana:
        yield ok("not asked: name it with --grafana URL or $GRAFANA_URL")
        return
    try:
        base = checked(setup.grafana, "--grafana")
        if not token:
            yield note(
                f"no token to ask {shown(base)} with",
                f"put that of a service account with the role Editor into ${_GRAFANA_TOKEN}",
            )
        elif urlsplit(base).username is not None:
            yield problem(
                f"the URL of {shown(base)} holds a password, which goes with no token",
                f"leave the password away: the token is in ${_GRAFANA_TOKEN}",
            )
        else:
            headers = {"Authorization": f"Bearer {token}"}
            answer = get("Grafana", f"{base}/api/org", setup.within, headers)
            yield _taken(shown(base), answer.status, answer.body)
    except SentinelError as error:
        yield problem(str(error), "see that it runs, and that this host may reach it")


def _taken(where: str, status: int, body: bytes) -> Finding:
    if status in (401, 403):
        return problem(
            f"{where} does not take the token (HTTP {status})",
            f"put that of a service account with the role Editor into ${_GRAFANA_TOKEN}",
        )
    try:
        name = msgspec.json.decode(body, type=_Organization).name if status == 200 else ""
    except msgspec.MsgspecError:
        name = ""
    if not name:
        return problem(
            f"{where} answers with HTTP {status}, and not as Grafana does",
            "give the URL of its start page, without /api",
        )
    return ok(f"{where} takes the token, in the organization {name[:100]}")
