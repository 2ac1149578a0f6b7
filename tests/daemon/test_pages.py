"""The pages' files: what a browser gets, and what nobody gets."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from aiohttp import ClientSession, web
from yarl import URL

from sentinel.daemon.answer import secure
from sentinel.daemon.pages import Pages
from tests.daemon.served import Served

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[str]:
    """The address at which a folder of files is served."""
    folder = tmp_path / "web"
    (folder / "vendor").mkdir(parents=True)
    (folder / "index.html").write_text("<!doctype html><title>Sentinel</title>")
    (folder / "app.js").write_text("export const answer = 42;")
    (folder / "vendor" / "chart.css").write_text("b{}")
    (folder / "made.py").write_text("secret = 1")
    (tmp_path / "outside.txt").write_text("not for anybody")
    app = web.Application()
    app.on_response_prepare.append(secure)
    app.add_routes(Pages(folder).routes())
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


@pytest.mark.parametrize(
    ("path", "status", "kind"),
    [
        ("/", 200, "text/html; charset=utf-8"),
        ("/runs/a%20run", 200, "text/html; charset=utf-8"),
        ("/runs/a/coverage", 200, "text/html; charset=utf-8"),
        ("/incidents/b1", 200, "text/html; charset=utf-8"),
        ("/assets/app.js", 200, "text/javascript; charset=utf-8"),
        ("/assets/vendor/chart.css", 200, "text/css; charset=utf-8"),
        ("/assets/made.py", 404, None),
        ("/assets/vendor", 404, None),
        ("/assets/../outside.txt", 404, None),
        ("/assets/..%2Foutside.txt", 404, None),
        ("/assets/%2Fetc%2Fpasswd", 404, None),
        ("/nowhere", 404, None),
    ],
)
async def test_a_browser_gets_the_pages_files_and_no_others(
    site: str, path: str, status: int, kind: str | None
) -> None:
    async with ClientSession() as session, session.get(URL(site + path, encoded=True)) as answer:
        assert answer.status == status
        assert kind is None or answer.headers["Content-Type"] == kind
        assert answer.headers["Content-Security-Policy"] == POLICY
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Referrer-Policy"] == "no-referrer"
        assert answer.headers["Server"] == "sentinel"


async def test_what_a_browser_has_already_is_not_sent_again(site: str) -> None:
    async with ClientSession() as session:
        async with session.get(f"{site}/assets/app.js") as first:
            tag = first.headers["ETag"]
            assert (await first.read(), first.headers["Cache-Control"]) == (
                *(b"export const answer = 42;", "no-cache"),
            )
        async with session.get(f"{site}/assets/app.js", headers={"If-None-Match": tag}) as again:
            assert (again.status, await again.read()) == (304, b"")
        async with session.get(f"{site}/", headers={"If-None-Match": tag}) as other:
            assert other.status == 200
        async with session.head(f"{site}/assets/app.js") as head:
            assert (head.status, head.headers["Content-Length"]) == (200, "25")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A daemon for all tests of this file."""
    made = Served(tmp_path_factory.mktemp("served"))
    yield made
    made.daemon.kill()


def test_files_are_open_over_tcp_by_names_of_this_machine_and_what_they_ask_for_is_not(
    served: Served,
) -> None:
    assert served.send("GET", "/assets/none.js")[0].status == 404
    assert served.send("GET", "/assets/none.js", Host="evil.example")[0].status == 403
    assert served.send("GET", "/", Origin="https://evil.example")[0].status == 403
    assert served.send("GET", "/api/v1/runs")[0].status == 401
    assert served.send("POST", "/assets/none.js")[0].status == 401


def test_a_socket_that_needs_no_token_has_no_pages(served: Served) -> None:
    assert served.daemon.get("/")[0] == 404
    assert served.daemon.get("/runs/run")[0] == 404


def test_every_answer_says_what_a_browser_may_do_with_it(served: Served) -> None:
    for path in ("/api/v1/whoami", "/api/v1/nowhere", "/metrics"):
        answer, _ = served.send("GET", path, "viewer")
        assert answer.headers["Content-Security-Policy"] == POLICY, path
        assert answer.headers["Cache-Control"] == "no-store", path
        assert answer.headers["X-Content-Type-Options"] == "nosniff", path
