"""Parse and check a rule's expression: a small language in Python's own syntax.

Every error is a `RuleError` with the column of the offending piece: a place in the text, counted
from 1, line breaks included. Only a handful of `ast` nodes are known here; whatever else Python
can say is refused.
"""

from __future__ import annotations

import ast
import re
import unicodedata
import warnings

from sentinel.engine.language.excerpt import Excerpt, quoted
from sentinel.engine.language.expression import Expression, Score, Window, walk
from sentinel.engine.language.functions import held
from sentinel.engine.language.grammar import Grammar
from sentinel.engine.language.names import Names
from sentinel.errors import RuleError

MAX_TEXT = 2000  # characters
MAX_HELD = 50_000  # values that the windows and scores of one expression hold, of each element

_BLANKS = {ord(blank): " " for blank in "\n\r\t"}
_LABEL = re.compile(r"\"[^\"]*\"|'[^']*'")


def parse(text: str) -> Expression:
    """The expression that `text` means. Raises `RuleError`."""
    if len(text) > MAX_TEXT:
        raise RuleError(f"expression of {len(text)} characters exceeds {MAX_TEXT}")
    line = text.translate(_BLANKS).rstrip(" ")
    _check_characters(line)
    tree = _syntax_tree(line)
    excerpt = Excerpt(line)
    names = Names(excerpt)
    grammar = Grammar(excerpt, names)
    root = grammar.whole(tree)
    if names.first is None:
        raise excerpt.error(tree, f"{quoted(text)} names no signal")
    names.check_clock()
    expression = Expression(text.strip(), root, names.first, grammar.score or names.first)
    total = sum(remembered(expression).values())
    if total > MAX_HELD:
        raise excerpt.error(
            tree,
            f"the windows hold {total} values together, more than {MAX_HELD}: make them shorter",
        )
    return expression


def remembered(expression: Expression) -> dict[Window | Score, int]:
    """How many values each window and score of the expression holds, for each of its elements."""
    return {part: held(part) for part in walk(expression.root) if isinstance(part, (Window, Score))}


def _check_characters(line: str) -> None:
    """Refuse what looks like something else. Labels may hold whatever can be printed."""
    bare = _LABEL.sub(
        lambda label: "_" * len(label[0]) if label[0].isprintable() else label[0], line
    )
    for at, one in enumerate(bare):
        if one in "#\\" or not " " <= one <= "~":
            name = unicodedata.name(one, "")
            raise RuleError(
                f"{one!r} is not part of the language of rules"
                + (f": it is {name}" if name and not one.isascii() else ""),
                column=at + 1,
            )
    if (at := line.find("\\")) >= 0:
        raise RuleError("'\\\\' is not part of the language of rules", column=at + 1)


def _syntax_tree(line: str) -> ast.expr:
    start = len(line) - len(line.lstrip(" "))
    if start == len(line):
        raise RuleError("the expression is empty")
    try:
        with warnings.catch_warnings():  # such as of 'is' with a number
            warnings.simplefilter("ignore")
            return ast.parse(line[start:], mode="eval").body
    except SyntaxError as error:
        offset = error.offset or len(line) - start + 1  # Python tells no place for the end
        column = min(start + offset, len(line) + 1)
        rest = line[column - 1 :].strip()
        near = f" near {quoted(rest)}" if rest else " at the end"
        raise RuleError(f"syntax error{near}: {error.msg}", column=column) from None
    except (ValueError, RecursionError, MemoryError):
        raise RuleError(f"{quoted(line)} cannot be parsed", column=start + 1) from None
