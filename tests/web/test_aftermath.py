"""What the pages say once a run is held: how long still, what to do, and what became of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from sentinel import wire
from sentinel.control.barrier import Verdict
from tests.daemon.fake_job import FakeJob
from tests.daemon.process import PATIENCE, eventually
from tests.daemon.scenes import APPLIED_NAN, broken, incidents, status
from tests.web.conftest import Served, Sight

expect.set_options(timeout=PATIENCE * 1000)

NO_GPU = "no CUDA device: the model is on the host"


@pytest.fixture(scope="module")
def held(served: Served) -> Iterator[FakeJob]:
    """A run that is held after a NaN on rank 1, with no GPU to measure and no receiver to tell."""
    job = broken(served.daemon, run="held")
    for rank in job.ranks:
        rank.send(wire.Coverage(1, "device_memory_peak_bytes", NO_GPU, 0))
        rank.send(wire.Coverage(1, "device_memory_limit_bytes", NO_GPU, 0))
    eventually(lambda: ask(served, "/runs/held/signals"), "the history")
    yield job
    job.vanish()


def ask(served: Served, path: str) -> Any:
    code, body = served.daemon.get(f"/api/v1{path}")
    assert code == 200, body
    return json.loads(body)


def page_of(served: Served, run: str) -> str:
    """The path of its incident's page."""
    return f"/incidents/{incidents(served.daemon, run)[0]['id']}"


def top(page: Page) -> Any:
    return page.get_by_role("region", name="What went wrong")


def test_how_long_it_is_until_a_hold_ends_is_told_as_time_goes_by(
    served: Served, held: FakeJob, sight: Sight
) -> None:
    sight.page.clock.install()
    page = sight.open(served, page_of(served, "held"))
    left = top(page).get_by_text("If nobody answers, the run is stopped in")
    expect(left).to_contain_text("1 h 5")
    before = left.inner_text()
    page.clock.run_for(180_000)
    expect(left).not_to_have_text(before)
    page.goto(f"{served.url}/runs/held?from=1&to=5")
    said = page.locator(".run-facts")
    expect(said).to_contain_text("by rule:NonFiniteUpdate, stops at ")
    before = said.inner_text()
    page.clock.run_for(180_000)
    expect(said).not_to_have_text(before)


def test_before_a_run_is_resumed_it_is_said_what_speaks_for_which_remedy(
    served: Served, held: FakeJob, sight: Sight
) -> None:
    page = sight.open(served, page_of(served, "held"), role="operator")
    advised = ask(served, page_of(served, "held"))["advised"]
    told = top(page).locator(".answer", has_text="What to do")
    expect(told.locator("dd > span").first).to_have_text(advised[0]["text"])
    expect(told).to_contain_text("The weights are finite: every rank has looked at its own.")
    expect(top(page)).to_contain_text("Nobody was told: no receiver is set up.")
    evidence = page.locator(".panel", has=page.get_by_role("heading", name="Evidence"))
    expect(evidence).to_contain_text("nonfinite activation left its range on rank 1 alone.")
    page.get_by_role("button", name="Resume…").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text(f"NonFiniteUpdate says: {advised[0]['text']}")
    expect(dialog).to_contain_text("Recommended: leave out batches, lower the learning rate")
    expect(dialog).to_contain_text("Nothing is changed")
    expect(dialog.get_by_label("go back in the data")).to_be_disabled()
    dialog.get_by_label("Leave out batches").fill("3")
    expect(dialog).not_to_contain_text("Nothing is changed")


def test_what_does_not_apply_to_a_run_is_told_from_what_is_lacking(
    served: Served, held: FakeJob, sight: Sight
) -> None:
    def count() -> Any:
        return ask(served, "/runs/held")["coverage"]

    known = eventually(lambda: count() if count()["not_applicable"] == 2 else None, "coverage")
    page = sight.open(served, "/")
    foot = page.locator("[data-run=held] .card-foot")
    expect(foot).to_contain_text(f"{known['missing'] - 2} missing")
    blind = known["blind_rules"] - known["rules_not_applicable"]
    expect(foot).to_contain_text(f"{blind} rules blind")
    page.goto(f"{served.url}/runs/held/coverage")
    page.get_by_role("button", name="not applicable 2").click()
    rows = page.get_by_role("region", name="Signals").locator("tbody tr")
    expect(rows).to_have_count(2)
    expect(rows.first).to_contain_text(NO_GPU)
    named = page.get_by_role("cell", name="DeviceOOMRisk", exact=True)
    rule = page.get_by_role("region", name="Rules").locator("tbody tr").filter(has=named)
    expect(rule.locator(".tag")).to_have_text("not applicable")


def test_the_link_to_incidents_leads_to_them_and_a_mean_is_not_called_a_ranks_own(
    served: Served, held: FakeJob, sight: Sight
) -> None:
    page = sight.open(served, "/")
    page.locator("[data-run=held]").get_by_role("link", name="1 open of 1 incident").click()
    expect(page.locator("#incidents")).to_be_in_viewport()
    expect(page.locator("#incidents li")).to_have_count(1)
    value = page.locator("[data-chart=loss] dd[data-signal=loss]")
    expect(value).to_contain_text("2")
    expect(value).not_to_contain_text("2 rank")


def test_a_resume_under_which_it_goes_on_is_told_and_when_all_is_well_again(
    served: Served, sight: Sight
) -> None:
    job = broken(served.daemon, run="again")
    page = sight.open(served, page_of(served, "again"))
    began = incidents(served.daemon, "again")[0]["cause"]["step"]
    expect(top(page)).to_contain_text("finite again since")
    served.daemon.request("POST", "/api/v1/runs/again/resume", {})
    assert job.await_verdict() is Verdict.GO
    first = job.step + 1
    for _ in range(2):
        job.train(APPLIED_NAN)
    for _ in range(3):
        job.train()
    after = f"Steps {first} to {first + 1} after the resume: still not finite (2 steps)."
    expect(top(page)).to_contain_text(after)
    expect(top(page)).to_contain_text("A rule acts once, when it begins to fire")
    expect(top(page)).to_contain_text(f"finite again since step {first + 2}")
    expect(page.locator(".timeline-entry", has_text=after)).to_have_count(1)
    well = page.locator(".timeline-entry", has_text=f"finite again since step {first + 2}")
    expect(well).to_have_count(1)
    assert status(served.daemon, "again")["state"] == "running", "no rule asks for a second pause"
    last = job.step
    shown = page.locator(".smallchart").first
    expect(shown).to_contain_text(str(last))
    assert began < first
    job.goodbye()
    expect(top(page)).to_contain_text(f"and has finished, at step {last}.")
    page.goto(f"{served.url}/runs/again")
    expect(page.locator(".run-facts")).to_contain_text("ended")
