"""How long a person waits for the page of a run: its charts at first, and each step after that.

    python -m benchmarks.page_paint [--steps 100000] [--repeat 5] [--write]

A real daemon serves a run of so many steps (made as `benchmarks.first_paint` makes it) to a real
Chromium. *First paint* is from the navigation to the moment at which all charts of signals without
labels have been painted, with an empty cache and an idle daemon each time; ranges that are normal
follow.
*Live update* is from a rank's sending a step of a run that goes on, over the daemon's own socket,
to the page's showing its loss. The peer of both is the same browser with the same daemon: from
navigation to the first frame of an address that has no charts, and one request for the newest step.
`--write` puts the table into benchmarks/RESULTS.md.
"""

from __future__ import annotations

import re
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

from benchmarks.engine_throughput import processor
from benchmarks.first_paint import RUN, make_state, options_of
from benchmarks.results import write_part
from sentinel.store.tokens import Tokens
from tests.daemon.fake_job import FakeJob
from tests.daemon.process import Daemon

LIVE = "goes-on"
PAINTED = "performance.getEntriesByName('sentinel:charts')[0]?.startTime ?? 0"
BANDS = "document.querySelectorAll('.legend-band').length"
FIRST_FRAME = "performance.getEntriesByName('first-paint')[0]?.startTime ?? 0"
LOSS = "document.querySelector('[data-chart=loss] dd')?.textContent ?? ''"
NEWEST = """async ([run, step]) => {
  const began = performance.now();
  const token = sessionStorage.getItem("sentinel.token");
  const path = `/api/v1/runs/${run}/series?signal=loss&from=${step}`;
  await (await fetch(path, { headers: { Authorization: `Bearer ${token}` } })).json();
  return performance.now() - began;
}"""


def main() -> None:
    options = options_of(__doc__, repeat=5)
    with tempfile.TemporaryDirectory() as name:
        state = Path(name) / "state"
        state.mkdir()
        make_state(state, options.steps)
        token = Tokens(state).add("page", "viewer", by="user", now=1.0, expires=None)
        daemon = Daemon(state, http="127.0.0.1:0").start()
        try:
            found = re.search(r"http://127\.0\.0\.1:\d+", daemon.log())
            assert found, daemon.log()
            lines = _measure(daemon, found[0], token, options.repeat)
        finally:
            daemon.kill()
    text = _report(lines, options.steps)
    print(text)
    if options.write:
        write_part(text)


def _measure(daemon: Daemon, url: str, token: str, repeat: int) -> list[tuple[str, list[float]]]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        first = [
            _opened(browser, f"{url}/runs/{RUN}#token={token}", PAINTED, BANDS)
            for _ in range(repeat)
        ]
        bare = [_opened(browser, f"{url}/nowhere#token={token}", FIRST_FRAME) for _ in first]
        live, asked = _live(daemon, browser, f"{url}/runs/{LIVE}#token={token}", 4 * repeat)
        browser.close()
    return [
        ("first paint of all charts", first),
        ("an address without charts", bare),
        ("live update", live),
        ("one request for the newest step", asked),
    ]


def _opened(browser: Browser, address: str, mark: str, then: str = "1") -> float:
    """Milliseconds from the navigation to this mark, in a profile that has cached nothing. What
    comes `then` is waited for, so that the next is not held up by it."""
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    page = context.new_page()
    page.goto(address)
    took = _until(page, lambda: float(page.evaluate(mark)))
    _until(page, lambda: float(page.evaluate(then)))
    context.close()
    return took


def _live(
    daemon: Daemon, browser: Browser, address: str, repeat: int
) -> tuple[list[float], list[float]]:
    job = FakeJob(daemon.place, run=LIVE, ranks=2).connect()
    for _ in range(200):
        job.train()
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    page.goto(address)
    _until(page, lambda: float(page.evaluate(PAINTED)))
    took, asked = [], []
    for number in range(repeat):
        loss = f"{2 + number / 100:g}"
        began = time.perf_counter()
        job.train({rank: {"loss": float(loss)} for rank in (0, 1)})
        _until(page, partial(_shows, page, loss))
        took.append(1000 * (time.perf_counter() - began))
        asked.append(float(page.evaluate(NEWEST, [LIVE, job.step])))
        page.wait_for_timeout(300)
    job.goodbye()
    return took, asked


def _shows(page: Page, loss: str) -> bool:
    """Whether this is the newest loss that it has drawn."""
    return re.split("[ ,]", str(page.evaluate(LOSS)))[0] == loss


def _until(page: Page, look: Callable[[], float]) -> float:
    deadline = time.monotonic() + 60
    while not (found := look()):
        if time.monotonic() > deadline:
            raise TimeoutError("the page has not shown it within 60 s")
        page.wait_for_timeout(5)
    return found


def _report(measured: list[tuple[str, list[float]]], steps: int) -> str:
    rows = [
        f"| {name} | {statistics.median(took):.0f} ms | {max(took):.0f} ms |"
        for name, took in measured
    ]
    head = [
        "# How long the page of a run takes",
        "",
        "Written by `python -m benchmarks.page_paint --write`, whose description says what is "
        "measured.",
        "",
        f"{processor()}; a run of {steps:,} steps; Debian's Chromium without a window",
        "",
        "| what | median | longest |",
        "|---|---|---|",
    ]
    return "\n".join([*head, *rows])


if __name__ == "__main__":
    main()
