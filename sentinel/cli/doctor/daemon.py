"""The daemon: whether it serves, in this version, and where its page is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypedDict

import msgspec

from sentinel import __version__
from sentinel.address import SOCKET_NAME
from sentinel.cli.client import Client
from sentinel.cli.doctor.check import Finding, Setup, check, note, ok, problem
from sentinel.cli.doctor.http import get
from sentinel.errors import DeliveryError, NoDaemonError, SentinelError

GROUP = "daemon"


class _Health(TypedDict):
    pid: int
    version: str


@check(GROUP, "sockets")
def sockets(setup: Setup) -> Iterator[Finding]:
    """It answers, and is what is installed here."""
    health = _health(setup)
    if isinstance(health, Finding):
        yield health
    elif health["version"] != __version__:
        yield problem(
            f"the daemon is version {health['version']}, and {__version__} is installed",
            "restart it: `systemctl restart sentinel`, or end it and start `sentinel daemon`",
        )
    elif not (setup.state / SOCKET_NAME).is_socket():
        yield problem(
            f"{SOCKET_NAME} is gone: no rank finds the daemon", "restart the daemon: it makes it"
        )
    else:
        yield ok(f"process {health['pid']} answers, version {health['version']}")


@check(GROUP, "page")
def page(setup: Setup) -> Iterator[Finding]:
    """Its HTTP is where it is looked for."""
    url = setup.http if "://" in setup.http else f"http://{setup.http}"
    expected = _health(setup)
    try:
        answer = get("the page", f"{url}/healthz", setup.within)
        health = msgspec.json.decode(answer.body, type=_Health)
    except (DeliveryError, msgspec.MsgspecError) as error:
        why = str(error) if isinstance(error, DeliveryError) else "something else answers there"
        said = f"no daemon's HTTP at {setup.http}: {why}"
        advice = "start the daemon with --http HOST:PORT, and tell doctor the same, if you want it"
        yield note(said, advice)
        return
    if isinstance(expected, Finding):
        yield note(f"{setup.http} is served, by a daemon of another directory", _OTHER)
    elif expected["pid"] != health["pid"]:
        yield problem(f"another daemon (process {health['pid']}) serves {setup.http}", _OTHER)
    else:
        yield ok(f"served at {setup.http}")


_OTHER = "give each daemon a port of its own with --http, and tell doctor which with --http"


def _health(setup: Setup) -> _Health | Finding:
    """What the daemon says of itself, or what is wrong with it."""
    try:
        answer = Client(setup.state).request("GET", "/healthz")
        return msgspec.json.decode(answer, type=_Health)
    except NoDaemonError:
        if (setup.state / "api.sock").exists():
            return problem(
                "a daemon was here and is gone: its sockets are left",
                f"start it again with `sentinel daemon --state {setup.state}`",
            )
        return note(
            f"no daemon runs in {setup.state}",
            "start `sentinel daemon`, or let `sentinel run -- COMMAND` bring one for its command",
        )
    except (SentinelError, msgspec.MsgspecError) as error:
        return problem(f"the daemon does not answer well: {error}", "restart the daemon")
