"""docs/rules.md knows every function, and all that it shows is right.

`python -m tests.engine.test_rules_page` writes its table of detectors anew.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sentinel.engine.detectors import DETECTORS, Detector
from sentinel.engine.language.functions import USAGE
from sentinel.engine.language.parse import parse
from sentinel.engine.rulefile import load

_PAGE = Path(__file__).parents[2] / "docs" / "rules.md"
_TEXT = _PAGE.read_text(encoding="utf-8")
_TABLE = re.compile(r"(<!-- detectors: .*? -->\n)(.*?)(<!-- end of detectors -->)", re.DOTALL)
_EXAMPLES = re.findall(r"\| `([^`]+)` \|$", _TEXT, re.MULTILINE)


def _row(name: str, kind: type[Detector]) -> str:
    given = "".join(f", {key}={one.default:g}" for key, one in kind.parameters.items())
    summary = " ".join((kind.__doc__ or "").split("\n\n")[0].split())
    bounds = "; ".join(
        f"`{key}`: {one.help}, {one.lowest:g} to {one.highest:g}"
        for key, one in kind.parameters.items()
    )
    return f"| `{name}(x{given})` | {_cell(summary)} | {_cell(bounds)} |"


def _cell(text: str) -> str:
    """In a table of Markdown a bar ends the cell, even in code."""
    return text.replace("|", "\\|")


def _table() -> str:
    rows = [_row(name, kind) for name, kind in DETECTORS.items()]
    return "\n".join(["| function | is | parameters |", "|---|---|---|", *rows]) + "\n"


@pytest.mark.parametrize("name", USAGE)
def test_every_function_is_on_the_page(name: str) -> None:
    assert f"`{name}(" in _TEXT


def test_the_table_of_detectors_is_what_they_say_of_themselves() -> None:
    found = _TABLE.search(_TEXT)
    assert found is not None
    assert found[2] == _table(), "write it anew: python -m tests.engine.test_rules_page"


@pytest.mark.parametrize("example", _EXAMPLES)
def test_every_example_can_be_used(example: str) -> None:
    assert parse(example).text == example


def test_there_are_examples_and_a_rule_file_that_can_be_used(tmp_path: Path) -> None:
    assert len(_EXAMPLES) > 12
    (file,) = re.findall(r"```yaml\n(.*?)```", _TEXT, re.DOTALL)
    path = tmp_path / "rules.yaml"
    path.write_text(file)
    assert [rule.name for rule in load(path)] == ["LossSpike"]


if __name__ == "__main__":
    anew = _TABLE.sub(lambda old: old[1] + _table() + old[3], _TEXT)
    _PAGE.write_text(anew, encoding="utf-8")
