"""One tree of errors: callers catch `SentinelError`, and each says where."""

from __future__ import annotations

import inspect
import re

import pytest

from sentinel import errors
from sentinel.errors import RuleError, SentinelError

EVERY_ERROR = [
    kind
    for _, kind in inspect.getmembers(errors, inspect.isclass)
    if kind.__module__ == errors.__name__
]


def drawn_tree() -> dict[str, str | None]:
    """Each error's parent, as the module's docstring draws them."""
    parents: dict[str, str | None] = {}
    path: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        if match := re.match(r"([│├└─ ]*)(\w+Error) ", line):
            depth = len(match[1]) // 4
            path[depth:] = [match[2]]
            parents[match[2]] = path[depth - 1] if depth else None
    return parents


def test_the_tree_in_the_docstring_is_the_one_in_the_code() -> None:
    actual = {
        kind.__name__: None if kind is SentinelError else kind.__mro__[1].__name__
        for kind in EVERY_ERROR
    }
    assert drawn_tree() == actual


@pytest.mark.parametrize("kind", EVERY_ERROR)
def test_every_error_is_one_of_ours_and_documented(kind: type[Exception]) -> None:
    assert issubclass(kind, SentinelError)
    assert kind.__doc__


@pytest.mark.parametrize(
    ("file", "line", "text"),
    [
        ("rules/default.yaml", 12, "rules/default.yaml:12: unknown signal"),
        ("rules/default.yaml", None, "rules/default.yaml: unknown signal"),
        (None, None, "unknown signal"),
    ],
)
def test_a_rule_error_says_where(file: str | None, line: int | None, text: str) -> None:
    error = RuleError("unknown signal", file=file, line=line)
    assert (str(error), error.reason, error.file, error.line) == (
        text,
        "unknown signal",
        file,
        line,
    )


def test_python_callers_may_catch_the_usual_kinds() -> None:
    assert issubclass(errors.AddressError, ValueError)
    assert issubclass(errors.AttachError, TypeError)
