"""Write the pages that say what the code says: `python -m docs.generate`.

`docs/reference/signals.md` is made from the catalog of signals, `docs/reference/commands.md` from
the command line itself. A test fails while the files are not what this would write.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import click

from sentinel.cli.main import sentinel
from sentinel.signals import CATALOG, Reduction, Signal, Stage
from sentinel.signals.exposition import metric_name

ROOT = Path(__file__).parents[1]
WIDTH = 80  # columns of a terminal

_MADE = "<!-- Written by `python -m docs.generate`: change the code, then write it anew. -->"

_REDUCTIONS = {
    Reduction.MEAN: "mean",
    Reduction.SUM: "sum",
    Reduction.MAX: "the greatest",
    Reduction.ROOT_SUM: "root of the sum",
}
_UNITS = {"1": "", "s": "seconds", "B": "bytes", "W": "watts", "C": "°C", "Hz": "hertz"}
_MAKERS = {
    "rank": "each rank",
    "derived": "the daemon, from what ranks measured",
    "engine": "the daemon, from what it hears of ranks",
}
_STAGES = {
    Stage.FORWARD: "The forward pass",
    Stage.LOSS: "The loss",
    Stage.BACKWARD: "The backward pass",
    Stage.REDUCTION: "Gradients, once all ranks have their share of them",
    Stage.OPTIMIZER: "The optimizer's step",
    Stage.AROUND: "Around the step: time, memory, machines, and the watch itself",
}

_SIGNALS = """\
# Signals

All that Sentinel knows by name: what rules ask for, what charts show, what Prometheus gets.
`sentinel rules list --signals` shows the same. What was not measured is missing, with a reason
([coverage](../coverage.md)).

A rule reads the value over ranks; `by_rank(...)` is each rank's own. *Over ranks* says how the one
becomes the other. *Root of the sum*: each rank sends the sum of squares of its part, and the result
is the norm of the whole. A signal with a *label* has a number for each of what the label names. The
*metric* is what Prometheus calls it. The order is that in which things happen in a step: what comes
first can be the cause of what comes later.
"""

_COMMANDS = """\
# Commands

What `--help` says of each command. Every command ends with one of these:

| exit status | means |
|---|---|
| 0 | done |
| 1 | not done; the reason is on standard error, in one line |
| 2 | used wrongly: an option, an argument or an address that cannot be meant |
| 130 | broken off by ctrl-c |

`sentinel run` ends as the command that it ran. `sentinel drill`, `sentinel rules test`,
`sentinel notify test` and `sentinel audit --verify` end with 1 where what they looked at is not as
it should be.
"""


def pages() -> Mapping[Path, str]:
    """The text of every page that is made, by its path."""
    folder = ROOT / "docs" / "reference"
    return {folder / "signals.md": _signals(), folder / "commands.md": _commands()}


def _signals() -> str:
    parts = [_MADE, "", _SIGNALS]
    for stage, title in _STAGES.items():
        found = [signal for signal in CATALOG.values() if signal.stage is stage]
        if found:
            head = "| signal | means | unit | label | over ranks | made by | metric |"
            rows = "\n".join([head, "|---|---|---|---|---|---|---|", *map(_row, found)])
            parts += [f"## {title}", "", rows, ""]
    return "\n".join(parts)


def _row(signal: Signal) -> str:
    cells = (
        f"`{signal.name}`",
        signal.help,
        _UNITS.get(signal.unit, signal.unit),
        signal.label,
        _REDUCTIONS[signal.reduction],
        _MAKERS[signal.made_by] + (", when it happens" if signal.sporadic else ""),
        f"`{metric_name(signal)}`",
    )
    return "| " + " | ".join(_cell(cell) for cell in cells) + " |"


def _cell(text: str) -> str:
    """In a table of Markdown a bar ends the cell, even in code."""
    return " ".join(text.replace("|", "\\|").split())


def _commands() -> str:
    found = list(_walk(sentinel, "sentinel"))
    names = [f"- [`{name}`](#{_anchor(name)})" for name, _ in found]
    parts = [_MADE, "", _COMMANDS, "\n".join(names), ""]
    for name, command in found:
        context = click.Context(
            command, info_name=name, terminal_width=WIDTH, max_content_width=WIDTH
        )
        context.help_option_names = ["-h", "--help"]
        parts += [f"## {name}", "", "```", command.get_help(context).strip(), "```", ""]
    return "\n".join(parts)


def _walk(command: click.Command, name: str) -> Iterator[tuple[str, click.Command]]:
    """A command and all that is below it, each with the words that call it."""
    yield name, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for word in command.list_commands(context):
            below = command.get_command(context, word)
            if below is not None and not below.hidden:
                yield from _walk(below, f"{name} {word}")


def _anchor(heading: str) -> str:
    return heading.lower().replace(" ", "-")


def main() -> None:
    """Write all pages."""
    for path, text in pages().items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
        print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
