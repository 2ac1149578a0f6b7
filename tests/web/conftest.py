"""A real daemon that serves its pages, and a real Chromium that shows them.

`sight` is one tab; a test fails when anything there was an error: a script's exception, a message
on the console, a breach of the Content-Security-Policy. Trouble that a test brings about itself is
allowed by `sight.allow`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, sync_playwright

from sentinel.store.tokens import Role, Tokens
from tests.daemon.process import PATIENCE, Daemon
from tests.package.tools import tool


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium, without a window. Skips where it is missing, save in CI.

    One for each file, since while it is there an event loop runs, and asynchronous tests cannot.
    """
    chromium = tool("chromium")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(
            executable_path=chromium, args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        yield started
        started.close()


@dataclass
class Served:
    """A daemon with its pages on a port of its own, and a token of each role."""

    daemon: Daemon
    port: int = 0
    tokens: dict[Role, str] = field(default_factory=dict)

    @classmethod
    def begin(cls, state: Path, *options: str) -> Served:
        """Start one, with these options."""
        state.mkdir(parents=True)
        kept = Tokens(state)
        roles: tuple[Role, ...] = ("viewer", "operator", "admin")
        tokens = {role: kept.add(role, role, by="user", now=1.0, expires=None) for role in roles}
        served = cls(Daemon(state, options, http="127.0.0.1:0").start(), tokens=tokens)
        found = re.search(r"http://127\.0\.0\.1:(\d+)", served.daemon.log())
        assert found, served.daemon.log()
        served.port = int(found[1])
        served.daemon.http = f"127.0.0.1:{served.port}"  # also when it is started again
        return served

    @property
    def url(self) -> str:
        """Where the pages are."""
        return f"http://127.0.0.1:{self.port}"

    def end(self) -> None:
        """Be gone."""
        if self.daemon.process is not None and self.daemon.process.poll() is None:
            self.daemon.kill()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, browser: Browser) -> Iterator[Served]:
    """A daemon for all tests of a file. (After the browser: without one, none is started.)"""
    begun = Served.begin(tmp_path_factory.mktemp("served") / "state")
    yield begun
    begun.end()


@pytest.fixture
def own(tmp_path: Path, browser: Browser) -> Iterator[Served]:
    """A daemon of this test's own."""
    begun = Served.begin(tmp_path / "state")
    yield begun
    begun.end()


@dataclass
class Sight:
    """One tab, and what went wrong in it."""

    page: Page
    troubles: list[str] = field(default_factory=list)
    allowed: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.set_default_timeout(PATIENCE * 1000)
        self.page.on("console", self._said)
        self.page.on("pageerror", lambda error: self.troubles.append(f"exception: {error}"))

    def _said(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            at = message.location.get("url", "")
            self.troubles.append(f"{message.type}: {message.text} ({at})")

    def allow(self, pattern: str) -> None:
        """Trouble that this test brings about, as a regular expression."""
        self.allowed.append(pattern)

    def open(self, served: Served, path: str = "/", role: Role | None = "viewer") -> Page:
        """Go there with a token of this role (None: without one), as by a link."""
        fragment = f"#token={served.tokens[role]}" if role else ""
        self.page.goto(f"{served.url}{path}{fragment}")
        return self.page

    def check(self) -> None:
        """Fail on trouble that was not allowed."""
        bad = [
            trouble
            for trouble in self.troubles
            if not any(re.search(pattern, trouble) for pattern in self.allowed)
        ]
        assert not bad, bad


@pytest.fixture
def look(browser: Browser) -> Iterator[Callable[..., Sight]]:
    """Opens tabs, each in a profile of its own; options are those of Playwright's new_context."""
    opened: list[Sight] = []

    def new(**options: Any) -> Sight:
        context = browser.new_context(**{"reduced_motion": "reduce", **options})
        opened.append(Sight(context.new_page()))
        return opened[-1]

    yield new
    for sight in opened:
        sight.page.context.close()
    for sight in opened:
        sight.check()


@pytest.fixture
def sight(look: Callable[..., Sight]) -> Sight:
    """One tab of 1280x800."""
    return look(viewport={"width": 1280, "height": 800})
