"""The shell of the pages: tokens, themes, keys, and a daemon that goes away and comes back."""

from __future__ import annotations

import re
from collections.abc import Callable

from playwright.sync_api import expect

from tests.daemon.process import PATIENCE
from tests.web.conftest import Served, Sight

expect.set_options(timeout=PATIENCE * 1000)

REFUSED = r"status of 401"
GONE = r"ERR_CONNECTION_REFUSED|ERR_CONNECTION_RESET|ERR_EMPTY_RESPONSE|ERR_INCOMPLETE"


def test_without_a_token_one_is_asked_for_and_a_wrong_one_is_refused_in_words(
    served: Served, sight: Sight
) -> None:
    sight.allow(REFUSED)
    page = sight.open(served, role=None)
    expect(page.get_by_role("heading", name="A token is needed")).to_be_visible()
    expect(page.locator(".connection")).to_have_text("no token")
    page.get_by_label("Token", exact=True).fill("sntl_wrong")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("token")
    page.get_by_label("Token", exact=True).fill(served.tokens["viewer"])
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="No run has reported")).to_be_visible()
    expect(page.locator(".connection")).to_have_text("connected")
    expect(page.get_by_role("button", name="Signed in as viewer")).to_be_visible()


def test_the_token_of_a_link_leaves_the_address_at_once_and_stays_with_the_tab(
    served: Served, sight: Sight
) -> None:
    page = sight.open(served, role="operator")
    expect(page.get_by_role("button", name="Signed in as operator")).to_be_visible()
    assert page.url == f"{served.url}/"
    assert page.evaluate("[document.cookie, localStorage.length]") == ["", 0]
    page.reload()
    expect(page.get_by_role("button", name="Signed in as operator")).to_be_visible()
    page.get_by_role("button", name="Signed in as operator").click()
    page.get_by_role("button", name="Forget the token").click()
    expect(page.get_by_role("heading", name="A token is needed")).to_be_visible()


def test_a_theme_is_kept_and_the_systems_is_followed_until_one_is_chosen(
    served: Served, look: Callable[..., Sight]
) -> None:
    page = look(color_scheme="dark").open(served)
    ground = "getComputedStyle(document.documentElement).backgroundColor"
    dark = page.evaluate(ground)
    page.get_by_role("button", name="Theme: system. Change").click()
    expect(page.get_by_role("button", name="Theme: light. Change")).to_be_visible()
    light = page.evaluate(ground)
    assert light != dark
    page.reload()
    expect(page.get_by_role("button", name="Theme: light. Change")).to_be_visible()
    assert page.evaluate(ground) == light


def test_keys_are_listed_and_an_address_without_a_page_says_so(
    served: Served, sight: Sight
) -> None:
    page = sight.open(served)
    expect(page.get_by_role("heading", name="Runs")).to_be_visible()
    page.evaluate(
        "history.pushState(null, '', '/nowhere'); dispatchEvent(new PopStateEvent('popstate'))"
    )
    expect(page.get_by_role("heading", name="There is no such page")).to_be_visible()
    page.keyboard.press("?")
    keys = page.get_by_role("dialog", name="Keys")
    expect(keys.get_by_text("go to the overview")).to_be_visible()
    page.keyboard.press("Escape")
    expect(keys).to_have_count(0)
    page.keyboard.press("g")
    page.keyboard.press("o")
    expect(page.get_by_role("heading", name="Runs")).to_be_visible()
    expect(page).to_have_url(re.compile(r"/$"))


def test_a_run_that_there_is_not_is_said_in_the_daemons_own_words(
    served: Served, sight: Sight
) -> None:
    sight.allow(r"status of 404")
    page = sight.open(served, "/runs/nope")
    expect(page.get_by_role("alert")).to_contain_text("there is no run 'nope'")


def test_a_daemon_that_is_gone_shows_and_comes_back_by_itself(served: Served, sight: Sight) -> None:
    sight.allow(GONE)
    page = sight.open(served)
    expect(page.locator(".connection")).to_have_text("connected")
    served.daemon.kill()
    expect(page.locator(".connection")).to_have_text("reconnecting")
    served.daemon.start()
    expect(page.locator(".connection")).to_have_text("connected")
    expect(page.get_by_role("heading", name="No run has reported")).to_be_visible()
