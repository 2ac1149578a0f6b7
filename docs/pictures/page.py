"""Makes the pictures of the pages: `python docs/pictures/page.py [FOLDER]`.

A real run of the reference trainer on two ranks, in which a module of one rank puts out NaN, under
a real daemon. Then somebody who has never seen it: from the overview to the incident, to which
layer of which rank went first; and on, with the bad batches left out. Needs Chromium.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, sync_playwright

from sentinel.address import SOCKET_NAME
from sentinel.cli.drills.rehearsal import trainer_command
from sentinel.cli.drills.scenario import SCENARIOS
from sentinel.store.tokens import Tokens

RUN = "pretrain-demo"
HERE = Path(__file__).parent
DESKTOP, PHONE = {"width": 1280, "height": 800}, {"width": 360, "height": 740}
PATIENCE = 300.0  # s
LARGEST = 150 * 1024  # bytes of a picture


def main() -> None:
    """Train, walk, and leave the pictures in a folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=HERE)
    folder = parser.parse_args().folder
    with tempfile.TemporaryDirectory() as place:
        state = Path(place) / "state"
        state.mkdir()
        token = Tokens(state).add("anna", "operator", by="user", now=time.time(), expires=None)
        with daemon(state) as url, training(state), chromium() as open_tab:
            ask = Asker(url, token)
            eventually(lambda: ask("/status") and ask("/status")[0]["state"] == "held", "the hold")
            walk(open_tab, lambda path: f"{url}{path}#token={token}", folder)
            eventually(lambda: ask("/status")[0]["state"] == "finished", "the end of training")


def walk(open_tab: Callable[..., Page], link: Callable[[str], str], folder: Path) -> None:
    """What a person does who is told that something is wrong, with a picture of each step."""
    page = open_tab(viewport=DESKTOP)
    page.goto(link("/"))
    page.locator("#main").get_by_text(RUN).first.wait_for()
    page.wait_for_timeout(500)  # for the sparkline
    picture(page, folder / "page-overview.png", height=320)
    page.locator("a[href^='/incidents/']").first.click()
    page.locator('.heatmap[data-state="ready"]').wait_for()
    page.locator(".smallchart").first.wait_for()
    page.locator(".blackbox").wait_for()
    incident = page.url[page.url.index("/incidents/") :]
    picture(page, folder / "page-incident.png")
    heat = page.locator(".panel", has=page.locator(".heatmap"))
    heat.scroll_into_view_if_needed()
    page.locator(".heatmap-canvas").focus()
    page.keyboard.press("ArrowLeft")
    heat.screenshot(path=folder / "page-heatmap.png")
    light(folder / "page-heatmap.png")
    phone = open_tab(viewport=PHONE, color_scheme="dark")
    phone.goto(link(incident))
    phone.locator('.heatmap[data-state="ready"]').wait_for()
    picture(phone, folder / "page-phone.png")
    page.get_by_role("button", name="Resume…").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Leave out batches").fill("19")
    dialog.get_by_label("Learning rate times").fill("0.5")
    picture(page, folder / "page-resume.png")
    page.get_by_role("button", name="Resume the run").click()
    page.get_by_text("The run goes on").first.wait_for()
    page.goto(link(f"/runs/{RUN}"))
    page.locator("#main").get_by_text("finished").first.wait_for()
    page.reload()
    page.locator("#main canvas").first.wait_for()
    page.wait_for_timeout(1500)  # for the other charts
    picture(page, folder / "page-run.png")


def picture(page: Page, path: Path, height: int | None = None) -> None:
    """What is in sight, or its upper part."""
    page.evaluate("window.scrollTo(0, 0)")
    size = page.viewport_size
    assert size is not None
    clip = {"x": 0.0, "y": 0.0, "width": float(size["width"]), "height": float(height or 0)}
    page.screenshot(path=path, clip=clip if height else None)  # type: ignore[arg-type] # a TypedDict
    light(path)


def light(path: Path) -> None:
    """Within the limit: where it has to be, with a palette of 256 colors."""
    from PIL import Image

    with Image.open(path) as opened:
        image = opened.convert("RGB")
    image.save(path, optimize=True)
    if path.stat().st_size >= LARGEST:
        image.quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)
    size = path.stat().st_size
    assert size < LARGEST, f"{path} has {size} bytes"
    print(f"{path}: {size // 1024} KiB")


class Asker:
    """Asks the daemon over HTTP."""

    def __init__(self, url: str, token: str) -> None:
        self._url, self._token = url, token

    def __call__(self, path: str) -> Any:
        asked = urllib.request.Request(
            f"{self._url}/api/v1{path}", headers={"Authorization": f"Bearer {self._token}"}
        )
        with urllib.request.urlopen(asked, timeout=60) as answer:
            return json.load(answer)


@contextmanager
def daemon(state: Path) -> Iterator[str]:
    """A daemon with its pages; where they are."""
    command = ["daemon", "--state", str(state), "--http", "127.0.0.1:0"]
    log = state / "daemon.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "sentinel", *command], stdout=output, stderr=output
        )
    try:
        found = eventually(
            lambda: re.search(r"http://127\.0\.0\.1:\d+", log.read_text()), "the daemon's start"
        )
        yield found[0]
    finally:
        process.terminate()
        process.wait(60)


@contextmanager
def training(state: Path) -> Iterator[None]:
    """The reference trainer, with the fault of the drill `nan`."""
    process = subprocess.Popen(
        trainer_command(SCENARIOS["nan"], state),
        env={
            **os.environ,
            "SENTINEL_DAEMON": str(state / SOCKET_NAME),
            "SENTINEL_RUN": RUN,
            "OMP_NUM_THREADS": "1",
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        },
    )
    try:
        yield
    finally:
        process.terminate()
        process.wait(60)


@contextmanager
def chromium() -> Iterator[Callable[..., Page]]:
    """Opens tabs."""
    path = shutil.which("chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])

        def open_tab(**options: Any) -> Page:
            page = browser.new_context(**options).new_page()
            page.set_default_timeout(PATIENCE * 1000)
            page.on("pageerror", lambda error: print(f"error on the page: {error}"))
            return page

        yield open_tab
        browser.close()


def eventually(look: Callable[[], Any], what: str) -> Any:
    """What `look` finds, once it finds something."""
    deadline = time.monotonic() + PATIENCE
    while not (found := look()):
        assert time.monotonic() < deadline, f"{what} has not come"
        time.sleep(0.2)
    return found


if __name__ == "__main__":
    main()
