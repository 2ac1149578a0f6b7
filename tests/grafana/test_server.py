"""A Grafana as `push` speaks to it: where it is, whether it is one, and whether it is trusted."""

from __future__ import annotations

import asyncio
import socket
import ssl
from pathlib import Path

import pytest
import trustme
from aiohttp import web

from sentinel.errors import SentinelError
from sentinel.grafana.server import GrafanaServer

TOKEN = "glsa_0123456789_secret"


def test_where_nobody_listens_it_says_so() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
        with (
            pytest.raises(SentinelError, match="cannot be reached"),
            GrafanaServer(url, TOKEN) as server,
        ):
            server.check()


async def test_its_certificate_is_checked_against_the_authority_that_is_given(
    tmp_path: Path,
) -> None:
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    file = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(file))
    app = web.Application()

    async def health(_: web.Request) -> web.Response:
        return web.json_response({"database": "ok", "version": "13.0.1"})

    app.router.add_get("/api/health", health)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    url = f"https://127.0.0.1:{runner.addresses[0][1]}"

    def check(ca: str | None) -> None:
        with GrafanaServer(url, TOKEN, ca=ca) as server:
            server.check()

    with pytest.raises(SentinelError, match="its certificate is not trusted"):
        await asyncio.to_thread(check, None)
    await asyncio.to_thread(check, str(file))
    await runner.cleanup()


@pytest.mark.parametrize(
    ("url", "token", "said"),
    [
        ("grafana.example", TOKEN, "no usable URL"),
        ("https://anna:secret@grafana.example", TOKEN, "more than an address"),
        ("https://grafana.example?orgId=2", TOKEN, "more than an address"),
        ("https://grafana.example", "glsa_ä", "the token for Grafana is none"),
        ("https://grafana.example", "glsa\nX: y", "the token for Grafana is none"),
        ("https://grafana.example", "", "the token for Grafana is none"),
    ],
)
def test_a_url_or_a_token_that_cannot_be_one_is_refused(url: str, token: str, said: str) -> None:
    with pytest.raises(SentinelError, match=said) as caught:
        GrafanaServer(url, token)
    assert "secret" not in str(caught.value)
