"""Conditions on labels: how they are written, what they match, and which are not taken."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel.errors import NotifyError
from sentinel.matcher import Matcher, match_everything, parse_matcher

VALUES = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=30)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("run=gpt", Matcher("run", "gpt")),
        (' run = "gpt 2" ', Matcher("run", "gpt 2")),
        ("rule!=LossSpike", Matcher("rule", "LossSpike", negative=True)),
        (r'run=~"prod-\d\.[a-z]+"', Matcher("run", r"prod-\d\.[a-z]+", regex=True)),
        ("host!~a|b", Matcher("host", "a|b", regex=True, negative=True)),
        ("layer=", Matcher("layer", "")),
        ('layer=""', Matcher("layer", "")),
        ('run="a\\"b"', Matcher("run", 'a"b')),
        ("run==x", Matcher("run", "=x")),
    ],
)
def test_it_reads_as_people_write_it(text: str, expected: Matcher) -> None:
    assert parse_matcher(text) == expected


@given(VALUES, st.booleans(), st.sampled_from(["run", "rule", "a_1"]))
def test_what_is_shown_reads_as_the_same(value: str, negative: bool, name: str) -> None:
    matcher = Matcher(name, value, negative=negative)
    assert parse_matcher(str(matcher)) == matcher


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "is no matcher"),
        ("gpt", "expected NAME=VALUE"),
        ("1run=x", "is no matcher"),
        ('run="x', "the quotes around the value do not fit"),
        ('run="x"y"', "the quotes around the value do not fit"),
        ("run=" + "x" * 201, "longer than 200 characters"),
        ("run=\udcff", "is no text"),
        ("run=~[", "unterminated character set"),
        ("run=~*", "nothing to repeat"),
        ("run=~x{99999999999}", "too large"),
        ("run=~(a+)+", "only a single character may be repeated"),
        ("run=~(a|aa)*", "only a single character may be repeated"),
        ("run=~(a){2,}", "only a single character may be repeated"),
        (r"run=~(a)\1", "references to groups"),
        ("run=~(?=a)b", "only ( and (?: begin a group"),
        ("run=~(?P<a>x)", "only ( and (?: begin a group"),
        ("run=~.*.*.*.*", "more than 3 of"),
        ("run=~(a|a)(a|a)(a|a)(a|a)", "more than 3 groups"),
    ],
)
def test_what_cannot_be_used_says_why(text: str, reason: str) -> None:
    with pytest.raises(NotifyError, match=re.escape(reason)):
        parse_matcher(text)


@pytest.mark.parametrize(
    ("matcher", "labels", "expected"),
    [
        (Matcher("run", "a"), {"run": "a"}, True),
        (Matcher("run", "a"), {"run": "ab"}, False),
        (Matcher("run", "a"), {}, False),
        (Matcher("run", ""), {}, True),
        (Matcher("run", "a", negative=True), {}, True),
        (Matcher("run", "a.", regex=True), {"run": "ab"}, True),
        (Matcher("run", "a", regex=True), {"run": "ab"}, False),
        (Matcher("run", "a|b.*", regex=True), {"run": "bcd"}, True),
        (Matcher("run", ".+", regex=True), {}, False),
        (Matcher("run", ".+", regex=True, negative=True), {}, True),
    ],
)
def test_it_matches_whole_and_what_is_not_there_is_empty(
    matcher: Matcher, labels: dict[str, str], expected: bool
) -> None:
    assert matcher.matches(labels) is expected


@pytest.mark.parametrize(
    ("matchers", "expected"),
    [
        (["run=~.*"], True),
        (["run=~.+", "severity=~info|warning|critical"], True),
        (["rule!=Nothing"], True),
        (["run=gpt"], False),
        (["severity=~warning|critical"], False),
        (["layer=~.+"], False),
        (["layer=~.*", "run=a"], False),
    ],
)
def test_it_is_known_when_nothing_is_left_that_would_not_match(
    matchers: list[str], expected: bool
) -> None:
    assert match_everything(map(parse_matcher, matchers)) is expected


ATOMS = st.sampled_from(["a", "b", ".", r"\w", "[ab]", "[^b]", "(a|b)", "(?:a|.)", "|", "(", ")"])
REPEATS = st.sampled_from(["", "", "", "*", "+", "?", "{1,}", "*?"])


@given(st.lists(st.tuples(ATOMS, REPEATS), max_size=12), st.sampled_from("abc"))
def test_no_pattern_that_is_taken_is_slow(pieces: list[tuple[str, str]], letter: str) -> None:
    try:
        matcher = parse_matcher("run=~" + "".join(atom + repeat for atom, repeat in pieces))
    except NotifyError:
        return
    begun = time.process_time()
    matcher.matches({"run": letter * 10_000 + "!"})
    assert time.process_time() - begun < 10.0, matcher  # a bad one takes for ever
