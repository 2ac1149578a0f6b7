"""What is made from the code says what the code says, and every link leads somewhere."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from urllib.parse import unquote

import pytest

from docs.generate import pages
from tests.package.tools import ROOT

PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
_FENCED = re.compile(r"^(```|~~~).*?^\1", re.DOTALL | re.MULTILINE)
_CODE = re.compile(r"`[^`\n]*`")
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#{1,6} +(.+?) *#*$", re.MULTILINE)


@pytest.mark.parametrize("path", pages(), ids=lambda path: path.name)
def test_a_page_that_is_made_is_as_it_would_be_made_now(path: Path) -> None:
    written = path.read_text(encoding="utf-8") if path.exists() else ""
    assert written == pages()[path], "write it anew: python -m docs.generate"


def links(text: str) -> list[str]:
    """Where a page's links lead; what is code is none."""
    return _LINK.findall(_CODE.sub("", _FENCED.sub("", text)))


@cache
def anchors(page: Path) -> frozenset[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    found: list[str] = []
    for heading in _HEADING.findall(_FENCED.sub("", page.read_text(encoding="utf-8"))):
        words = re.sub(r"\]\([^)]*\)|[\[`*]", "", heading).lower()
        anchor = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
        again = found.count(anchor)
        found.append(f"{anchor}-{again}" if again else anchor)
    return frozenset(found)


def broken(page: Path, text: str) -> list[str]:
    """The links within the repository that lead nowhere."""
    wrong = []
    for link in links(text):
        place, _, anchor = unquote(link).partition("#")
        if re.match(r"[a-z]+:", place):
            continue
        target = (page.parent / place).resolve() if place else page
        is_page = target.suffix == ".md" and target.is_file()
        if not target.exists() or (anchor and (not is_page or anchor not in anchors(target))):
            wrong.append(link)
    return wrong


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    assert broken(page, page.read_text(encoding="utf-8")) == []


def test_a_link_that_leads_nowhere_is_noticed() -> None:
    text = "[a](gone.md), [b](rules.md#gone), [c](rules.md#functions), [d](https://x.org), `[e](f)`"
    assert broken(ROOT / "docs" / "hold.md", text) == ["gone.md", "rules.md#gone"]


def test_the_index_knows_every_page() -> None:
    index = ROOT / "docs" / "README.md"
    known = {(index.parent / link).resolve() for link in links(index.read_text(encoding="utf-8"))}
    assert [page for page in PAGES[2:] if page != index and page not in known] == []
