"""Errors in expressions are found in the file, however YAML was asked to write them."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from sentinel.engine.positions import place
from sentinel.engine.rulefile import load
from sentinel.errors import RuleError

_HEAD = "groups:\n  - name: loss\n    rules:\n      - alert: A\n"


@pytest.mark.parametrize(
    "expr",
    [
        "        expr: lr > 1 and lss > 2\n",
        "        expr: lr > 1\n          and lss > 2\n",
        "        expr: lr > 1\n\n\n          and lss > 2   # lss\n",
        "        expr: 'lr > 1 and logged[''x''] > 1 or lss > 2'\n",
        "        expr: 'lr > 1\n\n          and   lss > 2'\n",
        '        expr: "lr > 1 \\t and\\x20 logged[\\"x\\"] > 1 or lss > 2"\n',
        '        expr: "lr > 1 an\\\n          d lss > 2"\n',
        "        expr: >-\n          lr > 1\n          and lss > 2\n",
        "        expr: >-   # lss: a comment\n\n\n            lr > 1 and\n            lss > 2\n\n",
        "        expr: |\n          lr > 1\n          and (\n            lss > 2)\n",
        "        expr: |2-\n            lr > 1\n          and lss > 2\n",
        "        expr:\n          lr > 1 and lss > 2\n",
        "        expr: &here lr > 1 and lss > 2\n",
        "        expr: !!str lr > 1 and lss > 2\n",
    ],
)
@pytest.mark.parametrize("how", ["utf-8", "crlf", "bom", "utf-16", "unicode before"])
def test_an_unknown_signal_is_found_at_its_line_and_column(
    tmp_path: Path, expr: str, how: str
) -> None:
    text = _HEAD + expr
    if how == "unicode before":
        text = "# größer 🙂 als\n" + text
    at = text.rindex("lss >")
    line, column = text.count("\n", 0, at) + 1, at - text.rfind("\n", 0, at)
    if how == "crlf":
        text = text.replace("\n", "\r\n")
    encoding = {"bom": "utf-8-sig", "utf-16": "utf-16"}.get(how, "utf-8")
    path = tmp_path / "rules.yaml"
    path.write_bytes(text.encode(encoding))
    with pytest.raises(RuleError) as raised:
        load(path)
    assert raised.value.reason.startswith("expr: unknown signal 'lss', did you mean 'loss'?")
    assert str(raised.value).startswith(f"{path}:{line}:{column}: expr: ")


def test_the_end_of_an_expression_is_a_place_too(tmp_path: Path) -> None:
    path = tmp_path / "rules.yaml"
    path.write_text(_HEAD + "        expr: >-\n          loss >\n          3 and\n        for: 3\n")
    with pytest.raises(RuleError, match=r"yaml:7:16: expr: syntax error at the end"):
        load(path)


_VALUES = st.text(st.sampled_from("ab '\"\\#:,>|\n\t-&ä🙂"), min_size=1, max_size=30)


@given(value=_VALUES, style=st.sampled_from(["'", '"', "|", ">", None]), width=st.integers(4, 40))
def test_every_character_is_found_where_it_was_written(
    value: str, style: str | None, width: int
) -> None:
    source = yaml.dump({"a": {"expr": value}}, default_style=style, width=width, allow_unicode=True)
    root = yaml.compose(source, yaml.SafeLoader)
    assert root is not None
    node = root.value[0][1].value[0][1]
    assert node.value == value
    lines = source.split("\n")
    for offset, character in enumerate(value):
        line, column = place(source, node, offset)
        if character.strip():
            assert column is not None
            written = lines[line - 1][column - 1 :]
            assert written.startswith((character, "\\" + character, "\\U0001F642"))
