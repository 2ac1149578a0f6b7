"""The text of an expression, for errors that quote a piece of it and name its column."""

from __future__ import annotations

import ast

from sentinel.engine.language.functions import USAGE
from sentinel.errors import RuleError


def quoted(piece: str) -> str:
    """A piece of text in quotes, not too long to be read."""
    piece = " ".join(piece.split())
    return repr(piece if len(piece) <= 60 else piece[:57] + "...")


class Excerpt:
    """What the nodes of a line's syntax tree were parsed from. `start` is its first column."""

    def __init__(self, line: str) -> None:
        self._bytes = line.lstrip(" ").encode()  # Python counts columns in bytes
        self.start = len(line) - len(line.lstrip(" ")) + 1

    def text(self, node: ast.expr) -> str:
        """As it was written."""
        return self._bytes[node.col_offset : node.end_col_offset].decode()

    def quote(self, node: ast.expr) -> str:
        """The same for a sentence."""
        return quoted(self.text(node))

    def error(self, node: ast.expr, reason: str) -> RuleError:
        """An error at this node."""
        before = self._bytes[: node.col_offset].decode()
        return RuleError(reason, column=self.start + len(before))

    def misused(self, node: ast.expr, name: str) -> RuleError:
        """This call is not how the function is used."""
        return self.error(node, f"{self.quote(node)}: {USAGE[name]}")
