"""Lines on a terminal say what happened, and nothing in them is obeyed."""

from __future__ import annotations

import io

from sentinel.cli.terminal import Terminal


def test_what_ranks_have_named_is_not_obeyed_by_the_terminal() -> None:
    stream = io.StringIO()
    terminal = Terminal(stream)
    terminal.line("loss of \x1b[2Jlayers.1\r\nsentinel: all is well")
    terminal.heading("rank \x07 1")
    terminal.block("stack:\n  at \x9b31m line 7")
    said = stream.getvalue()
    assert "".join(said.split("\n")).isprintable()
    assert said.splitlines()[0] == "sentinel: loss of  [2Jlayers.1  sentinel: all is well"
    assert len(said.splitlines()) == 5
