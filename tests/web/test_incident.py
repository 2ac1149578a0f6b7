"""The page of an incident: it shows what is in the store, and its buttons do what they say."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from sentinel import wire
from sentinel.control.barrier import Verdict
from tests.daemon.fake_job import FakeJob
from tests.daemon.process import PATIENCE, eventually
from tests.daemon.scenes import Json, broken, in_state, incidents
from tests.daemon.test_checkpoints import (
    ALL,
    CLEAN_STEPS,
    SavingJob,
    break_and_hold,
    come_to,
    saving,
)
from tests.web.conftest import Served, Sight
from tests.web.layered_job import LAYERS, LayeredJob

NAN = math.nan

expect.set_options(timeout=PATIENCE * 1000)


def ask(served: Served, path: str) -> Any:
    status, body = served.daemon.get(f"/api/v1{path}")
    assert status == 200, body
    return json.loads(body)


@pytest.fixture(scope="module")
def keeping(tmp_path_factory: pytest.TempPathFactory, served: Served) -> Iterator[Served]:
    """A daemon for which few clean steps make a checkpoint healthy."""
    begun = Served.begin(tmp_path_factory.mktemp("keeping") / "state", *CLEAN_STEPS)
    yield begun
    begun.end()


def button(page: Page, name: str) -> Any:
    return page.get_by_role("button", name=name, exact=True)


def dialog(page: Page) -> Any:
    return page.get_by_role("dialog")


@pytest.fixture(scope="module")
def story(served: Served) -> Iterator[tuple[LayeredJob, Json]]:
    """A run in which layers.1.mlp of rank 1 put out NaN at step 21, with its incident."""
    job = LayeredJob(served.daemon.place, run="story")
    job.connect()
    job.steps(19)
    job.say({"layers.0.attn": 64.0}, silent=("embed",))
    bad = {"nonfinite_activation": 3.0, "loss": NAN, "layers.1.mlp": NAN}
    job.say({}, bad)
    eventually(lambda: incidents(served.daemon, "story"), "the incident")
    eventually(job.layered[1].hand_over, "the question for the black box")
    (incident,) = incidents(served.daemon, "story")
    path = f"/incidents/{incident['id']}"
    eventually(lambda: ask(served, path)["blackboxes"], "the black box")
    eventually(lambda: ask(served, "/runs/story/signals"), "the history")
    yield job, ask(served, path)
    job.vanish()


def test_the_page_says_what_went_first_and_a_viewer_why_there_are_no_buttons(
    served: Served, sight: Sight, story: tuple[LayeredJob, Json]
) -> None:
    incident = story[1]
    page = sight.open(served, f"/incidents/{incident['id']}")
    cause = incident["cause"]
    leading = next(one for one in incident["alerts"] if one["rule"] == cause["rule"])
    expect(page.get_by_role("heading", level=1)).to_contain_text(leading["summary"])
    expect(page.get_by_role("heading", level=1)).to_contain_text(incident["certainty"])
    top = page.get_by_role("region", name="What went wrong")
    for known in ("layers.1.mlp", "rank 1", "node-1", "step 21", "9f86d081884c7d65"):
        expect(top).to_contain_text(known)
    for advice in incident["advice"]:
        expect(top).to_contain_text(advice)
    first = page.locator(".timeline-entry").first
    expect(first).to_contain_text("went first")
    expect(first).to_contain_text(incident["timeline"][0]["text"])
    for alert in incident["alerts"]:
        expect(page.get_by_role("region", name="Alerts")).to_contain_text(alert["summary"])
    loss = page.locator(".smallchart-figure", has_text="loss").locator(".smallchart-reading")
    expect(loss).to_have_text("step 21: rank 1: NaN; rank 0: 2")
    expect(page.get_by_text("You are looking on as token viewer")).to_be_visible()
    for name in ("Pause…", "Resume…", "Stop…", "Acknowledge…", "Silence…"):
        expect(button(page, name)).to_have_count(0)


def test_the_black_box_is_shown_with_its_bad_values_and_can_be_taken_along(
    served: Served, sight: Sight, story: tuple[LayeredJob, Json]
) -> None:
    incident = story[1]
    page = sight.open(served, f"/incidents/{incident['id']}")
    box = ask(served, f"/incidents/{incident['id']}/blackbox/1")
    last = page.locator(".blackbox tbody tr").last
    expect(last.locator("th")).to_have_text("21")
    expect(last.locator("td").first).to_have_text("nonfinite activation in layers.1.mlp")
    loss = page.locator(".blackbox thead th").all_inner_texts().index("loss")
    expect(last.locator("th, td").nth(loss)).to_have_text("✕ NaN")
    button(page, "Every value").click()
    part = page.get_by_role("columnheader", name="layer grad norm² layers.0.attn", exact=True)
    expect(part).to_be_visible()
    expect(page.get_by_text("² this rank's part of a norm, squared")).to_be_visible()
    for kind in ("JSON", "CSV"):
        with page.expect_download() as saved:
            button(page, f"Save as {kind}").click()
        text = saved.value.path().read_text()
        if kind == "JSON":
            assert json.loads(text) == box
        else:
            lines = text.splitlines()
            values = dict(zip(lines[0].split(","), lines[-1].split(","), strict=True))
            assert len(lines) == 1 + len(box["steps"])
            assert (values["step"], values["loss"]) == ("21", "NaN")
            assert float(values["layer_grad_norm/head"]) == pytest.approx(18.0)


def cell(page: Page, row: int, column: int) -> list[str]:
    """What the heat map says of a cell, by the keyboard: columns counted from the mark's."""
    canvas = page.locator(".heatmap-canvas")
    canvas.focus()
    page.keyboard.press("Escape")
    page.keyboard.press("Home")
    for _ in range(len(LAYERS)):
        page.keyboard.press("ArrowUp")
    page.keyboard.press("Home")
    for key, times in (("ArrowDown", row), ("ArrowRight", column)):
        for _ in range(times):
            page.keyboard.press(key)
    return page.locator(".heatmap-tip").inner_text().split("\n")


def test_the_heat_map_has_the_values_of_the_store(
    served: Served, sight: Sight, story: tuple[LayeredJob, Json]
) -> None:
    page = sight.open(served, f"/incidents/{story[1]['id']}")
    page.locator('.heatmap[data-state="ready"]').wait_for()
    stored = ask(served, "/runs/story/heatmap?signal=layer_grad_norm&rows=label")
    assert stored["rows"] == list(LAYERS)
    assert stored["steps"] == list(range(1, 22))
    assert stored["values"][LAYERS.index("layers.0.attn")][19] == pytest.approx(64.0)
    assert cell(page, 1, 19) == ["layers.0.attn", "step 20", "64", "32 times its usual"]
    assert cell(page, 0, 19) == ["embed", "step 20", "not measured"]
    assert cell(page, 4, 20) == ["layers.1.mlp", "step 21", "NaN"]
    assert cell(page, 5, 0) == ["head", "step 1", "6", "1 times its usual"]
    page.get_by_label("What to show").select_option(label="Step time of each rank")
    page.locator('.heatmap-canvas[aria-label^="step seconds of 2 ranks"]').wait_for()
    assert cell(page, 1, 20) == ["rank 1", "step 21", "250 ms", "1 times the ranks' median"]
    page.keyboard.press("Home")
    page.keyboard.press("Enter")
    page.wait_for_url("**/runs/story?step=1&from=*")


def test_large_bad_missing_and_usual_cells_have_colors_of_their_own(
    served: Served, sight: Sight, story: tuple[LayeredJob, Json]
) -> None:
    page = sight.open(served, f"/incidents/{story[1]['id']}")
    page.locator('.heatmap[data-state="ready"]').wait_for()
    places = {"usual": (1, 3), "large": (1, 19), "missing": (0, 19), "bad": (4, 20)}
    shades = {
        name: {tuple(shade) for shade in page.evaluate(COLORS, [*place, len(LAYERS), 21])}
        for name, place in places.items()
    }
    assert len(shades["usual"]) == len(shades["large"]) == 1
    assert len(shades["bad"]) > 1, "what is not finite has stripes"
    assert all(shade[3] < 255 for shade in shades["missing"]) or len(shades["missing"]) == 2
    assert len({frozenset(shade) for shade in shades.values()}) == len(places)


# The colors in the middle of a cell, whose place is counted from the right and lower edges.
COLORS = """([row, column, rows, columns]) => {
  const shown = document.querySelector(".heatmap-canvas");
  const copy = new OffscreenCanvas(shown.width, shown.height);
  const pen = copy.getContext("2d", { willReadFrequently: true });
  pen.drawImage(shown, 0, 0);
  const at = (x, y) => [...pen.getImageData(Math.round(x), Math.round(y), 1, 1).data];
  const height = (shown.height - 16 - 24) / rows;
  const right = shown.width - 4;
  let left = right - 2;
  while (at(left, 16 + height * 2.5)[3] === 255) left -= 1;
  const width = (right - left) / columns;
  const seen = [];
  for (let y = 5; y < height - 5; y += 1)
    for (let x = 5; x < width - 5; x += 1)
      seen.push(at(left + column * width + x, 16 + row * height + y));
  return seen;
}"""


def test_pause_holds_all_ranks_and_resume_carries_the_remedies(
    served: Served, sight: Sight
) -> None:
    job = broken_by_a_warning(served, "orders")
    (incident,) = incidents(served.daemon, "orders")
    page = sight.open(served, f"/incidents/{incident['id']}", role="operator")
    button(page, "Pause…").click()
    expect(dialog(page)).to_contain_text("Both ranks of run orders will stand still")
    page.keyboard.press("Escape")
    expect(dialog(page)).to_have_count(0)
    assert job.train() is Verdict.GO, "who thinks better of it has ordered nothing"
    button(page, "Pause…").click()
    button(page, "Pause the run").click()
    job.await_hold_order()
    step = job.train_until_stand()
    in_state(served.daemon, job, "held", "orders")
    expect(page.locator(".orders-said")).to_have_text(
        f"All ranks are held at step {step}; nothing is torn down."
    )
    button(page, "Resume…").click()
    dialog(page).get_by_label("Leave out batches").fill("7")
    dialog(page).get_by_label("Learning rate times").fill("0.5")
    expect(dialog(page)).to_contain_text(
        "Both ranks of run orders will leave out the next 7 batches each, multiply the learning "
        f"rate by 0.5, and go on from step {step}."
    )
    button(page, "Resume the run").click()
    assert job.await_verdict() is Verdict.GO
    assert {(one.skip_batches, one.lr_scale) for one in job.ranks[1].applied} == {(7, 0.5)}
    expect(page.locator(".orders-said")).to_contain_text(
        f"The run goes on from step {step}, by token operator"
    )
    assert button(page, "Pause…").is_enabled()
    job.vanish()


def broken_by_a_warning(served: Served, run: str) -> FakeJob:
    """A run with an open incident that was not paused for it."""
    job = FakeJob(served.daemon.place, run=run).connect()
    for _ in range(3):
        job.train()
    job.train({1: {"nonfinite_activation": 3.0}})
    eventually(lambda: incidents(served.daemon, run), "the incident")
    return job


def test_a_refused_order_shows_the_reason_and_force_says_what_it_risks(
    served: Served, sight: Sight
) -> None:
    job = broken(served.daemon, run="bad-weights", bad_weights="layers.1.weight")
    (incident,) = incidents(served.daemon, "bad-weights")
    page = sight.open(served, f"/incidents/{incident['id']}", role="operator")
    sight.allow("409")
    button(page, "Resume…").click()
    button(page, "Resume the run").click()
    said = page.locator(".orders-said")
    expect(said).to_contain_text("layers.1.weight")
    expect(page.get_by_role("region", name="Actions")).to_contain_text("refused")
    button(page, "Resume…").click()
    dialog(page).get_by_label("Force it").check()
    expect(dialog(page).get_by_role("alert")).to_contain_text("weights that are NaN or infinite")
    dialog(page).get_by_label("Force it").uncheck()
    expect(dialog(page).get_by_role("alert")).to_be_hidden()
    dialog(page).get_by_label("Leave out batches").fill("-1")
    expect(button(page, "Resume the run")).to_be_disabled()
    dialog(page).get_by_label("Leave out batches").fill("0")
    dialog(page).get_by_label("Force it").check()
    button(page, "Resume the run").click()
    assert job.await_verdict() is Verdict.GO
    expect(said).to_contain_text("The run goes on")
    job.vanish()


def test_a_run_goes_back_to_a_checkpoint_that_is_picked_with_its_data(
    keeping: Served, sight: Sight
) -> None:
    job = saving(keeping.daemon, "back")
    job.save(bad="layers.1.weight")
    come_to(keeping.daemon, "back", step5="healthy", step8="tainted")
    break_and_hold(keeping.daemon, job, "back")
    (incident,) = incidents(keeping.daemon, "back")
    page = sight.open(keeping, f"/incidents/{incident['id']}", role="operator")
    sight.allow("409")
    button(page, "Resume…").click()
    back = dialog(page).get_by_label("Roll back to")
    back.wait_for()
    assert back.locator("option").all_inner_texts() == [
        "nothing: go on from here",
        f"last good: step5, {job.step - 5} steps back",
        f"step8 (tainted, {job.step - 8} steps back)",
        f"step5 (healthy, {job.step - 5} steps back)",
    ]
    dialog(page).get_by_label("go back in the data").check()
    expect(dialog(page).get_by_role("alert")).to_contain_text("needs a checkpoint to roll back to")
    expect(button(page, "Resume the run")).to_be_disabled()
    back.select_option("step8")
    expect(dialog(page).get_by_role("alert")).to_contain_text("step8 is tainted")
    button(page, "Resume the run").click()
    said = page.locator(".orders-said")
    expect(said).to_contain_text("Checkpoint step8 of run back is tainted")
    assert job.poll() is Verdict.STAND, "what is refused is not done"
    button(page, "Resume…").click()
    back.select_option("last-good")
    dialog(page).get_by_label("go back in the data").check()
    dialog(page).get_by_label("Save the state as it stands first").check()
    expect(dialog(page)).to_contain_text(
        "Both ranks of run back will save the state as it stands, load the last good checkpoint, "
        "step5 (this cannot be taken back), go back to the data that came after it, and go on from "
        "there. It is done by all ranks, or by none."
    )
    button(page, "Resume the run").click()
    assert job.await_verdict() is Verdict.GO
    expected = wire.Remedies(rollback="step5", rewind=True, checkpoint=True)
    assert [rank.applied for rank in job.ranks] == [[expected]] * 2
    expect(said).to_contain_text("The run goes on")
    expect(page.get_by_role("region", name="Actions")).to_contain_text(
        "a checkpoint saved, rolled back to step5, data taken up again"
    )
    job.vanish()


def test_a_checkpoint_is_saved_by_all_ranks_after_the_same_step_and_the_run_goes_on(
    keeping: Served, sight: Sight
) -> None:
    job = SavingJob(keeping.daemon.place, run="asked", offers=ALL)
    job.connect()
    job.train()
    page = sight.open(keeping, "/runs/asked", role="operator")
    button(page, "Save checkpoint…").click()
    expect(dialog(page)).to_contain_text("Both ranks of run asked save a checkpoint after the same")
    button(page, "Save a checkpoint").click()
    assert job.await_hold_order().then == "checkpoint"
    step = job.train_until_stand()
    job.save()
    assert job.await_verdict() is Verdict.GO
    assert [rank.applied for rank in job.ranks] == [[wire.Remedies(checkpoint=True)]] * 2
    said = f"All ranks saved a checkpoint after step {step}."
    expect(page.locator(".orders-said")).to_have_text(said)
    expect(button(page, "Save checkpoint…")).to_be_enabled()
    job.vanish()


def test_a_run_is_stopped_from_its_own_page(served: Served, sight: Sight) -> None:
    job = FakeJob(served.daemon.place, run="enough").connect()
    job.train()
    page = sight.open(served, "/runs/enough", role="operator")
    button(page, "Pause…").click()
    button(page, "Pause the run").click()
    job.await_hold_order()
    job.train_until_stand()
    in_state(served.daemon, job, "held", "enough")
    button(page, "Stop…").click()
    expect(dialog(page)).to_contain_text("Both ranks of run enough leave their training loop")
    button(page, "Stop the run").click()
    assert job.await_verdict() is Verdict.STOP
    job.goodbye("stopped")
    expect(page.get_by_role("main")).to_contain_text("it takes no orders any more")


def test_acknowledging_is_on_record_and_on_all_pages_and_a_silence_is_in_force(
    served: Served, sight: Sight, look: Callable[..., Sight]
) -> None:
    job = broken_by_a_warning(served, "quiet")
    (incident,) = incidents(served.daemon, "quiet")
    elsewhere = look().open(served, f"/incidents/{incident['id']}")
    elsewhere.get_by_role("heading", level=1).wait_for()
    page = sight.open(served, f"/incidents/{incident['id']}", role="operator")
    button(page, "Acknowledge…").click()
    expect(dialog(page)).to_contain_text("token operator looks after incident")
    button(page, "Acknowledge").click()
    expect(page.get_by_text("looked after by token operator")).to_be_visible()
    expect(elsewhere.get_by_text("looked after by token operator")).to_be_visible()
    assert incidents(served.daemon, "quiet")[0]["acknowledged"]["by"] == "token operator"
    expect(button(page, "Acknowledge…")).to_have_count(0)
    button(page, "Silence…").click()
    dialog(page).get_by_label("Why").fill('it is "known"')
    button(page, "Silence").click()
    expect(page.get_by_text("silenced by token operator")).to_be_visible()
    (silence,) = ask(served, "/silences")
    assert silence["comment"] == 'it is "known"'
    assert 'run="quiet"' in silence["matchers"]
    job.vanish()


def test_everything_fits_a_phone_in_the_dark(
    served: Served, look: Callable[..., Sight], story: tuple[LayeredJob, Json]
) -> None:
    sight = look(viewport={"width": 360, "height": 740}, color_scheme="dark")
    for path in (f"/incidents/{story[1]['id']}", "/runs/story/coverage", "/runs/story/audit"):
        page = sight.open(served, path)
        page.get_by_role("heading", level=1).wait_for()
        if "incidents" in path:
            page.locator('.heatmap[data-state="ready"]').wait_for()
            page.locator(".blackbox").wait_for()
        root = "document.documentElement"
        assert page.evaluate(f"{root}.scrollWidth <= {root}.clientWidth"), path
