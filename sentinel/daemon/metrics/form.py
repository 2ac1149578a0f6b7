"""Samples as text with blanks, put together once and filled in at every scrape."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sentinel.daemon.metrics.family import Family
from sentinel.daemon.metrics.page import Page

Sample = tuple[Family, Sequence[str]]  # and the texts before, between and after its blanks
_BETWEEN = "\n\n"  # families; no label's value has it, since line feeds are escaped there


class Form:
    """Samples of which those of one family stand together.

    Only the blanks cost anything when it is filled in: all of
    them are joined with what is between them at once.
    """

    def __init__(self, samples: Iterable[Sample]) -> None:
        self._families: list[Family] = []
        self._pieces = [""]  # text and blanks in turn
        for family, (head, *rest) in samples:
            if not self._families or family is not self._families[-1]:
                self._pieces[-1] += _BETWEEN if self._families else ""
                self._families.append(family)
            else:
                self._pieces[-1] += "\n"
            self._pieces[-1] += head
            for text in rest:
                self._pieces += "", text

    def fill(self, page: Page, blanks: Sequence[str]) -> None:
        """Add the samples to a page. Raises `ValueError` unless each blank has one text."""
        if not self._families:
            return
        self._pieces[1::2] = blanks
        page.add_texts(self._families, "".join(self._pieces).split(_BETWEEN))
