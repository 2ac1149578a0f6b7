"""Read a YAML file node by node, each of which knows its place.

Every error has the file, the line and the column, counted from 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import yaml

from sentinel.engine.positions import decoded, place
from sentinel.errors import PlacedError, RuleError
from sentinel.signals import did_you_mean

MAX_FILE = 1 << 20  # bytes

_Choice = TypeVar("_Choice", bound=str)


def read_file(path: Path, error: type[PlacedError] = RuleError) -> bytes:
    """All of a file that is not too large. Raises `error`."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE + 1)
    except OSError as reason:
        raise error(f"cannot be read: {reason.strerror}", file=str(path)) from None
    if len(data) > MAX_FILE:
        raise error(f"larger than {MAX_FILE} bytes", file=str(path))
    return data


class YamlReader:
    """Takes a file's nodes apart, and says what was expected where something else is.

    The base of the readers of rule files, of the files that test rules, and of notification files.
    What it raises is a `failure`.
    """

    failure: type[PlacedError] = RuleError

    def __init__(self, file: str) -> None:
        self._file = file
        self._source = ""

    def _compose(self, data: bytes) -> yaml.Node | None:
        self._source = decoded(data)
        try:
            node: yaml.Node | None = yaml.compose(data, yaml.SafeLoader)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            reason = ", ".join(part for part in (error.context, error.problem) if part)
            line, column = (mark.line + 1, mark.column + 1) if mark else (None, None)
            raise self.failure(
                f"not YAML: {reason}", file=self._file, line=line, column=column
            ) from None
        except yaml.reader.ReaderError as error:
            line = data[: max(0, int(error.position))].count(b"\n") + 1
            raise self.failure(f"not YAML: {error.reason}", file=self._file, line=line) from None
        except RecursionError:
            raise self.failure("not YAML for us: nested too deeply", file=self._file) from None
        except (yaml.YAMLError, ValueError) as error:
            raise self.failure(f"not YAML: {error}", file=self._file) from None
        return node

    def _choice(self, node: yaml.Node, what: str, known: Mapping[str, _Choice]) -> _Choice:
        text = self._text(node, what)
        if text not in known:
            raise self._error(
                node,
                f"unknown {what} {text!r}{did_you_mean(text, known)}: "
                f"supported {'is' if len(known) == 1 else 'are'} {', '.join(known)}",
            )
        return known[text]

    def _mapping(
        self,
        node: yaml.Node,
        what: str,
        known: tuple[str, ...],
        required: tuple[str, ...] = (),
    ) -> dict[str, yaml.Node]:
        if not isinstance(node, yaml.MappingNode):
            raise self._error(node, f"{what} must be a mapping with {', '.join(known)}")
        for key_node, _ in node.value:
            if (key := self._text(key_node, "a key")) not in known:
                hint = did_you_mean(key, known)
                raise self._error(
                    key_node, f"unknown key {key!r} in {what}{hint}: known are {', '.join(known)}"
                )
        found = self._entries(node, what)
        if lacking := [key for key in required if key not in found]:
            raise self._error(node, f"{what} lacks {lacking[0]!r}")
        return found

    def _entries(self, node: yaml.Node, what: str) -> dict[str, yaml.Node]:
        """A mapping whose keys may be any."""
        if not isinstance(node, yaml.MappingNode):
            raise self._error(node, f"{what} must be a mapping")
        found: dict[str, yaml.Node] = {}
        for key_node, value in node.value:
            key = self._text(key_node, "a key")
            if key in found:
                raise self._error(key_node, f"{key!r} occurs twice in {what}")
            found[key] = value
        return found

    def _sequence(self, node: yaml.Node, what: str) -> list[yaml.Node]:
        if not isinstance(node, yaml.SequenceNode):
            raise self._error(node, f"{what} must be a list")
        return list(node.value)

    def _text(self, node: yaml.Node, what: str) -> str:
        if not isinstance(node, yaml.ScalarNode) or node.tag == "tag:yaml.org,2002:null":
            raise self._error(node, f"{what} must be a text or a number")
        return str(node.value)

    def _error(self, node: yaml.Node, reason: str, offset: int = -1) -> PlacedError:
        """An error at this node, or at a character of its value."""
        line, column = place(self._source, node, offset)
        return self.failure(reason, file=self._file, line=line, column=column)
