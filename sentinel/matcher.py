"""Conditions on labels, as Alertmanager has them: `run="gpt"`, `rule!="Slow"`, `host=~"a.*"`.

Regular expressions are a small part of Python's, which cannot be slow: what is matched may come
from a run, and a pattern that backtracks for hours would stand in the way of every alert. Only
single characters, classes and `.` may be repeated, three times in a pattern, and the first 256
characters of a value are looked at.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache

from sentinel.errors import NotifyError

Labels = Mapping[str, str]

MAX_VALUE = 200  # characters of a matcher's value
LOOKED_AT = 256  # characters of what a regular expression is matched with
MAX_MATCHERS = 32
_REPEATS = 3
_GROUPS = 3

_FORM = re.compile(r"\s*([A-Za-z_][A-Za-z0-9_]*)\s*(=~|!~|!=|=)\s*(.*?)\s*", re.DOTALL)
_TOKEN = re.compile(
    r"(?P<escape>\\.)|(?P<klass>\[\^?\]?(?:\\.|[^\]\\])*\])|(?P<open>\((?:\?[:a-zA-Z!<=>#]*)?)"
    r"|(?P<close>\))|(?P<repeat>(?:[*+?]|\{\d*,?\d*\})[?+]?)|(?P<other>.)",
    re.DOTALL,
)
_ALWAYS = {  # what every incident has, and values that tell whether all of them match
    "run": ("gpt", "Zz-9_./ ", "\N{BLACK STAR}" * 3),
    "rule": ("LossSpike", "Zz_9", "a"),
    "severity": ("info", "warning", "critical"),
}


@dataclass(frozen=True)
class Matcher:
    """One condition on labels: the one called `name` is, or is not (`negative`), `value`.

    A regular expression, matched whole, where `regex`. A label that is not there is the empty
    string.
    """

    name: str
    value: str
    regex: bool = False
    negative: bool = False

    def matches(self, labels: Labels) -> bool:
        """Whether these labels fulfil the condition."""
        found = labels.get(self.name, "")
        if self.regex:
            is_it = _compiled(self.value).fullmatch(found[:LOOKED_AT]) is not None
        else:
            is_it = found == self.value
        return is_it != self.negative

    def __str__(self) -> str:
        operator = {(False, False): "=", (False, True): "!=", (True, False): "=~"}.get(
            (self.regex, self.negative), "!~"
        )
        value = self.value.replace("\\", "\\\\").replace('"', '\\"')
        return f'{self.name}{operator}"{value}"'


def all_match(matchers: Iterable[Matcher], labels: Labels) -> bool:
    """Whether these labels fulfil all conditions."""
    return all(matcher.matches(labels) for matcher in matchers)


def parse_matcher(text: str) -> Matcher:
    """A matcher as people write it; its value may be without quotes. Raises `NotifyError`."""
    found = _FORM.fullmatch(text)
    if found is None:
        raise NotifyError(
            f"{text!r} is no matcher: expected NAME=VALUE, NAME!=VALUE, or with a regular "
            'expression NAME=~"..." or NAME!~"..."'
        )
    name, operator, value = found.groups()
    if value.startswith('"'):
        value = _unquoted(value, text)
    return checked(Matcher(name, value, "~" in operator, operator.startswith("!")))


def checked(matcher: Matcher) -> Matcher:
    """The matcher, if it can be used. Raises `NotifyError`."""
    if len(matcher.value) > MAX_VALUE:
        raise NotifyError(f"the value of {matcher.name!r} is longer than {MAX_VALUE} characters")
    if any("\ud800" <= character <= "\udfff" for character in matcher.value):
        raise NotifyError(f"the value of {matcher.name!r} is no text")
    if matcher.regex:
        if why := _why_not(matcher.value):
            raise NotifyError(f"the regular expression {matcher.value!r}: {why}")
        try:
            _compiled(matcher.value)
        except (re.error, OverflowError, RecursionError) as error:
            raise NotifyError(f"the regular expression {matcher.value!r}: {error}") from None
    return matcher


def match_everything(matchers: Iterable[Matcher]) -> bool:
    """Whether there is no incident that these would not match, as far as examples can tell."""
    return all(
        matcher.matches({matcher.name: value})
        for matcher in matchers
        for value in _ALWAYS.get(matcher.name, ("", "a", "Zz-9_./ "))
    )


@lru_cache(maxsize=1024)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.DOTALL)


def _unquoted(value: str, text: str) -> str:
    if not re.fullmatch(r'"(?:\\.|[^"\\])*"', value, re.DOTALL):
        raise NotifyError(f"{text!r}: the quotes around the value do not fit")
    # Only a quote and a backslash need one before them: `\.` and `\d` stay what they are.
    return re.sub(r'\\(["\\])', r"\1", value[1:-1])


def _why_not(pattern: str) -> str:
    """Why a regular expression is not taken, or nothing."""
    repeats = groups = at = 0
    before = ""
    while at < len(pattern):
        found = _TOKEN.match(pattern, at)
        assert found is not None
        kind, token = found.lastgroup or "", found.group()
        if kind == "escape" and (token[1].isdigit() or token[1] in "gk"):
            return "references to groups are not taken"
        if kind == "open":
            groups += 1
            if token not in ("(", "(?:"):
                return f"{token!r} is not taken: only ( and (?: begin a group"
        if kind == "repeat":
            repeats += 1
            if before == "close":
                return "only a single character may be repeated, and a class, not a group"
        at, before = found.end(), kind
    if repeats > _REPEATS:
        return f"more than {_REPEATS} of * + ? and {{}}"
    return f"more than {_GROUPS} groups" if groups > _GROUPS else ""
