"""The pages of what is measured and of what is on record."""

from __future__ import annotations

import json
import sqlite3

import msgspec
from playwright.sync_api import expect

from sentinel.cli import coverage_text
from sentinel.engine.coverage import RunCoverage
from tests.daemon.fake_job import FakeJob
from tests.daemon.scenes import broken
from tests.web.conftest import Served, Sight


def test_the_record_is_shown_whole_filtered_and_then_broken(served: Served, sight: Sight) -> None:
    job = broken(served.daemon, run="told")
    page = sight.open(served, "/runs/told/audit")
    audit = json.loads(served.daemon.get("/api/v1/audit?run=told")[1])
    expect(page.locator(".chain")).to_contain_text(f"{len(audit['rows'])} rows, each with the hash")
    expect(page.locator(".chain .hash")).to_have_text(audit["head"])
    expect(page.locator("tbody tr")).to_have_count(len(audit["rows"]))
    newest = page.locator("tbody tr").first
    expect(newest).to_contain_text("pause at step")
    expect(newest).to_contain_text("rule:NonFiniteUpdate")
    page.get_by_label("Result").select_option("done")
    expect(page.locator("tbody tr")).to_have_count(1)
    page.get_by_label("Filter").fill("nobody did this")
    expect(page.get_by_text("No row matches.")).to_be_visible()
    with sqlite3.connect(served.daemon.state / "sentinel.db", timeout=60) as connection:
        connection.execute("DROP TRIGGER journal_no_update")
        connection.execute(
            "UPDATE journal SET content = replace(content, 'requested', 'refused') "
            "WHERE run = 'told' AND number = 1"
        )
    page.reload()
    expect(page.locator(".chain")).to_contain_text("✕ broken")
    expect(page.locator(".chain")).to_contain_text("from row 1 on: its content is not what was")
    expect(page.locator("tbody tr.broken")).to_have_count(len(audit["rows"]))
    job.vanish()


def test_coverage_is_what_the_command_line_says(served: Served, sight: Sight) -> None:
    job = FakeJob(served.daemon.place, run="covered").connect()
    job.train()
    page = sight.open(served, "/runs/covered/coverage")
    answer = served.daemon.get("/api/v1/coverage?run=covered")[1]
    (report,) = msgspec.json.decode(answer, type=list[RunCoverage])
    shown = page.get_by_role("region", name="Signals").locator("tbody tr")
    expect(shown).to_have_count(len(report.signals))
    missing = [one for one in report.signals if one.state == "missing"]
    page.get_by_role("button", name=f"missing {len(missing)}").click()
    expect(shown).to_have_count(len(missing))
    reasons = shown.filter(has_text=missing[0].signal).first
    expect(reasons).to_contain_text(missing[0].reason)
    blind = [one for one in report.rules if one.state != "ok" or one.blind]
    rules = page.get_by_role("region", name="Rules")
    expect(rules.locator("tbody tr")).to_have_count(len(blind))
    said = "\n".join(coverage_text.lines(report))
    assert all(one.rule in said for one in blind)
    page.get_by_label("Filter").fill(blind[0].rule)
    expect(rules.locator("tbody tr")).to_have_count(1)
    expect(rules).to_contain_text(blind[0].blind[0].signal)
    job.vanish()
