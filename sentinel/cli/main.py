"""`sentinel`: finds the command that is meant and says in one line what went wrong."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn

import click

from sentinel import __version__
from sentinel.cli.examples import examples
from sentinel.errors import AddressError, SentinelError

# name -> (module, what it does). A module is imported when its command is used: help is quick.
COMMANDS = {
    "run": ("run", "Run a training command under a daemon of its own."),
    "daemon": ("daemon", "Run a standing daemon that serves many runs."),
    "status": ("status", "Show what goes on."),
    "top": ("top", "Watch runs, ranks and incidents, live in the terminal."),
    "incidents": ("incidents", "Show what went wrong, where, and what was done."),
    "audit": ("audit", "Show who did what to a run, and check that it was not tampered with."),
    "blackbox": ("blackbox", "Read the last steps of a rank from its black box."),
    "checkpoints": ("checkpoints", "Show a run's checkpoints, and which is good to go back to."),
    "pause": ("pause", "Hold a run: all ranks stand after the same step."),
    "resume": ("resume", "Let a held run go on, from an earlier checkpoint if wanted."),
    "checkpoint": ("checkpoint", "Save a checkpoint of a run now, and let it go on."),
    "stop": ("stop", "End a run cleanly after a step."),
    "outbox": ("outbox", "Show which messages have not arrived, and send failed ones again."),
    "silence": ("silence", "Tell nobody of some incidents for a time."),
    "ack": ("ack", "Say that you look after an incident."),
    "notify": ("notify", "Check whom incidents are told to, and send everybody a sample."),
    "page": ("page", "Print a link to the daemon's pages, with a token in it."),
    "systemd": ("systemd", "Have systemd run the daemon: install, uninstall, show."),
    "token": ("token", "Say who may reach the daemon over the network, and what they may do."),
    "replay": ("replay", "Try rules on recorded runs and on other tools' logs."),
    "rules": ("rules", "Check, test and list rules, and see why one fired or did not."),
    "doctor": ("doctor", "Check this set-up, and say what to do about what is not right."),
    "dashboards": ("dashboards", "Put Sentinel's dashboards into Grafana."),
    "drill": ("drill", "Train a small model, break it on purpose, and watch what is noticed."),
}


class _Commands(click.Group):
    """The commands, each in a module of its own."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """See `click.Group`."""
        return [*COMMANDS]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """See `click.Group`."""
        if cmd_name not in COMMANDS:
            return None
        module = import_module(f"sentinel.cli.{COMMANDS[cmd_name][0]}")
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """See `click.Group`; without importing any of them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=examples(
        "sentinel run -- torchrun --nproc-per-node 8 train.py",
        "sentinel drill nan  # watch it find one",
        "sentinel top",
    ),
)
@click.version_option(__version__, prog_name="sentinel")
def sentinel() -> None:
    """Watch large models while they train: find what went wrong, hold all ranks at one step,
    and let a person decide."""


def execute(arguments: Sequence[str] | None = None) -> int:
    """Run one command line; returns its exit status.

    0: done; 1: not done, with the reason on stderr; 2: used wrongly. `sentinel run` ends as the
    command that it ran.
    """
    try:
        status = sentinel.main(
            args=None if arguments is None else [*arguments],
            prog_name="sentinel",
            standalone_mode=False,
        )
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return 130
    except AddressError as error:
        return _complain(str(error), 2)
    except SentinelError as error:
        return _complain(str(error), 1)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _complain(f"{where}{error.strerror or error}", 1)
    return status if isinstance(status, int) else 0


def _complain(reason: str, status: int) -> int:
    with contextlib.suppress(OSError):
        print(f"sentinel: {reason}", file=sys.stderr)
    return status


def main() -> NoReturn:
    """The entry point."""
    sys.exit(execute())


if __name__ == "__main__":
    main()
