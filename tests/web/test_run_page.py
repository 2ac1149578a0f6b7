"""The overview and the page of a run: what is drawn is what is in the store, as it happens."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.daemon.fake_job import FakeJob
from tests.daemon.process import PATIENCE, eventually
from tests.daemon.scenes import broken, incidents
from tests.web.conftest import Served, Sight
from tests.web.layered_job import LAYERS, LayeredJob

expect.set_options(timeout=PATIENCE * 1000)

STEPS = 1700  # more than there are points in a chart


def loss(step: int) -> float:
    """A loss that tells which step it is of; one step stands out."""
    return 9.0 if step == 900 else 3.0 - step / 1000


@pytest.fixture(scope="module")
def jobs(served: Served) -> Iterator[dict[str, FakeJob]]:
    """A run that is long and well, and one that is held after a NaN on rank 1."""
    steady = FakeJob(served.daemon.place, run="steady", ranks=1, pid=100).connect()
    for step in range(1, STEPS + 1):
        steady.train({0: {"loss": loss(step)}})
    held = broken(served.daemon, run="broken")
    eventually(lambda: ask(served, "/runs/steady")["step"] == STEPS)
    yield {"steady": steady, "broken": held}
    steady.goodbye()
    held.vanish()


def ask(served: Served, path: str) -> Any:
    """What the daemon says."""
    status, body = served.daemon.get(f"/api/v1{path}")
    assert status == 200, body
    return json.loads(body)


def drawn(page: Page, chart: str = "loss") -> list[list[float | None]]:
    """The columns that a chart draws, once it is drawn: steps or times, and then its series."""
    expect(page.locator(f"[data-chart={chart}] canvas")).to_be_visible()
    data: list[list[float | None]] = page.evaluate(
        "chart => document.querySelector(`[data-chart=${chart}]`).plot.data", chart
    )
    return data


def lines(page: Page) -> list[list[float | None]]:
    """Steps, and mean, min and max of the loss, without the range that is normal."""
    data = drawn(page)
    return [data[0], *data[-3:]]


def says(page: Page, text: str) -> None:
    """Wait until the page says that this is in view."""
    expect(page.locator(".view-says")).to_contain_text(text)


def test_from_the_overview_a_stranger_finds_which_module_of_which_rank_went_first(
    served: Served, jobs: dict[str, FakeJob], sight: Sight
) -> None:
    page = sight.open(served)
    (incident,) = incidents(served.daemon, "broken")
    card = page.locator("[data-run=broken]")
    expect(card.locator(".tag").first).to_have_text("held")
    first = card.get_by_role("link", name="First:")
    for part in (incident["cause"]["rule"], "rank 1", "layers.1.mlp"):
        expect(first).to_contain_text(part)
    expect(page.locator("[data-run=steady]")).to_contain_text("running")
    expect(page.locator("[data-run=steady] [data-signal=loss]")).to_have_text("1.3")
    page.keyboard.press("/")
    page.keyboard.type("held")
    expect(page.locator("[data-run]")).to_have_count(1)
    page.keyboard.press("Escape")
    page.keyboard.press("j")
    expect(page.get_by_role("link", name="broken")).to_be_focused()
    first.click()
    expect(page).to_have_url(f"{served.url}/incidents/{incident['id']}")


def test_what_is_drawn_is_what_is_in_the_store(
    served: Served, jobs: dict[str, FakeJob], sight: Sight
) -> None:
    page = sight.open(served, "/runs/steady")
    steps, mean, low, high = lines(page)
    stored = ask(served, "/runs/steady/series?signal=loss&points=600")
    (series,) = stored["series"]
    assert stored["bin"] > 1
    assert [steps, mean, low, high] == [
        stored["steps"],
        series["mean"],
        series["min"],
        series["max"],
    ]
    assert max(value for value in high if value is not None) == 9.0  # no peak is lost
    expect(page.locator("[data-chart=loss] dd[data-signal=loss]")).to_contain_text("1.3")
    page.get_by_role("button", name="Time").click()
    assert drawn(page)[0] == stored["times"]


def test_a_zoom_asks_for_finer_steps_and_a_link_leads_there_again(
    served: Served, jobs: dict[str, FakeJob], sight: Sight, look: Callable[..., Sight]
) -> None:
    page = sight.open(served, "/runs/steady")
    drawn(page)
    over = page.locator("[data-chart=loss] .u-over").bounding_box()
    assert over is not None
    middle, width = over["y"] + over["height"] / 2, over["width"]
    page.mouse.move(over["x"] + width * 0.45, middle)
    page.mouse.down()
    page.mouse.move(over["x"] + width * 0.6, middle, steps=4)
    page.mouse.up()
    says(page, "every step")
    steps, mean, *_ = lines(page)
    assert mean == pytest.approx([loss(int(step or 0)) for step in steps])
    assert 700 < (steps[0] or 0) < 900 < (steps[-1] or 0) < 1100
    again = look(viewport={"width": 1280, "height": 800})
    other = again.open(served, page.url.removeprefix(served.url))
    says(other, "every step")
    assert lines(other)[0] == steps
    page.keyboard.press("]")
    says(page, "every step")
    eventually(lambda: (lines(page)[0][0] or 0) > (steps[0] or 0), "the next stretch")
    page.locator("[data-chart=loss] .u-over").dblclick()
    says(page, f"steps 1 to {STEPS:,}")


def test_a_step_is_drawn_as_it_comes(
    served: Served, jobs: dict[str, FakeJob], sight: Sight
) -> None:
    page = sight.open(served, "/runs/broken")
    before = lines(page)
    assert None in before[1]  # the NaN is a gap, and is said in words
    live = FakeJob(served.daemon.place, run="live", ranks=1, pid=300).connect()
    live.train({0: {"loss": 2.5}})
    eventually(lambda: ask(served, "/runs/live/signals"), "history")
    page = sight.open(served, "/runs/live")
    value = page.locator("[data-chart=loss] dd[data-signal=loss]")
    expect(value).to_have_text("2.5")
    live.train({0: {"loss": 7.25}})
    expect(value).to_have_text("7.25")
    assert lines(page)[:2] == [[1, 2], [2.5, 7.25]]
    live.train({0: {"loss": float("nan")}})
    expect(value).to_have_text("not finite")
    live.goodbye()
    expect(page.locator(".run-head .tag")).to_have_text("finished")


def test_charts_of_what_is_measured_seldom_follow_a_run_with_the_others(
    served: Served, jobs: dict[str, FakeJob], sight: Sight
) -> None:
    # Of every stretch of two steps the first is drawn, and these are measured at the second.
    job = LayeredJob(served.daemon.place, run="seldom", ranks=1, seldom=25)
    job.connect()
    job.steps(699)
    eventually(lambda: ask(served, "/runs/seldom")["step"] == 699)
    page = sight.open(served, "/runs/seldom")
    ratio = page.locator(f"[data-chart=update-ratio] dd[data-label='{LAYERS[1]}']")
    expect(ratio).to_have_text("0.02 at step 674")
    assert measured(drawn(page, "update-ratio")) == [25 * at // 2 * 2 for at in range(1, 28)]
    for value, says in ((3.5, "3.5"), (4.5, "4 (3.5 to 4.5)")):  # 700 is one of the seldom steps
        job.say({"loss": value})
        expect(page.locator("[data-chart=loss] dd")).to_have_text(says)
    expect(ratio).to_have_text("0.02")
    assert measured(drawn(page, "update-ratio"))[-2:] == [674, 700]
    assert [lines(page)[0][-1], lines(page)[3][-1]] == [700, 4.5]
    job.vanish()


def test_heat_maps_grow_with_the_run_and_keep_what_was_chosen(
    served: Served, jobs: dict[str, FakeJob], sight: Sight
) -> None:
    job = LayeredJob(served.daemon.place, run="warm", ranks=2)
    job.connect()
    job.steps(5)
    eventually(lambda: ask(served, "/runs/warm")["step"] == 5)
    page = sight.open(served, "/runs/warm")
    layers = page.get_by_role("region", name="Layers by steps")
    canvas = layers.locator(".heatmap-canvas")
    expect(canvas).to_have_attribute("aria-label", re.compile("of 6 layers over steps 1 to 5\\."))
    layers.get_by_label("Colors", exact=True).select_option(label="as measured")
    page.get_by_role("region", name="Ranks by steps").get_by_label("Order of rows").focus()
    job.steps(4)
    job.say({LAYERS[3]: 64.0})
    expect(canvas).to_have_attribute("aria-label", re.compile("over steps 1 to 10\\."))
    expect(layers.get_by_label("Colors", exact=True)).to_have_value("value")
    expect(page.get_by_label("Order of rows").last).to_be_focused()
    canvas.focus()
    for key in ("ArrowUp", *["ArrowDown"] * 3):  # the first brings the cursor: to the newest step
        page.keyboard.press(key)
    says = layers.locator(".heatmap-tip")
    expect(says).to_have_text(f"{LAYERS[3]}step 1064")
    ranks = page.get_by_role("region", name="Ranks by steps").locator(".heatmap-canvas")
    expect(ranks).to_have_attribute("aria-label", re.compile("of 2 ranks over steps 1 to 10\\."))
    job.vanish()


def measured(data: list[list[float | None]]) -> list[float | None]:
    """The steps at which the first line of a chart has a value."""
    return [step for step, mean in zip(data[0], data[1], strict=True) if mean is not None]


def test_what_is_measured_for_the_first_time_gets_a_chart_while_one_looks_on(
    served: Served, jobs: dict[str, FakeJob], sight: Sight
) -> None:
    job = LayeredJob(served.daemon.place, run="grows", ranks=1, seldom=20)
    job.connect()
    job.steps(5)
    eventually(lambda: ask(served, "/runs/grows")["step"] == 5)
    sight.page.clock.install()  # what there is, is asked every few seconds: they are skipped
    page = sight.open(served, "/runs/grows")
    expect(page.get_by_text("Not measured")).to_contain_text("update ratio by layer")
    job.steps(15)
    expect(page.locator(".run-step")).to_have_text("20")
    page.clock.fast_forward(11_000)
    job.steps(1, loss=6.5)
    expect(page.locator("[data-chart=update-ratio] dd")).to_have_count(len(LAYERS))
    expect(page.locator("[data-chart=loss] dd")).to_have_text("6.5")
    expect(page.get_by_text("Not measured")).not_to_contain_text("update ratio by layer")
    assert measured(drawn(page, "update-ratio")) == [20]
    job.vanish()


def test_what_happened_is_marked_on_charts_and_a_click_leads_to_it(
    served: Served, jobs: dict[str, FakeJob], sight: Sight
) -> None:
    page = sight.open(served, "/runs/broken")
    drawn(page)
    (incident,) = incidents(served.daemon, "broken")
    step = next(
        mark["step"]
        for mark in ask(served, "/runs/broken/marks")
        if mark["incident"] == incident["id"]
    )
    over = page.locator("[data-chart=grad-norm] .u-over")
    at = page.evaluate(
        "step => document.querySelector('[data-chart=grad-norm]').plot.valToPos(step, 'x')", step
    )
    over.click(position={"x": at, "y": 20})
    expect(page).to_have_url(f"{served.url}/incidents/{incident['id']}")


def test_only_operators_have_buttons(
    served: Served, jobs: dict[str, FakeJob], look: Callable[..., Sight]
) -> None:
    operator = look().open(served, "/runs/steady", role="operator")
    expect(operator.get_by_role("button", name="Pause…")).to_be_visible()
    viewer = look().open(served, "/runs/steady", role="viewer")
    drawn(viewer)
    expect(viewer.get_by_text("orders need a token")).to_be_visible()
    expect(viewer.get_by_role("button", name="Pause…")).to_have_count(0)


def test_a_phone_shows_all_without_scrolling_sideways(
    served: Served, jobs: dict[str, FakeJob], look: Callable[..., Sight]
) -> None:
    sight = look(viewport={"width": 360, "height": 740}, has_touch=True)
    for path, ready in (("/", "[data-run=broken]"), ("/runs/broken", "[data-chart=loss] canvas")):
        page = sight.open(served, path, role="operator")
        expect(page.locator(ready)).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
