"""Help: every command shows how it is used, in lines that the command itself takes."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

import click
import pytest

from sentinel.cli.examples import HEADING, INDENT
from sentinel.cli.main import sentinel


def walk(command: click.Command, name: str) -> Iterator[tuple[str, click.Command]]:
    """A command and all that is below it, each with the words that call it."""
    yield name, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for word in command.list_commands(context):
            below = command.get_command(context, word)
            assert below is not None
            yield from walk(below, f"{name} {word}")


COMMANDS = dict(walk(sentinel, "sentinel"))


def shown(command: click.Command) -> list[str]:
    """The examples in the epilog of a command."""
    lines = (command.epilog or "").splitlines()
    return [line.strip() for line in lines[lines.index(HEADING) + 1 :]] if HEADING in lines else []


def parse(line: str) -> click.Command:
    """The command that a line calls, once its own parser has taken every word of it.

    Nothing is run. Raises `click.UsageError` for what the command does not know.
    """
    name, *rest = shlex.split(line, comments=True)
    while rest and f"{name} {rest[0]}" in COMMANDS:
        name = f"{name} {rest.pop(0)}"
    command = COMMANDS[name]
    if isinstance(command, click.Group) and not command.invoke_without_command:
        raise click.UsageError(f"{name} is no command by itself")
    context = command.make_context(name, rest)
    assert not isinstance(command, click.Group) or not context.args
    return command


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_examples_that_it_takes_itself(name: str) -> None:
    command = COMMANDS[name]
    lines = shown(command)
    assert lines, f"{name} --help has no examples: give the command `epilog=examples(...)`"
    for line in lines:
        called = parse(line)
        words = f"{shlex.join(shlex.split(line, comments=True))} ".startswith(f"{name} ")
        assert words, f"an example of {name} calls something else: {line}"
        assert called is command or isinstance(command, click.Group)


@pytest.mark.parametrize("name", COMMANDS)
def test_examples_are_shown_line_by_line_within_eighty_columns(name: str) -> None:
    context = click.Context(COMMANDS[name], info_name=name, terminal_width=80)
    help_lines = COMMANDS[name].get_help(context).splitlines()
    for line in shown(COMMANDS[name]):
        assert f"{INDENT}  {line}" in help_lines
        assert len(f"{INDENT}  {line}") <= 80


@pytest.mark.parametrize(
    "line",
    [
        "sentinel pausee gpt",
        "sentinel pause gpt --hold-fr 30m",
        "sentinel pause gpt another",
        "sentinel token add anna",
        "sentinel token add anna --role king",
        "sentinel drill frogs",
    ],
)
def test_an_example_of_what_does_not_exist_would_be_found(line: str) -> None:
    with pytest.raises(click.UsageError):
        parse(line)
