"""Where in a YAML file a character of a scalar's value was written.

Folding joins lines, block scalars lose their indentation and quoted ones their escapes, but what is
no blank comes out in the order in which it was written: the n-th of the value is the n-th of the
source.
"""

from __future__ import annotations

import codecs
import re

import yaml

_BLANKS = " \t\r\n\x85\u2028\u2029\ufeff"
_ESCAPE = re.compile(r"\\(x[0-9A-Fa-f]{2}|u[0-9A-Fa-f]{4}|U[0-9A-Fa-f]{8}|\r\n|.)", re.DOTALL)
_PROPERTIES = re.compile(r"([&!]\S*\s+)+")  # an anchor and a tag, which values cannot begin with
_BLANK_ESCAPES = " \ttnrNLP\r\n\x85\u2028\u2029"  # what is written as \t, \n, ... comes out blank


def decoded(data: bytes) -> str:
    """The text of a YAML file, as its reader counts the characters."""
    for mark, encoding in (
        (codecs.BOM_UTF16_LE, "utf-16-le"),
        (codecs.BOM_UTF16_BE, "utf-16-be"),
    ):
        if data.startswith(mark):
            return data.decode(encoding, "replace")
    return data.decode("utf-8", "replace")


def place(source: str, node: yaml.Node, offset: int) -> tuple[int, int | None]:
    """Line and column, from 1, of the character at `offset` of a node's value.

    Of what has no such place, the node's own; the column is None when the place cannot be told.
    """
    line, column = node.start_mark.line + 1, node.start_mark.column + 1
    if not isinstance(node, yaml.ScalarNode) or offset < 0:
        return line, column
    written = _written(source[: node.end_mark.index], node)
    value = str(node.value)
    solid = [at for at, one in enumerate(value) if one not in _BLANKS]
    if len(written) != len(solid) or not written:
        return line, None
    before = sum(at < offset for at in solid)
    at = written[before] if before < len(solid) else written[-1] + 1
    last_break = max(source.rfind("\n", 0, at), source.rfind("\r", 0, at))
    begun = source.count("\n", node.start_mark.index, at)
    return line + begun, at - last_break


def _written(source: str, node: yaml.ScalarNode) -> list[int]:
    """The indices in the source of the characters of the value that are no blanks."""
    named = _PROPERTIES.match(source, node.start_mark.index)
    at, end = named.end() if named else node.start_mark.index, len(source)
    if node.style in ("|", ">"):
        at = source.find("\n", at) + 1 or end  # the line of the sign has none of them
    elif node.style in ("'", '"'):
        at, end = at + 1, end - 1
    found: list[int] = []
    while at < end:
        size, blank = 1, source[at] in _BLANKS
        if node.style == "'" and source.startswith("''", at):
            size = 2
        elif node.style == '"' and (escape := _ESCAPE.match(source, at)):
            size, blank = len(escape[0]), _is_blank(escape[1])
        if not blank:
            found.append(at)
        at += size
    return found


def _is_blank(escape: str) -> bool:
    if len(escape) > 1 and escape[0] in "xuU":
        return chr(int(escape[1:], 16)) in _BLANKS
    return escape[0] in _BLANK_ESCAPES
